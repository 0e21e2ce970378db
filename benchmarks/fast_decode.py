"""What `cxrbatch score --fast-decode` gains, and what it does to scores, by encoding.

Images of class folders, or drawings without --data, are enlarged to films of 12 bits with the
noise of a detector (JPEG: of 8 bits), without a window, and scored twice by the whole command. A
rate is the command's own, from the first file to the finished table.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from sklearn.metrics import roc_auc_score

from cxrbatch.sample.dicom_writer import file_bytes, jpeg_bytes
from cxrbatch.sample.phantom import CLASSES, PhantomRequest, draw_frontal
from cxrbatch.sample.projection import Detector

Encode = Callable[[np.ndarray], bytes]

NOISE = 6
_J2K = {"codecformat": "j2k", "bitspersample": 12}
CODECS: dict[str, tuple[UID, Encode]] = {
    "JPEG": (JPEGBaseline8Bit, lambda film: jpeg_bytes((film >> 4).astype(np.uint8))),
    "JPEG 2000 lossless": (
        JPEG2000Lossless,
        lambda film: bytes(imagecodecs.jpeg2k_encode(film, reversible=True, **_J2K)),
    ),
    "JPEG 2000 lossy": (
        JPEG2000,
        lambda film: bytes(imagecodecs.jpeg2k_encode(film, reversible=False, level=48, **_J2K)),
    ),
}


def images(data: Path | None, per_class: int) -> Iterator[tuple[str, Image.Image]]:
    """Class and grey image."""
    if data is None:
        for seed in range(per_class * len(CLASSES)):
            label = CLASSES[seed % len(CLASSES)]
            drawn = draw_frontal(PhantomRequest(label, seed, "FM"[seed % 2], Detector(600, 720)))
            yield label, Image.fromarray((drawn * 255).astype(np.uint8))
        return
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        for path in islice(sorted(folder.iterdir()), per_class):
            yield folder.name, Image.open(path).convert("L")


def enlarged(image: Image.Image, edge: int, rng: np.random.Generator) -> np.ndarray:
    """A film of 12 bits whose shorter side has so many pixels."""
    scale = edge / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    large = np.asarray(image.convert("F").resize(size, Image.Resampling.BICUBIC))
    return (large * 15 + 100 + rng.normal(0, NOISE, large.shape)).clip(0, 4095).astype(np.uint16)


def write(path: Path, film: np.ndarray, syntax: UID, encode: Encode) -> None:
    """Write a DICOM file."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    header.Modality, header.PhotometricInterpretation = "CR", "MONOCHROME2"
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16 if bits > 8 else 8, bits, bits - 1
    header.Rows, header.Columns = film.shape
    header.PixelData = encapsulate([encode(film)])
    header["PixelData"].VR = "OB"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    path.write_bytes(file_bytes(header, syntax=syntax))


def score(archive: Path, *options: str) -> tuple[float, list[str], np.ndarray]:
    """Images per second, classes, and probabilities of shape (images, classes)."""
    output = archive.with_suffix(".parquet")
    command = [sys.executable, "-P", "-m", "cxrbatch", "score", str(archive), "-o", str(output)]
    told = subprocess.run(
        [*command, "--overwrite", *options], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found = re.search(r"^speed +([\d.]+) images/s", told, re.MULTILINE)
    assert found is not None, told
    table = pq.read_table(output)
    assert set(table["outcome"].to_pylist()) == {"scored"}
    names = [name for name in table.column_names if name.startswith("p_")]
    probabilities = np.stack([table[name].to_numpy() for name in names], axis=1)
    return float(found[1]), [name.removeprefix("p_") for name in names], probabilities


def report(name: str, archive: Path, labels: np.ndarray) -> None:
    """Score an archive in full and at a reduced size; print both sides."""
    rate, classes, full = score(archive)
    fast_rate, _, fast = score(archive, "--fast-decode")
    change = np.abs(fast - full)
    flips = (fast.argmax(axis=1) != full.argmax(axis=1)).mean()
    print(f"{name}: {rate:.1f} -> {fast_rate:.1f} images/s, {fast_rate / rate:.2f} times")
    print(f"  change of p: mean {change.mean():.4f}, most {change.max():.4f}; class {flips:.1%}")
    for index, label in enumerate(classes):
        truth = labels == label
        if truth.any() and not truth.all():
            areas = [roc_auc_score(truth, side[:, index]) for side in (full, fast)]
            print(f"  AUC {label}: {areas[0]:.4f} -> {areas[1]:.4f} ({areas[1] - areas[0]:+.4f})")
    sys.stdout.flush()


def main() -> None:
    """Print rates, ratio and effect for each encoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders of images")
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--edge", type=int, default=2500, help="shorter side of a film, px")
    parser.add_argument("--only", choices=list(CODECS), nargs="+", default=list(CODECS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            archive = Path(folder, name.replace(" ", "-"))
            archive.mkdir()
            rng = np.random.default_rng(0)
            labels = []
            for number, (label, image) in enumerate(images(options.data, options.per_class)):
                film = enlarged(image, options.edge, rng)
                write(archive / f"{number:05d}.dcm", film, *CODECS[name])
                labels.append(label)
            report(name, archive, np.array(labels))


if __name__ == "__main__":
    main()
