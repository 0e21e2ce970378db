"""What the shards cost: against one shard for all, and when a run goes on.

Processor seconds of the run and of all its processes are compared, not the clock: they hang less on
what else the machine does. Of some runs of each kind, taken in turn, the least counts.
"""

import argparse
import os
import resource
import signal
import tempfile
import time
from pathlib import Path

from runs import check, link_many, start, write_checkpoint, write_films

from cxrbatch.scoring.plan import FaultLog, load_plan, shard_path
from cxrbatch.scoring.table_writer import shard_holds

_MOST_FOR_COMMITS, _MOST_FOR_GOING_ON = 0.02, 0.01


def processor_seconds(words: list[str], log: Path) -> float:
    """Processor seconds of a run to its end."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    check(start(words, log).wait(1200) == 0, "a run")
    return used() - before


def seconds_to_go_on(folder: Path) -> float:
    """Seconds that a run spends on what is there, before it reads its first file."""
    begun = time.monotonic()
    plan = load_plan(folder)
    assert plan is not None
    run = plan.run_id
    held = sum(shard_holds(shard_path(folder, i), run=run) for i in range(len(plan.shards)))
    FaultLog(folder).close()
    check(held > 0, "no shard is held")
    return time.monotonic() - begun


def main() -> None:
    """Compare, kill, and look at what going on takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        link_many(
            folder / "archive", write_films(folder / "films", 500, seed=options.seed), options.files
        )
        words = ["score", str(folder / "archive"), "--overwrite", "--log-format", "json"]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        words += ["-o", str(folder / "r.parquet"), "--commit-every"]
        seconds: dict[int, list[float]] = {options.shard: [], options.files: []}
        begun = time.monotonic()
        for _ in range(options.repeats):
            for size, taken in seconds.items():
                taken.append(processor_seconds([*words, str(size)], folder / "log"))
        duration = (time.monotonic() - begun) / options.repeats / 2
        shards, whole = min(seconds[options.shard]), min(seconds[options.files])
        run = start([*words, str(options.shard)], folder / "log")
        while not (folder / "r.parquet.partial" / "shard-000002.arrow").exists():
            time.sleep(0.01)
        run.signal_group(signal.SIGKILL)
        run.wait()
        going_on = seconds_to_go_on(folder / "r.parquet.partial")
    cost = shards / whole - 1
    print(
        f"{options.files} films: {shards:.1f} s of processor with shards of {options.shard}, "
        f"{whole:.1f} s with one, difference {cost:+.1%} (limit 2 %); going on takes "
        f"{going_on * 1000:.0f} ms, {going_on / duration:.2%} of a run (limit 1 %)"
    )
    check(cost <= _MOST_FOR_COMMITS, "shards cost too much")
    check(going_on / duration <= _MOST_FOR_GOING_ON, "going on costs too much")


if __name__ == "__main__":
    main()
