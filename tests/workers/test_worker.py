"""Whatever a function does to its process, the items around it have their results."""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import poisons
import pytest

from cxrbatch.sample.archive_writer import write_sample
from cxrbatch.workers import forkserver as child_side
from cxrbatch.workers import worker
from cxrbatch.workers.forkserver import UNKNOWN_STATUS, End
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

LIMITS = WorkerLimits(seconds=1.0, memory=256 << 20)


@pytest.fixture(scope="module")
def forkserver() -> Iterator[Forkserver]:
    forkserver = Forkserver()
    yield forkserver
    forkserver.close()


@pytest.fixture
def process(forkserver: Forkserver) -> Iterator[WorkerProcess]:
    process = WorkerProcess(forkserver, LIMITS)
    yield process
    process.close()


def children(pid: int) -> list[int]:
    """Living processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_child_has_what_it_needs_from_its_start(forkserver: Forkserver, tmp_path: Path) -> None:
    """Only a codec is loaded when it is needed: what else is, is loaded by every child anew."""
    write_sample(tmp_path)
    files = [str(path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    process = WorkerProcess(forkserver, WorkerLimits())
    found = list(process.map(poisons.loaded_by_reading, files))
    process.close()
    loaded = {name for names in found if not isinstance(names, WorkerFault) for name in names}
    assert not [fault for fault in found if isinstance(fault, WorkerFault)]
    codecs = {name for name in loaded if "imagecodecs" in name or "cython" in name}
    assert "imagecodecs" in codecs
    assert loaded == codecs


@pytest.mark.parametrize(
    ("poison", "outcome", "tries"),
    [
        ("segfault", "decoder_crashed", 2),
        ("abort", "decoder_crashed", 2),
        ("kill", "reader_killed", 2),
        ("exit", "decoder_crashed", 2),
        ("spin", "decoder_timeout", None),  # it depends on how much it could compute
        ("sleep", "decoder_timeout", 2),
        ("memory", "out_of_memory", 1),
        ("native memory", "out_of_memory", 1),
        ("panic", "corrupt", 1),
        ("lambda", "corrupt", 1),
    ],
)
def test_a_poison_costs_its_own_result_alone(
    process: WorkerProcess, poison: str, outcome: str, tries: int | None
) -> None:
    retried: list[int] = []
    results = list(process.map(poisons.swallow, ["a", "b", poison, "c"], retried=retried.append))
    fault = results[2]
    assert isinstance(fault, WorkerFault)
    assert fault.outcome == outcome
    assert "PATIENT" not in fault.detail
    assert [results[0], results[1], results[3]] == ["aa", "bb", "cc"]
    assert tries is None or retried == [2] * (tries - 1)
    assert list(process.map(poisons.swallow, ["d"])) == ["dd"]


def test_what_only_came_from_outside_is_not_held_against_a_file(process: WorkerProcess) -> None:
    results = list(process.map(poisons.swallow, ["kill", "segfault", "spin"]))
    assert [fault.lasting for fault in results if isinstance(fault, WorkerFault)] == [
        False,
        True,
        True,
    ]


def test_what_was_killed_once_has_its_result(process: WorkerProcess, tmp_path: Path) -> None:
    retried: list[int] = []
    killed = f"kill_once {bytes(tmp_path / 'mark').hex()}"
    items = ["a", killed, "b"]
    assert list(process.map(poisons.swallow, items, retried=retried.append)) == [
        item * 2 for item in items
    ]
    assert retried == [1]
    assert process.kills == 1


def test_a_kill_counts_only_where_no_other_reads(
    process: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try ends by a crash, the second beside others by a kill: there is a third."""
    tries: list[bool] = []
    attempt = process._attempt

    def noted(
        function: Callable[[str], object], items: list[str], *, alone: bool = False
    ) -> Iterator[object]:
        tries.append(alone)
        return attempt(function, items, alone=alone)

    monkeypatch.setattr(process, "_attempt", noted)
    (fault,) = process.map(poisons.swallow, [f"abort_kill {bytes(tmp_path / 'mark').hex()}"])
    assert isinstance(fault, WorkerFault)
    assert fault.outcome == "reader_killed"
    assert tries == [False, False, True]


def test_where_the_system_counts_its_kills_memory_is_the_cause(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([5, 5, 6])
    monkeypatch.setattr(worker, "_oom_kills", lambda: next(counts))
    (fault,) = process.map(poisons.swallow, ["kill"])
    assert isinstance(fault, WorkerFault)
    assert (fault.outcome, fault.lasting) == ("out_of_memory", False)


def test_the_kills_of_the_system_can_be_read() -> None:
    counted = Path("/proc/vmstat")
    if not (counted.exists() and "\noom_kill " in counted.read_text()):
        pytest.skip("this system does not count them")
    assert worker._oom_kills() == int(
        dict(line.split() for line in counted.read_text().splitlines())["oom_kill"]
    )


def test_only_what_computed_all_the_time_has_had_its_chance() -> None:
    assert worker._timeout(LIMITS, worked=0.9).certain
    assert not worker._timeout(LIMITS, worked=0.1).certain


def test_an_image_gets_the_memory_that_its_claim_explains(forkserver: Forkserver) -> None:
    process = WorkerProcess(forkserver, WorkerLimits(seconds=60.0, memory=64 << 30))
    (fault,) = process.map(poisons.swallow, ["claim a little and eat"])
    assert isinstance(fault, WorkerFault)
    assert fault.outcome == "out_of_memory"
    assert "256 MiB" in fault.detail


def test_what_an_earlier_item_took_is_not_held_against_a_later_one(
    process: WorkerProcess,
) -> None:
    results = list(process.map(poisons.swallow, ["fill much", "segfault"]))
    assert isinstance(results[1], WorkerFault)
    assert results[1].outcome == "decoder_crashed"


def test_many_poisons_in_a_row(process: WorkerProcess) -> None:
    results = list(process.map(poisons.swallow, ["segfault", "a", "abort", "abort", "b"]))
    assert [isinstance(result, WorkerFault) for result in results] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_any_order_of_poisons(process: WorkerProcess) -> None:
    """Results wait for others, and go with the process that the next item ends."""
    rng = random.Random(5)
    for _ in range(8):
        items = rng.choices(["a", "b", "pause", "panic", "segfault"], [8, 8, 2, 2, 1], k=16)
        retried: list[int] = []
        results = list(process.map(poisons.swallow, items, retried=retried.append))
        assert len(results) == len(items)
        for item, result in zip(items, results, strict=True):
            outcome = {"panic": "corrupt", "segfault": "decoder_crashed"}.get(item)
            if outcome is None:
                assert result == item * 2
            else:
                assert isinstance(result, WorkerFault)
                assert result.outcome == outcome
        assert retried == [i for i, item in enumerate(items) if item == "segfault"]


def test_a_second_try_is_in_a_process_of_its_own(process: WorkerProcess) -> None:
    retried: list[int] = []
    items = ["a", "taint", "crash if tainted", "b"]
    assert list(process.map(poisons.swallow, items, retried=retried.append)) == [
        item * 2 for item in items
    ]
    assert retried == [2]


def test_what_is_overdue_is_ended_before_others_are_waited_for(forkserver: Forkserver) -> None:
    """Else it would go on, and an item that begins meanwhile would be taken for the late one."""

    has_ended: list[bool] = []

    @contextmanager
    def without_slot() -> Iterator[None]:
        (child,) = children(forkserver._process.pid)
        yield
        has_ended.append(child not in children(forkserver._process.pid))

    process = WorkerProcess(forkserver, LIMITS, without_slot=without_slot)
    results = list(process.map(poisons.swallow, ["a", "sleep", "b"]))
    process.close()
    assert has_ended == [True, True]  # at the first try and at the second
    assert [isinstance(result, WorkerFault) for result in results] == [False, True, False]


def test_the_item_is_known_of_a_child_that_cannot_be_ended(
    process: WorkerProcess, forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = forkserver.end
    monkeypatch.setattr(forkserver, "end", lambda pid: End(UNKNOWN_STATUS, begun=end(pid).begun))
    retried: list[int] = []
    items = ["a", "b", "sleep", "c"]
    results = list(process.map(poisons.swallow, items, retried=retried.append))
    assert [isinstance(result, WorkerFault) for result in results] == [False, False, True, False]
    assert retried == [2]


def test_what_a_child_began_outlasts_a_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = child_side._Ledger(1 << 30)
    ledger._shared[:] = child_side._ENTRIES.pack(3, 0, 0, 0.0)
    child = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(os, "wait4", lambda pid, options: (0, 0, None))
    assert child_side._end(child.pid, ledger) == End(UNKNOWN_STATUS, begun=3)
    assert child.wait() == -signal.SIGKILL


def test_the_result_of_a_slow_item_is_told_at_once(process: WorkerProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    awaiting = f"await {bytes(gate).hex()}"
    results = process.map(poisons.swallow, ["pause", awaiting])
    assert next(results) == "pausepause"
    gate.touch()
    assert next(results) == awaiting * 2


def test_a_child_that_ends_between_two_calls_costs_no_result(process: WorkerProcess) -> None:
    assert list(process.map(poisons.swallow, ["a", "b", "c"])) == ["aa", "bb", "cc"]
    assert process._child is not None
    os.kill(process._child[0], signal.SIGKILL)
    assert list(process.map(poisons.swallow, ["d", "e"])) == ["dd", "ee"]


def test_children_print_nothing(process: WorkerProcess, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(process.map(poisons.swallow, ["print"])) == ["printprint"]
    assert capfd.readouterr() == ("", "")


def test_an_end_of_the_nursery_is_survived() -> None:
    forkserver = Forkserver()
    process = WorkerProcess(forkserver, LIMITS)
    assert list(process.map(poisons.swallow, ["a"])) == ["aa"]
    os.kill(forkserver._process.pid, signal.SIGKILL)
    assert list(process.map(poisons.swallow, ["b", "c"])) == ["bb", "cc"]
    process.close()
    forkserver.close()


def test_nothing_is_left_running() -> None:
    forkserver = Forkserver()
    process = WorkerProcess(forkserver, LIMITS)
    list(process.map(poisons.swallow, ["segfault", "a"]))
    pid = forkserver._process.pid
    (child,) = children(pid)
    forkserver.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert child not in children(os.getpid()) + children(1)
    process.close()


def test_signals_of_a_whole_group_end_no_child(
    process: WorkerProcess, forkserver: Forkserver
) -> None:
    list(process.map(poisons.swallow, ["a"]))
    for pid in [forkserver._process.pid, *children(forkserver._process.pid)]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    retried: list[int] = []
    assert list(process.map(poisons.swallow, ["b"], retried=retried.append)) == ["bb"]
    assert retried == []
