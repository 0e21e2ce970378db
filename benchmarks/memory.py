"""Peak memory of `cxrbatch score`, all its processes together, at two sizes of archive.

Memory is the proportional set size summed over the process group, sampled while it runs; the
larger archive holds hard links to the files of the smaller one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from archives import write_pngs

from cxrbatch.model.checkpoint import bundled_checkpoint

_SAMPLES_PER_SECOND = 5
_COUNTED = ("Pss_Anon:", "Pss_Shmem:")  # of proc_pid_smaps_rollup(5)


def group_memory(group: int) -> int:
    """Bytes over all processes of a group that no file lies behind.

    Libraries are left out: of them each process has a share that depends on who else has them.
    """
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) != group:
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))
    return total


def peak_memory(archive: Path, checkpoint: Path, *, workers: int) -> int:
    """Largest sample over one run, in bytes."""
    command = [sys.executable, "-P", "-m", "cxrbatch", "score", str(archive), "--overwrite"]
    command += ["-o", str(archive.parent / "results.parquet"), "--checkpoint", str(checkpoint)]
    command += ["--workers", str(workers)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    peak = 0
    while run.poll() is None:
        peak = max(peak, group_memory(run.pid))
        time.sleep(1 / _SAMPLES_PER_SECOND)
    if run.returncode:
        raise SystemExit(f"cxrbatch score ended with {run.returncode}")
    return peak


def main() -> None:
    """Print both peaks and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs=2, default=[2000, 20000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    options = parser.parse_args()
    few, many = options.files
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write_pngs(small, few)
        large.mkdir()
        files = sorted(small.iterdir())
        for number in range(many):
            os.link(files[number % few], large / f"{number:07d}.png")
        peaks = [
            peak_memory(archive, options.checkpoint, workers=options.workers)
            for archive in (small, large)
        ]
    print(
        f"peak memory: {few} files {peaks[0] / 1e6:.1f} MB, {many} files {peaks[1] / 1e6:.1f} MB, "
        f"growth {(peaks[1] - peaks[0]) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
