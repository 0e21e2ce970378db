"""Commands where the system limits memory or threads: one line that names the limit."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from cxrbatch import cli

Install = Callable[[Callable[..., object]], None]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "error: memory ran out: memory is limited to 3000 MiB; raise the limit"),
        (ImportError("x.so: failed to map"), "error: x.so: failed to map: memory is limited to"),
        (RuntimeError("can't start new thread"), "can't start new thread: memory is limited to"),
        (RuntimeError("mmap: Cannot allocate memory (12)"), "(12): memory is limited to"),
    ],
)
def test_what_a_limit_of_memory_does_is_told_with_the_limit(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def fail() -> None:
        raise error

    install(fail)
    monkeypatch.setattr(cli, "_memory_limit", lambda: 3000 << 20)
    assert cli.main(["probe"]) == 1
    printed = capsys.readouterr().err
    assert line in printed
    assert "(ulimit -v or -d)" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(MemoryError(), "fewer --workers"), (RuntimeError("can't start new thread"), "(ulimit -u)")],
)
def test_without_a_limit_too_memory_and_threads_may_run_out(
    install: Install, capsys: pytest.CaptureFixture[str], error: Exception, remedy: str
) -> None:
    def fail() -> None:
        raise error

    install(fail)
    assert cli.main(["probe"]) == 1
    assert remedy in capsys.readouterr().err


def test_a_fault_of_the_program_is_no_matter_of_a_limit(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    install(fail)
    monkeypatch.setattr(cli, "_memory_limit", lambda: 3000 << 20)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["probe"])


@pytest.mark.parametrize("kib", [300_000, 600_000])
def test_too_little_memory_for_the_libraries_is_one_line(kib: int) -> None:
    command = ["sh", "-c", f'ulimit -v {kib} && exec "$@"', "sh", sys.executable, "-P"]
    done = subprocess.run(
        [*command, "-m", "cxrbatch", "inspect", __file__], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(" (ulimit -v or -d)\n")
    assert done.stderr.count("\n") == 1
