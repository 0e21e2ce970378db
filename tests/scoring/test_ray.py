"""Shards scored by Ray's actors become the local engine's table, whatever happens to processes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbatch.files import partial_folder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: cxrbatch[ray]"
)

FILES, SHARD = 320, 8
SEGFAULT, SPIN, EAT = 1001, 1002, 1003
POISONS = {SEGFAULT: "decoder_crashed", SPIN: "decoder_timeout", EAT: "out_of_memory"}
PATIENT = "DOE^JANE"

# The interpreter imports it from PYTHONPATH; it makes the PNG decoder a broken one.
HOOK = f"""
import sys
if {{where!r}} in " ".join(sys.orig_argv):
    import ctypes
    import imagecodecs
    decode = imagecodecs.png_decode
    def poisoned(data, *arguments, **named):
        width, held = int.from_bytes(bytes(data[16:20]), "big"), []
        if width == {SEGFAULT}:
            ctypes.string_at(0)
        while width in {{endless!r}}:
            if width == {EAT}:
                held.append(bytearray(b"1") * (1 << 24))
        return decode(data, *arguments, **named)
    imagecodecs.png_decode = poisoned
"""


def write_hook(folder: Path, *, where: str, endless: tuple[int, ...]) -> Path:
    """Make the decoder a broken one in processes whose command line has a word."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.format(where=where, endless=endless))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, of which many are one, and what spoils a run."""
    folder = tmp_path_factory.mktemp("ray") / "archive"
    chance = np.random.default_rng(3)
    for number in range(40):
        film = folder / f"{number:02d}" / "film.png"
        film.parent.mkdir(parents=True)
        pixels = chance.integers(0, 256, (60 + number, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(film)
        for copy in range(FILES // 40 - 1):
            os.link(film, film.with_name(f"copy{copy:03d}.png"))
    for place, width in enumerate(POISONS):
        Image.fromarray(np.zeros((9, width), np.uint8)).save(folder / f"{9 * place:02d}/poison.png")
    cut = (folder / "05/film.png").read_bytes()[:60]
    (folder / "05" / f"{PATIENT}.png").write_bytes(cut)
    (folder / "31" / "note").write_text("a note")
    return folder


def shards_of(output: Path) -> list[Path]:
    """Those that are on the disk."""
    return list(partial_folder(output).glob("shard-*.arrow"))


# The collector runs where Ray's native part has ended and its Python part has not: a thread that
# lets go of one of Ray's objects there ends the process, and it may be the one. And told is what
# threads there are that were not when Ray had been started; and, where one is asked for, a signal
# comes when the table is put in its place.
LATE_HOOK = """
import sys
if "cxrbatch" in sys.orig_argv:
    import gc, os, signal, threading
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    import ray
    from ray._private.worker import Worker
    init, shutdown, before = ray.init, ray.shutdown, set()
    def begin(*arguments, **named):
        init(*arguments, **named)
        before.update(threading.enumerate())
    def end():
        with open("threads", "w") as file:
            file.writelines(thread.name for thread in {*threading.enumerate()} - before)
        shutdown()
    def late(worker, name):
        if name == "core_worker":
            gc.collect()
        object.__delattr__(worker, name)
    def at_last(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("r.parquet"):
            if os.path.exists("signal"):
                os.kill(os.getpid(), signal.SIGTERM)
    ray.init, ray.shutdown, Worker.__delattr__ = begin, end, late
    sys.addaudithook(at_last)
"""


class Run:
    """A run of the command in a session of its own."""

    def __init__(self, words: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.err = folder / "err"
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cxrbatch", *words],
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            )

    def wait(self) -> int:
        return self.process.wait(600)

    def until(self, holds: Callable[[], object]) -> None:
        """Wait for a moment of the run."""
        deadline = time.monotonic() + 600
        while not holds():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.01)

    def until_shards(self, output: Path, count: int) -> None:
        """Wait until so many shards are on the disk."""
        self.until(lambda: len(shards_of(output)) >= count)

    def events(self) -> list[dict[str, object]]:
        """All of stderr, which holds events alone, without their times."""
        events = [json.loads(line) for line in self.err.read_text().splitlines()]
        return [{key: event[key] for key in event if key != "time"} for event in events]

    def below(self) -> dict[int, str]:
        """Its processes, with the words that they were called with."""
        parents, words = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
                words[int(stat.parent.name)] = (stat.parent / "cmdline").read_text()
            except OSError:
                continue
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: words[pid] for pid in found if pid in words}

    def actors(self) -> list[int]:
        return [pid for pid, words in self.below().items() if "ShardScorer" in words]


def told(events: list[dict[str, object]]) -> list[str]:
    """What is told whatever the order of shards, and however busy a spinner kept its core."""
    kinds = ("started", "file_failed", "finished")
    return sorted(json.dumps(event) for event in events if event["event"] in kinds)


def all_gone(processes: dict[int, str]) -> bool:
    """Whether processes end soon; a zombie has ended.

    Agents of Ray's that have lost it look for it a minute long before they do.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        living = []
        for pid in processes:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state not in "ZX" and Path(f"/proc/{pid}/cmdline").read_text() == processes[pid]:
                living.append(pid)
        if not living:
            return True
        time.sleep(0.05)
    return False


Begin = Callable[..., Run]
Outcome = tuple[bytes, list[dict[str, object]]]


@pytest.fixture(scope="module")
def begin(
    archive: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begin]:
    """Begins a run over the archive, with one secret and one broken decoder for all."""
    home = tmp_path_factory.mktemp("home")
    hook = write_hook(home / "hook", where="forkserver.serve", endless=(SPIN, EAT))
    runs: list[Run] = []

    def run(output: Path, engine: str, *, hooked: Path = hook, workers: int = 2) -> Run:
        for earlier in runs:
            earlier.process.kill()  # of a test that failed
        words = ["score", str(archive), "-o", str(output), "--checkpoint", str(tiny_checkpoint)]
        words += ["--commit-every", str(SHARD), "--batch-size", "8", "--deadline", "4"]
        words += ["--device", "cpu", "--precision", "fp32", "--workers", str(workers)]
        words += ["--log-format", "json", "--engine", engine]
        variables = {"PYTHONPATH": str(hooked), "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        runs.append(Run(words, output.parent, variables))
        return runs[-1]

    yield run
    for last in runs:
        last.process.kill()
        last.wait()


@pytest.fixture(scope="module")
def local(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Table and events of the local engine."""
    output = tmp_path_factory.mktemp("local") / "r.parquet"
    run = begin(output, "local")
    assert run.wait() == 3
    rows = pq.read_table(output, columns=["path", "outcome"]).to_pylist()
    outcomes = {row["path"]: row["outcome"] for row in rows}
    for place, outcome in enumerate(POISONS.values()):
        assert outcomes[f"{9 * place:02d}/poison.png"] == outcome
    return output.read_bytes(), run.events()


def test_a_whole_run_is_the_local_engines(begin: Begin, local: Outcome, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('code of an archive was run')")
    run = begin(tmp_path / "r.parquet", "ray", workers=1)
    run.until(lambda: len(run.actors()) == 2)
    processes = run.below()
    (raylet,) = [words for words in processes.values() if "raylet/raylet" in words]
    session = Path(raylet.partition("--session_dir=")[2].partition("\0")[0])
    assert run.wait() == 3
    assert (tmp_path / "r.parquet").read_bytes() == local[0]
    assert told(run.events()) == told(local[1])
    assert all_gone(processes)
    assert not partial_folder(tmp_path / "r.parquet").exists()
    logs = [path for path in session.rglob("*") if path.is_file()]
    assert logs
    for path in logs:
        assert PATIENT.encode() not in path.read_bytes()


def test_actors_that_are_killed_lose_and_double_nothing(
    begin: Begin, local: Outcome, tmp_path: Path
) -> None:
    output = tmp_path / "r.parquet"
    run, killed = begin(output, "ray", workers=1), 0
    for shards in (2, 6, 10, 14):
        run.until_shards(output, shards)
        run.until(run.actors)
        for pid in run.actors()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    assert run.wait() == 3
    assert killed == 4
    assert output.read_bytes() == local[0]
    done = [event["done"] for event in run.events() if event["event"] == "shard_done"]
    assert done[-1] == max(done)
    assert len(done) == len(set(done)) == -(-done[-1] // SHARD)


def test_a_driver_that_is_killed_is_gone_on_from_by_either_engine(
    begin: Begin, local: Outcome, tmp_path: Path
) -> None:
    output = tmp_path / "r.parquet"
    for shards in (3, 8):
        run = begin(output, "ray")
        run.until_shards(output, shards)
        processes = run.below()
        run.process.kill()
        assert run.wait() == -signal.SIGKILL
        assert not output.exists()
        assert all_gone(processes)
    on_disk = len(shards_of(output))
    run = begin(output, "local")
    assert run.wait() == 3
    assert run.events()[0] == {
        "event": "resumed",
        "files": local[1][0]["files"],
        "done": on_disk * SHARD,
    }
    assert output.read_bytes() == local[0]


@pytest.fixture
def late(tmp_path: Path) -> Path:
    """A hook for Ray's end."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(LATE_HOOK)
    return hook


def test_nothing_of_rays_is_held_when_ray_ends(begin: Begin, tmp_path: Path, late: Path) -> None:
    run = begin(tmp_path / "r.parquet", "ray", hooked=late)
    assert run.wait() == 3, run.err.read_text()
    assert run.events()[-1]["event"] == "finished"
    assert (tmp_path / "threads").read_text() == ""


def test_a_signal_after_rays_end_is_told(begin: Begin, tmp_path: Path, late: Path) -> None:
    (tmp_path / "signal").touch()
    run = begin(tmp_path / "r.parquet", "ray", hooked=late)
    assert run.wait() == 128 + signal.SIGTERM, run.err.read_text()
    assert run.events()[-1]["event"] == "interrupted"


@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_ends_it_in_order(begin: Begin, tmp_path: Path, late: Path, to_all: bool) -> None:
    output = tmp_path / "r.parquet"
    run = begin(output, "ray", hooked=late)
    run.until_shards(output, 2)
    processes = run.below()
    number = signal.SIGINT if to_all else signal.SIGTERM
    (os.killpg if to_all else os.kill)(run.process.pid, number)
    assert run.wait() == 128 + number, run.err.read_text()
    assert run.events()[-1]["event"] == "interrupted"
    assert (tmp_path / "threads").read_text() == ""
    assert all_gone(processes)
    assert not output.exists()


def test_an_actor_that_dies_of_every_try_is_given_up(begin: Begin, tmp_path: Path) -> None:
    hook = write_hook(tmp_path / "hook", where="default_worker.py", endless=())
    output = tmp_path / "r.parquet"
    run = begin(output, "ray", hooked=hook, workers=0)
    assert run.wait() == 1
    (line,) = [line for line in run.err.read_text().splitlines() if not line.startswith("{")]
    assert line.startswith("error: Ray lost its scoring processes")
    assert shards_of(output)
