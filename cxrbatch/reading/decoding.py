"""Compressed frames to pixel cells, with one named decoder per transfer syntax.

Which decoder reads what is decided here, once, by measurement on lossless twins. Nothing is tried
in turn: a second decoder may return a wrong image where the first one rightly refused. Every
result is checked for its full length.
"""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.reading.codestreams import Codestream, inspect_codestream
from cxrbatch.reading.elements import quietly
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.rle import decode_rle

Samples = NDArray[np.unsignedinteger]

# Blocks of 8 x 8 samples take at least two bits, samples of lossless JPEG at least one.
_DCT_SAMPLES_PER_BYTE = 256
_LOSSLESS_SAMPLES_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class FrameShape:
    """What the DICOM header says about every frame.

    Attributes:
        rows: Height.
        columns: Width.
        samples: Samples per pixel.
        bits_allocated: 1, 8, 16 or 32 bits per sample.
        bits_stored: Bits per sample that carry the value.
        is_signed: Whether values are two's complement.
        photometric: Photometric Interpretation.
        planar: Whether each sample is a plane of its own; only for uncompressed pixel data.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric: str
    planar: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, samples)."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """Pixel cells, and the colour space that the decoder left them in."""

    cells: Samples
    photometric: str


def decode_frame(frame: bytes, *, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    """Decode one compressed frame.

    Args:
        frame: The frame's fragments, joined.
        shape: What the header says.
        transfer_syntax: UID, a key of `DECODERS`.

    Returns:
        Cells of shape `shape.shape`, unsigned, as stored.

    Raises:
        ReadingError: `truncated` or `corrupt`.
    """
    return DECODERS[transfer_syntax](frame, shape, transfer_syntax)


def _checked(frame: bytes, shape: FrameShape) -> Codestream:
    """The codestream's own size, which must be the header's."""
    found = inspect_codestream(frame)
    if (found.rows, found.columns, found.samples) != (shape.rows, shape.columns, shape.samples):
        raise ReadingError(
            Outcome.CORRUPT, "the compressed frame is not of the size that the header gives"
        )
    return found


def _check_density(frame: bytes, shape: FrameShape, samples_per_byte: int) -> None:
    """Refuse, before memory is taken, a frame too short to hold its image."""
    if shape.rows * shape.columns > samples_per_byte * len(frame):
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame is too short for its image")


def _decode_rle(frame: bytes, shape: FrameShape, _: str) -> DecodedFrame:
    if shape.bits_allocated % 8:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "RLE with samples of less than a byte")
    width = shape.bits_allocated // 8
    pixels = shape.rows * shape.columns
    planes = decode_rle(frame, pixels=pixels, samples=shape.samples, width=width)
    cells = planes.view(f"<u{width}")[..., 0]
    if shape.samples == 1:
        return DecodedFrame(cells.reshape(shape.shape), shape.photometric)
    return DecodedFrame(np.moveaxis(cells, 0, -1).reshape(shape.shape), shape.photometric)


def _decode_baseline(frame: bytes, shape: FrameShape, _: str) -> DecodedFrame:
    """8-bit JPEG by Pillow (libjpeg-turbo)."""
    found = _checked(frame, shape)
    _check_density(frame, shape, _DCT_SAMPLES_PER_BYTE)
    if found.precision != 8:
        raise ReadingError(Outcome.CORRUPT, "baseline JPEG of more than 8 bits")
    try:
        with quietly(), Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
            transformed = "adobe_transform" in image.info
            if shape.samples == 3 and not transformed:
                # Without Adobe's marker libjpeg guesses the colour space; the header knows it.
                image.draft("YCbCr", image.size)
            cells = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise _refused(error) from None
    photometric = shape.photometric
    if shape.samples == 3:
        is_ycc = photometric.startswith("YBR") and not transformed
        photometric = "YBR_FULL" if is_ycc else "RGB"
    return DecodedFrame(_full(cells, shape), photometric)


def _decode_extended(frame: bytes, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    """JPEG Extended: 8 bits by Pillow, 12 bits by GDCM (equal to DCMTK, bit for bit)."""
    if _checked(frame, shape).precision == 8:
        decoded = _decode_baseline(frame, shape, transfer_syntax)
        return DecodedFrame(decoded.cells, decoded.photometric)
    _check_density(frame, shape, _DCT_SAMPLES_PER_BYTE)
    return _decode_gdcm(frame, shape, transfer_syntax)


def _decode_lossless(frame: bytes, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    _check_density(frame, shape, _LOSSLESS_SAMPLES_PER_BYTE)
    return _decode_gdcm(frame, shape, transfer_syntax)


def _decode_gdcm(frame: bytes, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    """JPEG lossless, JPEG-LS and 12-bit JPEG by GDCM."""
    import gdcm

    precision = _checked(frame, shape).precision
    is_jpeg_ls = transfer_syntax in JPEG_LS
    # GDCM's JPEG-LS writes cells as narrow as the codestream's precision, the others the header's.
    allocated = (8 if precision <= 8 else 16) if is_jpeg_ls else shape.bits_allocated
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((shape.columns, shape.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(shape.photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(transfer_syntax)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits = min(max(precision, shape.bits_stored), allocated)
    image.SetPixelFormat(
        gdcm.PixelFormat(shape.samples, allocated, bits, bits - 1, int(shape.is_signed))
    )
    with _silent_stderr():
        buffer = image.GetBuffer()
    if not buffer:
        raise ReadingError(Outcome.TRUNCATED, "the decoder refused the compressed frame")
    data = buffer.encode("utf-8", "surrogateescape")
    return DecodedFrame(_full(np.frombuffer(data, f"<u{allocated // 8}"), shape), shape.photometric)


def _decode_j2k(frame: bytes, shape: FrameShape, _: str) -> DecodedFrame:
    """JPEG 2000 and high-throughput JPEG 2000 by OpenJPEG."""
    from openjpeg.utils import decode_pixel_data

    found = _checked(frame, shape)
    try:
        with quietly():
            data = decode_pixel_data(frame, version=2)
    except RuntimeError:
        raise ReadingError(Outcome.TRUNCATED, "the decoder refused the compressed frame") from None
    width = 1 if found.precision <= 8 else 2 if found.precision <= 16 else 4
    # OpenJPEG undoes the colour transform of YBR_RCT and YBR_ICT.
    photometric = "RGB" if shape.photometric in ("YBR_RCT", "YBR_ICT") else shape.photometric
    return DecodedFrame(_full(np.frombuffer(data, f"<u{width}"), shape), photometric)


def _full(cells: NDArray[Any], shape: FrameShape) -> Samples:
    """Cells in their shape, which must be full."""
    expected = shape.rows * shape.columns * shape.samples
    if cells.size != expected:
        raise ReadingError(Outcome.TRUNCATED, "the decoder returned less than the whole image")
    return cells.reshape(shape.shape)


def _refused(error: Exception) -> ReadingError:
    if "truncated" in str(error).lower():
        return ReadingError(Outcome.TRUNCATED, "the compressed frame ends before its image does")
    return ReadingError(Outcome.CORRUPT, "the decoder refused the compressed frame")


_STDERR_LOCK = threading.Lock()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: GDCM's libjpeg writes to it past all of its settings."""
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            stack.callback(os.dup2, kept, 2)
        yield


JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

DECODERS: dict[str, Callable[[bytes, FrameShape, str], DecodedFrame]] = {
    "1.2.840.10008.1.2.5": _decode_rle,
    "1.2.840.10008.1.2.4.50": _decode_baseline,
    "1.2.840.10008.1.2.4.51": _decode_extended,
    "1.2.840.10008.1.2.4.57": _decode_lossless,
    "1.2.840.10008.1.2.4.70": _decode_lossless,
    "1.2.840.10008.1.2.4.80": _decode_gdcm,
    "1.2.840.10008.1.2.4.81": _decode_gdcm,
    "1.2.840.10008.1.2.4.90": _decode_j2k,
    "1.2.840.10008.1.2.4.91": _decode_j2k,
    "1.2.840.10008.1.2.4.201": _decode_j2k,
    "1.2.840.10008.1.2.4.202": _decode_j2k,
    "1.2.840.10008.1.2.4.203": _decode_j2k,
}

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81"))
