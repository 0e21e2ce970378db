"""A long run: the slope of its memory, its file descriptors, and what it leaves behind.

Sampled over all processes of the run between its first tenth and its end.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from runs import check, link_many, start_fresh, write_checkpoint, write_small

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory import group_memory

_MOST_SLOPE = 5e6


def open_descriptors(group: int) -> int:
    """File descriptors of all processes of a group."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(process.name)) == group:
                total += len(os.listdir(process / "fd"))
    return total


def main() -> None:
    """Run, sample, fit a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--different", type=int, default=2000)
    parser.add_argument("--films-in-100", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary = folder / "tmp"
        temporary.mkdir()
        files = write_small(
            folder / "small",
            options.different,
            films_in_100=options.films_in_100,
            seed=options.seed,
        )
        link_many(folder / "archive", files, options.files)
        words = ["score", str(folder / "archive"), "--workers", str(options.workers)]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        words += ["--log-format", "json", "-o", str(folder / "r.parquet")]
        variables = {"TMPDIR": str(temporary), "XDG_CONFIG_HOME": str(folder / "config")}
        run = start_fresh(words, folder / "log", variables=variables)
        done, memory, descriptors = [], [], []
        while run.poll() is None:
            counts = [event["done"] for event in run.events() if "done" in event]
            if counts and options.files / 10 < counts[-1] < options.files:
                done.append(counts[-1])
                memory.append(group_memory(run.pid))
                descriptors.append(open_descriptors(run.pid))
            time.sleep(0.5)
        check(run.code == 0, f"the run ended with {run.code}")
        left = [path.name for path in temporary.iterdir()]
        left += [path.name for path in folder.iterdir() if "partial" in path.name]
    slope, opened = (
        float(np.polyfit(done, samples, 1)[0]) * 100_000 for samples in (memory, descriptors)
    )
    print(
        f"{options.files} files, {len(done)} samples: memory {slope / 1e6:+.2f} MB per 100,000 "
        f"files (limit 5), descriptors {min(descriptors)} to {max(descriptors)} "
        f"({opened:+.2f}), left behind {left}"
    )
    check(slope <= _MOST_SLOPE, "memory grows")
    check(abs(opened) < 1, "descriptors are not flat")
    check(not left, "files are left behind")


if __name__ == "__main__":
    main()
