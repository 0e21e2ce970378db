"""Ctrl-C and SIGTERM at random moments of whole runs, start-up included.

Shows, each time: the end within 5 s, exit 130 or 143, the command that goes on, no traceback, no
process left; and that a second signal ends at once. At the end the run is gone on with and its
table compared with that of an unbroken run.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from runs import Run, check, start_fresh, write_checkpoint, write_films

_MOST_SECONDS = 5.0
_AT_ONCE = 1.0


def interrupt(run: Run, number: int, output: Path, *, group: bool, twice: bool) -> float | None:
    """Signal a run and check its end; gives the seconds that it took, None if it had ended."""
    begun = time.monotonic()
    for _ in range(1 + twice):
        if group:
            run.signal_group(number)
        else:
            os.kill(run.pid, number)
        if twice:
            time.sleep(0.05)
    run.wait()
    took = time.monotonic() - begun
    text = run.log.read_text()
    if output.exists():  # its table was in place: there was nothing to interrupt
        output.unlink()
        return None
    check(run.code == 128 + number, f"exit {run.code} after signal {number}: {text[-300:]}")
    check(took < (_AT_ONCE if twice else _MOST_SECONDS), f"the end took {took:.1f} s")
    check("Traceback" not in text and "Exception ignored" not in text, f"a traceback: {text}")
    check(twice or "with: cxrbatch score" in text, f"no command that goes on: {text!r}")
    # The system ends the readers when their parent is gone; this is what it is given for that.
    time.sleep(0.2)
    check(not run.left_behind(), f"left behind: {run.left_behind()}")
    return took


def main() -> None:
    """Interrupt, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        write_films(folder / "archive", options.files, seed=options.seed)
        words = ["score", str(folder / "archive"), "--workers", "2", "--batch-size", "8"]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        words += ["--commit-every", "50", "-o"]
        whole = start_fresh([*words, str(folder / "whole.parquet")], folder / "log")
        check(whole.wait() == 0, "the unbroken run")
        duration = time.monotonic() - whole.started
        took: list[float] = []
        output = folder / "r.parquet"
        for number in (signal.SIGINT, signal.SIGTERM):
            for twice in (False, True):
                for _ in range(options.moments if not twice else 2):
                    run = start_fresh([*words, str(output)], folder / "log")
                    # From half a second on: before, it is Python that starts, not the program.
                    time.sleep(chance.uniform(0.5, duration * 0.8))
                    if run.poll() is None:
                        group = chance.random() < 0.5
                        seconds = interrupt(run, number, output, group=group, twice=twice)
                        took += [] if seconds is None else [seconds]
                    else:
                        check(run.code == 0, f"a run ended with {run.code}")
                        output.unlink()
        check(start_fresh([*words, str(output)], folder / "log").wait() == 0, "going on")
        same = output.read_bytes() == (folder / "whole.parquet").read_bytes()
        check(same, "the table differs from that of an unbroken run")
    print(
        f"{len(took)} interruptions of a run of {duration:.1f} s: the end took {max(took):.2f} s "
        f"at most (limit {_MOST_SECONDS:.0f}), exit codes, command and silence right each time, "
        "processes left 0, final table byte-identical"
    )


if __name__ == "__main__":
    main()
