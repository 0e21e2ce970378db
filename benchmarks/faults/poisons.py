"""Good files mixed with poisonous ones: what they cost, and that they cost only themselves.

The PNG decoder is patched in the reading processes alone, by a `sitecustomize` that the
interpreter finds on PYTHONPATH: images of certain widths then run native code that segfaults,
aborts, spins or allocates without end, as a broken decoder would. Others are files of the sample
archive, mutated; their codes are compared with those of a reading by themselves.

Shows: the good files' scores are those of a clean run, bit for bit; the poisonous ones have rows
with the right codes; the run ends by itself; and it takes at most a quarter longer than the clean
one, apart from the deadlines that were waited for.
"""

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from runs import check, link_many, start_fresh, write_films

from cxrbatch.model.checkpoint import bundled_checkpoint
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.sample.archive_writer import write_sample

_NATIVE = """
#include <stdlib.h>
#include <string.h>
void poison_1001(void) { *(volatile int *)0 = 1; }
void poison_1002(void) { abort(); }
void poison_1003(void) { for (volatile int i = 0;; i++) ; }
void poison_1004(void) { for (;;) memset(malloc(1 << 24), 1, 1 << 24); }
"""
_PATCH = """
import sys
if {patched!r} in sys.orig_argv[-1]:
    import ctypes
    import imagecodecs
    native, decode = ctypes.CDLL({native!r}), imagecodecs.png_decode
    def poisoned(data, *arguments, **named):
        width = int.from_bytes(bytes(data[16:20]), "big")
        if 1001 <= width <= 1004:
            getattr(native, f"poison_{{width}}")()
        return decode(data, *arguments, **named)
    imagecodecs.png_decode = poisoned
"""
_CODES = {
    1001: "decoder_crashed",
    1002: "decoder_crashed",
    1003: "decoder_timeout",
    1004: "out_of_memory",
}


def write_hook(folder: Path) -> Path:
    """Compile the native code and write the patch; gives the folder for PYTHONPATH."""
    folder.mkdir()
    (folder / "native.c").write_text(_NATIVE)
    native = folder / "native.so"
    compiler = ["gcc", "-shared", "-fPIC", "-O0", "-o", str(native), str(folder / "native.c")]
    subprocess.run(compiler, check=True)
    patch = _PATCH.format(native=str(native), patched="forkserver.serve")
    (folder / "sitecustomize.py").write_text(patch)
    return folder


def write_poisons(
    archive: Path, chance: random.Random, *, count: int, spinners: int, eaters: int
) -> dict[str, str]:
    """Spread poisons over an archive's folders; gives the code that each must have."""
    folders = sorted(archive.iterdir())
    widths = [1003] * spinners + [1004] * eaters
    mutated = count // 4
    widths += [1001 + number % 2 for number in range(count - mutated - len(widths))]
    expected = {}
    for number, width in enumerate(widths):
        path = chance.choice(folders) / f"{chance.randrange(10**6):06d}-poison{number}"
        Image.fromarray(np.zeros((9, width), np.uint8)).save(path, "PNG")
        expected[str(path.relative_to(archive))] = _CODES[width]
    expected.update(_write_mutations(archive, folders, chance, mutated))
    return expected


def _write_mutations(
    archive: Path, folders: list[Path], chance: random.Random, count: int
) -> dict[str, str]:
    real = archive.parent / "real"
    write_sample(real)
    files = [path for path in sorted(real.rglob("*")) if path.is_file()]
    expected: dict[str, str] = {}
    while len(expected) < count:
        content = bytearray(chance.choice(files).read_bytes())
        for _ in range(chance.randint(1, 40)):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        content = content[: chance.randint(1, max(len(content), 1))]
        path = chance.choice(folders) / f"{chance.randrange(10**6):06d}-mutated"
        path.write_bytes(content)
        readings = list(read_radiographs(path))
        if len(readings) == 1:
            expected[str(path.relative_to(archive))] = readings[0].outcome.value
        else:
            path.unlink()
    shutil.rmtree(real)
    return expected


def main() -> None:
    """Score the good files, then all files, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1200, help="of the films, px")
    parser.add_argument("--poisons", type=int, default=50)
    parser.add_argument("--spinners", type=int, default=4)
    parser.add_argument("--eaters", type=int, default=4, help="of memory")
    parser.add_argument("--deadline", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        archive = folder / "archive"
        films = write_films(folder / "films", 40, seed=options.seed, smallest=options.side)
        link_many(archive, films, options.good, to_a_folder=100)
        path = [str(write_hook(folder / "hook")), os.environ.get("PYTHONPATH", "")]
        hook = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        words = ["score", str(archive), "--workers", str(options.workers), "--commit-every", "200"]
        words += ["--deadline", str(options.deadline), "--checkpoint", str(options.checkpoint)]
        rows, seconds = {}, {}
        expected: dict[str, str] = {}
        for kind in ("clean", "poisoned"):
            if kind == "poisoned":
                expected = write_poisons(
                    archive,
                    chance,
                    count=options.poisons,
                    spinners=options.spinners,
                    eaters=options.eaters,
                )
            output = folder / f"{kind}.parquet"
            begun = time.monotonic()
            run = start_fresh([*words, "-o", str(output)], folder / "log", variables=hook)
            code = run.wait(1200)
            seconds[kind] = time.monotonic() - begun
            check(code in (0, 3), f"the {kind} run ended with {code}: {run.log.read_text()[-500:]}")
            rows[kind] = {row["path"]: row for row in pq.read_table(output).to_pylist()}
    check(len(rows["clean"]) == options.good, "rows of the clean run")
    check(rows["poisoned"].keys() == rows["clean"].keys() | expected.keys(), "rows lost or doubled")
    differing = [path for path, row in rows["clean"].items() if rows["poisoned"][path] != row]
    check(not differing, f"{len(differing)} good files have other rows: {differing[:3]}")
    wrong = {
        path: (rows["poisoned"][path]["outcome"], code)
        for path, code in expected.items()
        if rows["poisoned"][path]["outcome"] != code
    }
    check(not wrong, f"wrong codes: {wrong}")
    # As much as one after the other in each worker: no less was waited for.
    waited = options.spinners * options.deadline / options.workers
    ratio = (seconds["poisoned"] - waited) / seconds["clean"]
    print(
        f"{options.good} good files with {options.poisons} poisons: scores bit-equal "
        f"{options.good}, right codes {len(expected)}, clean {seconds['clean']:.1f} s, poisoned "
        f"{seconds['poisoned']:.1f} s of which {waited:.1f} s were deadlines, ratio {ratio:.2f}"
    )
    check(ratio <= 1.25, "poisons cost more than a quarter")


if __name__ == "__main__":
    main()
