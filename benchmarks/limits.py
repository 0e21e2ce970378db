"""How near scoring comes to the limit of the machine, by encoding.

Small PNGs, and DICOM films of 3,000 x 2,500 pixels of 12 bits; each measured by `cxrbatch bench`,
whose limit is the codec's own work and a bare forward pass on the same cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from archives import write_pngs
from pydicom.uid import UID
from reading import CODECS, film, write


def write_films(folder: Path, syntax: UID, count: int) -> None:
    """The same film over and over, with other noise each time."""
    folder.mkdir()
    cells, rng = film(), np.random.default_rng(1)
    for number in range(count):
        noise = rng.integers(0, 8, cells.shape, dtype=np.uint16)
        write(folder / f"{number}.dcm", cells // 2 + noise, syntax, window=True)


def main() -> None:
    """Print limit, rate and ratio for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--only", choices=["PNG", *CODECS], nargs="+")
    options = parser.parse_args()
    chosen = options.only or ["PNG", "raw", "JPEG lossless", "JPEG 2000"]
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            archive = Path(folder, name)
            if name == "PNG":
                write_pngs(archive, 64)
            else:
                write_films(archive, CODECS[name][0], options.films)
            command = [sys.executable, "-P", "-m", "cxrbatch", "bench", str(archive), "--json"]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(
                f"{name:14s} limit {found['limit_images_per_second']:6.1f} images/s, "
                f"rate {found['rate_images_per_second']:6.1f}, ratio {found['ratio']:.2f}, "
                f"bottleneck {found['bottleneck']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
