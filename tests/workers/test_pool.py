"""Loading keeps the order and every file, whatever a file does to the process that reads it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from poisons import SIZE, PoisonedReader

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import LoadedFile
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault, WorkerLimits

READER = PoisonedReader(b"/nowhere", Recipe(SIZE), ReadingOptions(), b"secret")
LIMITS = WorkerLimits(seconds=2.0, memory=256 << 20)


Portion = LoadedFile | pa.Table


class Heard(PoolListener[ArchiveFile]):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.again: list[int] = []
        self.gone: list[tuple[int, str]] = []
        self.fewer = 0

    def retried(self, pending: PendingItem[ArchiveFile]) -> None:
        """Note a second try."""
        self.again.append(pending.number)

    def lost(self, pending: PendingItem[ArchiveFile], fault: WorkerFault) -> None:
        """Note a culprit."""
        self.gone.append((pending.number, fault.outcome))

    def fewer_workers(self) -> None:
        """Count it."""
        self.fewer += 1


def load(
    names: Sequence[str],
    *,
    workers: int,
    ready: dict[int, pa.Table] | None = None,
    limits: WorkerLimits = LIMITS,
) -> tuple[list[Portion], Heard]:
    entries: list[PendingItem[ArchiveFile] | Portion] = [
        (ready or {}).get(number, PendingItem(number, ArchiveFile(name.encode(), number)))
        for number, name in enumerate(names)
    ]
    heard = Heard()
    with ReadingPool(
        READER, workers=workers, limits=limits, result_bytes=SIZE**2, listener=heard
    ) as pool:
        return list(pool.map(entries)), heard


def rows(portions: Sequence[Portion]) -> list[tuple[str, str]]:
    return [(row.path, row.outcome) for portion in portions for row in portion.rows]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_kept(workers: int) -> None:
    names = [f"{number:03d}" for number in range(200)]
    portions, heard = load(names, workers=workers)
    assert rows(portions) == [(name, "not_an_image") for name in names]
    assert [portion.inputs[0, 0, 0] for portion in portions] == list(range(200))
    assert heard.again == []


def test_files_are_read_in_order_too(tmp_path: Path) -> None:
    # Else the first scores wait for files far behind.
    notes = tmp_path / "notes"
    load([f"note {bytes(notes).hex()} {number}" for number in range(300)], workers=1)
    assert notes.read_text().split() == [str(number) for number in range(300)]


def test_who_stepped_aside_comes_back_before_others_begin(tmp_path: Path) -> None:
    made = str(tmp_path / "made").encode().hex()
    notes = tmp_path / "notes"
    names = [f"await {made}", *(f"{number}" for number in range(15)), f"make {made}"]
    names += [f"note {bytes(notes).hex()} later"] * 400
    entries = [
        PendingItem(number, ArchiveFile(name.encode(), 0)) for number, name in enumerate(names)
    ]
    limits = WorkerLimits(seconds=60, memory=LIMITS.memory)
    with ReadingPool(
        READER, workers=1, limits=limits, result_bytes=SIZE**2, listener=Heard()
    ) as pool:
        next(pool.map(entries))
        assert notes.read_text().split().count("later") < 100


def test_the_last_files_are_divided(tmp_path: Path) -> None:
    # Else one process has sixteen slow films to read, and the other none.
    made = str(tmp_path / "made").encode().hex()
    names = [f"await {made}", *(f"{number}" for number in range(14)), f"make {made}"]
    portions, heard = load(names, workers=2)
    assert rows(portions) == [(name, "not_an_image") for name in names]
    assert heard.gone == []


def test_large_files_wait_for_nobody_who_has_taken_them(tmp_path: Path) -> None:
    # Else sixteen films hang on the one before them, and one process reads the last ones alone.
    made = str(tmp_path / "made").encode().hex()
    names = [f"await {made}", f"make {made}", *(f"{number}" for number in range(98))]
    entries = [
        PendingItem(number, ArchiveFile(name.encode(), 5 << 20))
        for number, name in enumerate(names)
    ]
    heard = Heard()
    with ReadingPool(
        READER, workers=2, limits=LIMITS, result_bytes=SIZE**2, listener=heard
    ) as pool:
        assert rows(list(pool.map(entries))) == [(name, "not_an_image") for name in names]
    assert heard.again == []
    assert heard.gone == []


def test_crashes_cost_one_row_each() -> None:
    names = [f"{number:03d}" for number in range(120)]
    names[37], names[38], names[90] = "segfault-a", "abort-b", "segfault-c"
    portions, heard = load(names, workers=2)
    found = rows(portions)
    assert [path for path, _ in found] == names
    crashed = [number for number, (_, code) in enumerate(found) if code == "decoder_crashed"]
    assert crashed == sorted(heard.again) == [37, 38, 90]
    assert sorted(heard.gone) == [(number, "decoder_crashed") for number in crashed]
    assert sum(code == "not_an_image" for _, code in found) == 117


def test_what_is_too_large_beside_others_is_read_alone(tmp_path: Path) -> None:
    lock = bytes(tmp_path / "lock").hex()
    names = [f"crowd {lock} {number}" for number in range(60)]
    portions, heard = load(names, workers=3)
    assert rows(portions) == [(name, "not_an_image") for name in names]
    assert heard.gone == []
    assert heard.again


def test_fewer_work_after_several_kills_and_this_is_told_once() -> None:
    names = [f"{number:03d}" for number in range(300)]
    for number in (5, 100, 200, 290):
        names[number] = "kill"
    heard = Heard()
    entries = [
        PendingItem(number, ArchiveFile(name.encode(), 0)) for number, name in enumerate(names)
    ]
    with ReadingPool(
        READER, workers=4, limits=LIMITS, result_bytes=SIZE**2, listener=heard
    ) as pool:
        found = rows(list(pool.map(entries)))
        assert 1 <= pool._scheduler.slots < 4
    assert [path for path, _ in found] == names
    killed = [number for number, (_, code) in enumerate(found) if code == "reader_killed"]
    assert killed == sorted(heard.again) == [5, 100, 200, 290]
    assert heard.fewer == 1


def test_one_kill_changes_nothing_for_the_others() -> None:
    portions, heard = load([*"abcdefg", "kill", *"hijk"], workers=2)
    assert [code for _, code in rows(portions)].count("reader_killed") == 1
    assert heard.fewer == 0


def test_a_hang_costs_one_row() -> None:
    names = [f"{number:03d}" for number in range(40)]
    names[20] = "spin"
    portions, heard = load(names, workers=1)
    found = rows(portions)
    assert [path for path, _ in found] == names
    assert found[20][1] == "decoder_timeout"
    assert sum(code == "not_an_image" for _, code in found) == 39
    assert heard.gone == [(20, "decoder_timeout")]


def test_who_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    made = str(tmp_path / "made").encode().hex()
    # The one worker is free again for a file that is read far behind.
    names = [f"await {made}", *(f"{number:03d}" for number in range(40)), f"make {made}"]
    limits = WorkerLimits(seconds=60, memory=LIMITS.memory)
    portions, heard = load(names, workers=1, limits=limits)
    assert rows(portions) == [(name, "not_an_image") for name in names]
    assert heard.gone == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_ready_keeps_its_place(workers: int) -> None:
    finished = {number: pa.table({"a": [number]}) for number in (0, 5, *range(40, 80))}
    portions, _ = load([f"{number}" for number in range(90)], workers=workers, ready=finished)
    for number, portion in enumerate(portions):
        if number in finished:
            assert portion is finished[number]
        else:
            assert isinstance(portion, LoadedFile)
            assert portion.rows[0].path == f"{number}"


def test_an_end_in_the_middle_leaves_nothing_waiting() -> None:
    heard = Heard()
    entries = [
        PendingItem(number, ArchiveFile(name, 0)) for number, name in enumerate(_BEFORE_A_SLEEP)
    ]
    limits = WorkerLimits(seconds=600)
    with ReadingPool(
        READER, workers=2, limits=limits, result_bytes=SIZE**2, listener=heard
    ) as pool:
        first = next(pool.map(entries))  # both threads wait for a sleeper, or soon will
    assert rows([first]) == [("a", "not_an_image")]
    assert heard.again == []
    assert heard.gone == []


_BEFORE_A_SLEEP = [b"a"] * 16 + [b"sleep"] * 64


def test_a_thread_that_cannot_start_is_an_error_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Thread] = []
    start = Thread.start

    def start_two(thread: Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    forkserver = Forkserver()
    pool = ReadingPool(
        READER,
        workers=2,
        limits=LIMITS,
        result_bytes=SIZE**2,
        listener=Heard(),
        forkserver=forkserver,
    )
    monkeypatch.setattr(Thread, "start", start_two)
    with pytest.raises(CxrbatchError, match="new thread; try fewer --workers"), pool:
        raise AssertionError("it was entered")
    assert [thread.is_alive() for thread in started] == [False, False]
    assert forkserver._process.poll() is not None


def test_an_ended_pool_reads_no_more() -> None:
    with ReadingPool(
        READER, workers=1, limits=LIMITS, result_bytes=SIZE**2, listener=Heard()
    ) as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.map([PendingItem(0, ArchiveFile(b"0", 0))]))


_LEFT_OPEN = """
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerLimits
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.scoring.file_reader import FileReader

reader = FileReader(b"/nowhere", Recipe(32), ReadingOptions(), b"secret")
pool = ReadingPool(reader, workers=2, limits=WorkerLimits(), result_bytes=1024)
pool.__enter__()
print(len(list(pool.map(PendingItem(n, ArchiveFile(b"x", 0)) for n in range(20)))))
"""


def test_a_program_ends_that_leaves_a_pool_open() -> None:
    command = [sys.executable, "-c", _LEFT_OPEN]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "20\n", "")
