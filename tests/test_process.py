"""A standard stream that is closed when a process starts is the null device from then on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

CLOSED = range(1, 8)
"""Sets of closed streams: bit N stands for descriptor N."""

USE = """
import os, subprocess, sys
from cxrbatch.process import open_standard_streams
open_standard_streams()
numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
sys.stdin.read()
print("\\udcff × 胸部", flush=True)
print("\\udcff × 胸部", file=sys.stderr, flush=True)
child = "import os, sys; sys.exit(sys.stderr is None or sys.stdout is None or sys.stdin is None)"
code = subprocess.run([sys.executable, "-c", child]).returncode
open(sys.argv[1], "w").write(f"{numbers} {code} {os.open(os.devnull, os.O_RDONLY) > 2}")
"""

READ = """
import sys
from cxrbatch.workers.worker import WorkerProcess, WorkerLimits
from cxrbatch.workers.forkserver_client import Forkserver

forkserver = Forkserver()
read = list(WorkerProcess(forkserver, WorkerLimits()).map(str.upper, ["a", "b"]))
forkserver.close()
open(sys.argv[1], "w").write(repr(read))
"""


def run_closed(closed: int, *words: str | Path) -> int:
    """Run Python with those standard streams closed whose bits are set; gives the exit code."""
    ends = " ".join(f"{number}>&-" for number in range(3) if closed & 1 << number)
    command = ["sh", "-c", f'exec "$@" {ends}', "sh", sys.executable, "-P", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:replace"}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        timeout=120,
    ).returncode


@pytest.mark.parametrize("closed", CLOSED)
def test_all_streams_can_be_used_and_inherited(tmp_path: Path, closed: int) -> None:
    assert run_closed(closed, "-c", USE, tmp_path / "out") == 0
    assert (tmp_path / "out").read_text() == "[0, 1, 2] 0 True"


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_that_prints_ends_well(closed: int) -> None:
    assert run_closed(closed, "-m", "cxrbatch", "--version") == 0


@pytest.mark.parametrize("closed", [0b100, 0b111])
def test_reading_processes_work_in_a_program_without_streams(tmp_path: Path, closed: int) -> None:
    """Else their sockets get the numbers of streams, are lost, and each file seems to crash."""
    assert run_closed(closed, "-c", READ, tmp_path / "out") == 0
    assert (tmp_path / "out").read_text() == "['A', 'B']"


def test_a_run_without_streams_makes_the_table(
    tmp_path: Path,
    tiny_checkpoint: Path,
    write_png: Callable[[Path, np.ndarray], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for number in range(3):
        film = np.random.default_rng(number).integers(0, 256, (80, 70), dtype=np.uint8)
        write_png(tmp_path / "archive" / f"{number}.png", film)
    words = ["score", tmp_path / "archive", "--checkpoint", tiny_checkpoint, "--workers", "2"]
    assert run_closed(0b111, "-m", "cxrbatch", *words, "-o", tmp_path / "r.parquet") == 0
    outcomes = pq.read_table(tmp_path / "r.parquet", columns=["outcome"])["outcome"].to_pylist()
    assert outcomes == ["scored"] * 3


_FAULTS = """
import resource, sys
import numpy as np
from cxrbatch.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def touch():
    np.ones(1 << 26, dtype=np.uint8)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of eight rounds of 64 MB, after a first one."""
    run = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def test_large_blocks_are_reused() -> None:
    assert faults("keep") < faults("return") / 4
