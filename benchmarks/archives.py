"""Archives for the benchmarks, made of the project's own drawings."""

from pathlib import Path

import numpy as np
from PIL import Image

from cxrbatch.sample.phantom import CLASSES, PhantomRequest, draw_frontal
from cxrbatch.sample.projection import Detector

_SMALLEST, _LARGEST = 224, 299
_DRAWINGS = 40


def write_pngs(folder: Path, count: int) -> None:
    """Write 8-bit PNGs of 224 to 299 px: each drawing at many sizes and brightnesses."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    drawings = []
    for seed in range(_DRAWINGS):
        label, sex = CLASSES[seed % len(CLASSES)], "FM"[seed % 2]
        request = PhantomRequest(label, seed, sex, Detector(_LARGEST, _LARGEST))
        drawings.append(Image.fromarray((draw_frontal(request) * 255).astype(np.uint8)))
    for number in range(count):
        width, height = (int(edge) for edge in rng.integers(_SMALLEST, _LARGEST + 1, 2))
        image = drawings[number % _DRAWINGS].resize((width, height))
        image.point([int(v * rng.uniform(0.9, 1.0)) for v in range(256)]).save(
            folder / f"{number:05d}.png"
        )
