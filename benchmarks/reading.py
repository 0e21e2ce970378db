"""Time from a DICOM file to the network's input, by encoding, against a bare decode.

The file holds a radiograph of 3,000 x 2,500 pixels of 12 bits and lies in the disk's cache. The
bare side decodes it by the same codec and resizes it once by Pillow; it knows where the pixels lie,
reads no header and checks nothing. Both sides run in turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.sample.dicom_writer import file_bytes, put_pixels
from cxrbatch.sample.phantom import PhantomRequest, draw_frontal
from cxrbatch.sample.projection import Detector

ROWS, COLUMNS, SIZE = 3000, 2500, 224
Decode = Callable[[bytes], np.ndarray]

CODECS: dict[str, tuple[UID, Decode]] = {
    "raw": (ExplicitVRLittleEndian, lambda pixels: np.frombuffer(pixels, "<u2")),
    "RLE": (
        RLELossless,
        lambda pixels: np.frombuffer(imagecodecs.dicomrle_decode(pixels, "<u2"), "<u2"),
    ),
    "JPEG lossless": (JPEGLosslessSV1, imagecodecs.jpeg8_decode),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_decode),
    "JPEG 2000": (JPEG2000Lossless, imagecodecs.jpeg2k_decode),
}


def film() -> np.ndarray:
    """A drawn chest with the noise of a detector."""
    drawn = draw_frontal(PhantomRequest("Normal", 1, "F", Detector(COLUMNS // 2, ROWS // 2)))
    large = Image.fromarray(drawn.astype(np.float32)).resize((COLUMNS, ROWS))
    noise = np.random.default_rng(0).normal(0, 6, (ROWS, COLUMNS))
    return np.clip(np.asarray(large) * 3900 + 60 + noise, 0, 4095).astype(np.uint16)


def write(path: Path, cells: np.ndarray, syntax: UID, *, window: bool) -> tuple[int, int]:
    """Write a DICOM file; return the offset of its frame and the frame's length in bytes."""
    header = Dataset()
    header.SOPClassUID = ComputedRadiographyImageStorage
    header.SOPInstanceUID = "1.2.3"
    header.Modality = "CR"
    header.PhotometricInterpretation = "MONOCHROME2"
    header.SamplesPerPixel, header.BitsAllocated, header.BitsStored = 1, 16, 12
    header.HighBit, header.PixelRepresentation = 11, 0
    if window:
        header.WindowCenter, header.WindowWidth = 2000, 3600
    put_pixels(header, [cells], syntax=syntax)
    path.write_bytes(file_bytes(header, syntax=syntax))
    pixels = dcmread(path).PixelData
    if syntax.is_encapsulated:
        pixels = next(generate_frames(pixels, number_of_frames=1))
    return path.read_bytes().index(pixels), len(pixels)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print both times and their ratio for each encoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    cells, recipe = film(), Recipe(size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        for window in (True, False):
            for name, (syntax, decode) in CODECS.items():
                path = Path(folder, "film.dcm")
                start, length = write(path, cells, syntax, window=window)

                def bare(
                    path: Path = path,
                    at: int = start,
                    length: int = length,
                    decode: Decode = decode,
                ) -> None:
                    with path.open("rb", buffering=0) as file:
                        file.seek(at)
                        pixels = decode(file.read(length)).reshape(ROWS, COLUMNS)
                    Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX)

                def ours(path: Path = path) -> None:
                    (reading,) = read_radiographs(path)
                    assert reading.image is not None, reading.detail
                    recipe.prepare(reading.image)

                bare(), ours()
                pairs = [(timed(bare), timed(ours)) for _ in range(rounds)]
                plain, full = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
                ratio = statistics.median(a / b for a, b in pairs)
                kind = "window" if window else "no VOI"
                print(f"{name:14s} {kind}: bare {plain:6.1f} ms, ours {full:6.1f} ms, {ratio:.2f}")


if __name__ == "__main__":
    main()
