"""What no scorer can do without: the codec's own work on a file, one resize, one forward pass.

The bare decoder is told where the pixels lie. It asks for no header, checks nothing but a PNG's
checksums and hashes nothing; its image is thrown away.
"""

import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from cxrbatch.reading.codecs.png import read_chunks
from cxrbatch.reading.sniffing import HEAD_BYTES, sniff

Pixels = NDArray[Any]
Decode = Callable[[bytes], Pixels]

_CODECS: dict[str, tuple[str, Decode]] = {
    "1.2.840.10008.1.2.4.50": ("JPEG", imagecodecs.jpeg8_decode),
    "1.2.840.10008.1.2.4.51": ("JPEG", imagecodecs.jpeg8_decode),
    "1.2.840.10008.1.2.4.57": ("JPEG lossless", imagecodecs.jpeg8_decode),
    "1.2.840.10008.1.2.4.70": ("JPEG lossless", imagecodecs.jpeg8_decode),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", imagecodecs.jpegls_decode),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", imagecodecs.jpegls_decode),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000", imagecodecs.jpeg2k_decode),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", imagecodecs.jpeg2k_decode),
    "1.2.840.10008.1.2.4.201": ("HTJ2K", imagecodecs.jpeg2k_decode),
    "1.2.840.10008.1.2.4.202": ("HTJ2K", imagecodecs.jpeg2k_decode),
    "1.2.840.10008.1.2.4.203": ("HTJ2K", imagecodecs.jpeg2k_decode),
}
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})


@dataclass(frozen=True, slots=True)
class BareFile:
    """A file whose pixels are found already.

    Attributes:
        path: Where it is.
        kind: Its encoding in words.
        start: Of the pixels in the file, bytes.
        length: Of the pixels, bytes.
        decode: The codec.
    """

    path: Path
    kind: str
    start: int
    length: int
    decode: Decode

    def read(self, size: int) -> None:
        """Read, decode and shrink its first frame to a square."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            pixels = self.decode(file.read(self.length))
        if pixels.ndim == 3:
            pixels = np.ascontiguousarray(pixels[..., 0])
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def find_pixels(path: Path) -> BareFile | None:
    """Find the pixels of a file that a run could score; None for what has no bare decoder here.

    Args:
        path: A file that was read without a failure before: this is no way to read hostile ones.
    """
    with path.open("rb") as file:
        form = sniff(file.read(HEAD_BYTES), size=path.stat().st_size)
    if form in ("png", "jpeg"):
        decode = _png if form == "png" else imagecodecs.jpeg8_decode
        return BareFile(path, form.upper(), 0, path.stat().st_size, decode)
    return _find_in_dicom(path) if form == "dicom" else None


def decode_all(files: list[BareFile], *, size: int, threads: int) -> None:
    """Decode files on several cores at once; codecs hold no lock of the interpreter.

    Raises:
        OSError: A file cannot be read any more.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(BareFile.read, size=size), files))


def _find_in_dicom(path: Path) -> BareFile | None:
    header = dcmread(path, force=True)
    syntax = UID(header.file_meta.get("TransferSyntaxUID", ""))
    shape = (int(header.Rows), int(header.Columns))
    stored = header.PixelData
    decode: Decode
    if syntax in _NATIVE and header.SamplesPerPixel == 1 and header.BitsAllocated in (8, 16):
        cells = f"<u{header.BitsAllocated // 8}"
        frame = stored[: shape[0] * shape[1] * header.BitsAllocated // 8]
        kind, decode = "uncompressed", partial(_native, cells=cells, shape=shape)
    elif syntax == _RLE and header.SamplesPerPixel == 1:
        frame = next(generate_frames(stored, number_of_frames=1))
        kind, decode = "RLE", partial(_rle, cells=f"<u{header.BitsAllocated // 8}", shape=shape)
    elif syntax in _CODECS:
        frame = next(generate_frames(stored, number_of_frames=1))
        kind, decode = _CODECS[syntax]
    else:
        return None
    start = path.read_bytes().find(frame)
    if start < 0:
        return None  # in several fragments
    return BareFile(path, f"{kind} DICOM", start, len(frame), decode)


def _png(file: bytes) -> Pixels:
    # Nothing known is faster than to inflate it before libpng sees it. Its checksums are checked
    # there as well as here.
    chunks = read_chunks(io.BytesIO(file), size=len(file), max_samples=sys.maxsize)
    pixels: Pixels = imagecodecs.png_decode(chunks.plain())
    return pixels


def _native(pixels: bytes, *, cells: str, shape: tuple[int, int]) -> Pixels:
    return np.frombuffer(pixels, cells).reshape(shape)


def _rle(pixels: bytes, *, cells: str, shape: tuple[int, int]) -> Pixels:
    return np.frombuffer(imagecodecs.dicomrle_decode(pixels, cells), cells).reshape(shape)
