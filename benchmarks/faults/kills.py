"""Runs killed at a random moment, all processes at once, and gone on with until they are done.

Shows: rows lost 0, rows doubled 0, the table byte-identical to that of an unbroken run, and
nothing repeated that was on the disk: at most the one shard that was being made.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from runs import Run, check, start, write_checkpoint, write_films


def last_done(run: Run) -> int:
    """Files that the run knew to be on the disk."""
    return max((event["done"] for event in run.events() if "done" in event), default=0)


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--shard", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        for path in write_films(folder / "archive", options.files, seed=options.seed)[::23]:
            path.write_bytes(path.read_bytes()[:80])
        words = ["score", str(folder / "archive"), "--workers", str(options.workers)]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        words += ["--batch-size", "8", "--commit-every", str(options.shard)]
        words += ["--log-format", "json", "-o"]
        whole = folder / "whole.parquet"
        begun = time.monotonic()
        check(start([*words, str(whole)], folder / "log").wait() == 3, "the unbroken run")
        duration = time.monotonic() - begun
        expected, kills = whole.read_bytes(), 0
        for number in range(options.runs):
            output, partial = folder / "r.parquet", folder / "r.parquet.partial"
            done, was_killed = 0, False
            while True:
                run = start([*words, str(output)], folder / "log")
                moment = chance.uniform(0, duration * 1.1)
                # After its kills a run is left to end, or a benchmark would not.
                may_end = was_killed and chance.random() < 0.5
                while run.poll() is None and (may_end or time.monotonic() - run.started < moment):
                    time.sleep(0.002)
                if run.poll() is not None:
                    check(run.code == 3, f"run {number} ended with {run.code}")
                    break
                run.signal_group(signal.SIGKILL)
                run.wait()
                kills, was_killed = kills + 1, True
                if not (partial / "run.json").exists() and output.exists():
                    check(output.read_bytes() == expected, "it was killed after its work")
                    continue
                on_disk = len(list(partial.glob("shard-*.arrow"))) * options.shard
                check(last_done(run) <= on_disk, "a committed shard was not on the disk")
                if run.events():  # else it ended before it had looked
                    check(last_done(run) >= done, "a shard that was done was lost")
                    done = last_done(run)
            table = pq.read_table(output, columns=["path"])["path"].to_pylist()
            check(len(table) == options.files, f"run {number} has {len(table)} rows")
            check(len(set(table)) == options.files, f"run {number} has doubled rows")
            check(output.read_bytes() == expected, f"run {number} has other bytes")
            check(not partial.exists(), "a partial folder is left")
            output.unlink()
        shutil.rmtree(folder / "archive")
    print(
        f"{options.runs} runs of {options.files} files, killed {kills} times in all (unbroken "
        f"{duration:.1f} s): rows lost 0, doubled 0, tables byte-identical {options.runs}, "
        f"committed shards repeated 0"
    )


if __name__ == "__main__":
    main()
