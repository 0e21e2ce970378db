"""`cxrbatch score --engine ray` on this machine against the local engine, as whole commands.

Both score the same images with the same threads and workers. What Ray costs at its start and end
is measured by an archive of one image: the seconds by which that takes longer than locally. What
is beyond that is overhead, as a share of the local run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from archives import write_pngs

from cxrbatch.model.checkpoint import bundled_checkpoint

_MOST_OVERHEAD = 0.25


def seconds(archive: Path, engine: str, options: argparse.Namespace) -> float:
    """Seconds of the whole command, from the start of the process to its end."""
    output = archive.with_name(f"{archive.name}-{engine}.parquet")
    command = [sys.executable, "-P", "-m", "cxrbatch", "score", str(archive), "-o", str(output)]
    command += ["--overwrite", "--checkpoint", str(options.checkpoint), "--engine", engine]
    command += ["--commit-every", str(options.shard)]
    command += [] if options.workers is None else ["--workers", str(options.workers)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run each side in turn, compare the tables, and print rates, start-up and overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shard", type=int, default=4096, help="files per shard")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archives = {"one": Path(folder) / "one", "all": Path(folder) / "all"}
        write_pngs(archives["one"], 1)
        write_pngs(archives["all"], options.images)
        took: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.repeats):
            for size, archive in archives.items():
                for engine in ("local", "ray"):
                    took.setdefault((size, engine), []).append(seconds(archive, engine, options))
        tables = [Path(folder, f"all-{engine}.parquet").read_bytes() for engine in ("local", "ray")]
    spent = {key: median(values) for key, values in took.items()}
    start = spent["one", "ray"] - spent["one", "local"]
    overhead = (spent["all", "ray"] - start) / spent["all", "local"] - 1
    for engine in ("local", "ray"):
        print(
            f"{engine}: {options.images / spent['all', engine]:.1f} images/s over "
            f"{spent['all', engine]:.1f} s, one image {spent['one', engine]:.1f} s"
        )
    print(
        f"Ray's start and end {start:.1f} s, overhead beyond it {overhead:.1%} "
        f"(at most {_MOST_OVERHEAD:.0%}), tables byte-identical: {tables[0] == tables[1]}"
    )
    if overhead > _MOST_OVERHEAD or tables[0] != tables[1]:
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
