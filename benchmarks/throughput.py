"""Images per second of the whole command against a bare loop that decodes and forwards.

The bare loop is what no scorer can do without: every file decoded by Pillow, and as many ready
batches of the same shape sent through the same network at the same precision. It resizes nothing,
hashes nothing, makes no heat maps, writes no table, and its start-up is not counted; ours is
measured as a process, from the command to the finished table.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from archives import write_pngs
from PIL import Image

from cxrbatch.model.checkpoint import bundled_checkpoint, load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE
from cxrbatch.model.network import model_of

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def bare_loop(files: list[Path], checkpoint: Path, precision: str) -> float:
    """Images per second of decode and forward alone."""
    loaded = load_checkpoint(checkpoint)
    model = model_of(loaded.tensors, loaded.card.architecture).to(memory_format=torch.channels_last)
    size = loaded.card.recipe.size
    batch = torch.randn(DEFAULT_BATCH_SIZE, 1, size, size)
    batch = batch.contiguous(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", _DTYPES[precision], enabled=precision != "fp32")
    with torch.inference_mode(), autocast:
        model(batch)
        start = time.perf_counter()
        for file in files:
            with Image.open(file) as image:
                image.load()
        for _ in range(0, len(files), DEFAULT_BATCH_SIZE):
            model(batch)
        return len(files) / (time.perf_counter() - start)


def whole_command(archive: Path, checkpoint: Path, precision: str, workers: int | None) -> float:
    """Images per second of `cxrbatch score`, from the start of the process to its end."""
    command = [sys.executable, "-P", "-m", "cxrbatch", "score", str(archive)]
    command += ["-o", str(archive.parent / "results.parquet"), "--overwrite"]
    command += ["--checkpoint", str(checkpoint), "--precision", precision]
    command += [] if workers is None else ["--workers", str(workers)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sum(1 for _ in archive.iterdir()) / (time.perf_counter() - start)


def main() -> None:
    """Run each side in turn and print rates and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--precision", nargs="+", choices=list(_DTYPES), default=list(_DTYPES))
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        write_pngs(archive, options.images)
        files = sorted(archive.iterdir())
        for precision in options.precision:
            bare = bare_loop(files, options.checkpoint, precision)
            ours = whole_command(archive, options.checkpoint, precision, options.workers)
            print(
                f"{precision}: bare loop {bare:.1f} images/s, cxrbatch score {ours:.1f} images/s, "
                f"ratio {ours / bare:.3f} ({options.images} PNGs)",
                flush=True,
            )


if __name__ == "__main__":
    main()
