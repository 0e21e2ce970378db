"""A million files: how fast the walk is, how flat the memory, how quick a run that is finished.

The archive is hard links to a few thousand small files, films and notes. Memory is the
proportional set size of all processes of the run, sampled while it lasts, against that of a run
over 10,000 files.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from runs import Run, check, link_many, start_fresh, write_checkpoint, write_small

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory import group_memory

from cxrbatch.results.table import open_table

_FEW = 10_000
_LEAST_RATE = 20_000
_MOST_GROWTH = 150e6
_MOST_NO_OP = 60.0


def watch(run: Run, limit: float) -> tuple[float, float, float]:
    """Follow a run: seconds until scoring began, seconds in all, peak memory in bytes."""
    begun, walked, peak = time.monotonic(), 0.0, 0.0
    while run.poll() is None:
        if not walked and any(event["event"] == "started" for event in run.events()[:1]):
            walked = time.monotonic() - begun
        peak = max(peak, group_memory(run.pid))
        check(time.monotonic() - begun < limit, f"the run takes more than {limit:.0f} s")
        time.sleep(0.2)
    check(run.code == 0, f"the run ended with {run.code}: {run.log.read_text()[-300:]}")
    return walked, time.monotonic() - begun, peak


def main() -> None:
    """Score few and many files, then many once more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--different", type=int, default=2000)
    parser.add_argument("--films-in-100", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds that a run may take")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        files = write_small(
            folder / "small",
            options.different,
            films_in_100=options.films_in_100,
            seed=options.seed,
        )
        checkpoint = write_checkpoint(folder / "tiny.safetensors")
        figures = []
        for count in (_FEW, options.files):
            link_many(folder / f"{count}", files, count)
            words = ["score", str(folder / f"{count}"), "--workers", str(options.workers)]
            words += ["-o", str(folder / f"{count}.parquet"), "--checkpoint", str(checkpoint)]
            words += ["--log-format", "json"]
            run = start_fresh(words, folder / "log")
            figures.append(watch(run, options.limit))
            print(
                f"{count} files: {figures[-1][1]:.0f} s, {figures[-1][2] / 1e6:.0f} MB", flush=True
            )
        # The start of the program and the model's loading are in both, so they drop out.
        rate = (options.files - _FEW) / (figures[1][0] - figures[0][0])
        growth = figures[1][2] - figures[0][2]
        _, again, peak = watch(start_fresh(words, folder / "log"), _MOST_NO_OP)
        begun = time.monotonic()
        rows = open_table(folder / f"{options.files}.parquet").rows
        opened = time.monotonic() - begun
        check(rows == options.files, f"{rows} rows")
    print(
        f"walk and manifest {rate:,.0f} files/s (limit {_LEAST_RATE:,}), peak memory "
        f"{growth / 1e6:+.0f} MB against {_FEW:,} files (limit 150), the finished run again "
        f"{again:.1f} s with {peak / 1e6:.0f} MB, {again / figures[1][1]:.2%} of the run, "
        f"table opened in {opened * 1000:.0f} ms"
    )
    check(rate >= _LEAST_RATE, "the walk is too slow")
    check(growth <= _MOST_GROWTH, "memory is not flat")


if __name__ == "__main__":
    main()
