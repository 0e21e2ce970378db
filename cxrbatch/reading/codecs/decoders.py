"""Compressed frames to pixel cells, with one named decoder per transfer syntax.

Which decoder reads what is decided here, once, by measurement on lossless twins. Nothing is tried
in turn: a second decoder may return a wrong image where the first one rightly refused. Every
result is checked for its full length, and a JPEG for having had data to its end.

All decoders come from the imagecodecs package: libjpeg-turbo 3 (8, 12 and 16 bits, lossless too),
CharLS, OpenJPEG and a DICOM RLE of its own.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import Codestream, codestream_end, inspect_codestream
from cxrbatch.reading.codecs.jpeg import ran_out
from cxrbatch.reading.codecs.reduced import faultless_jpeg, reduced_j2k
from cxrbatch.reading.outcomes import Outcome, ReadingError

Samples = NDArray[np.unsignedinteger]

# Blocks of 8 x 8 samples take at least two bits, samples of lossless JPEG at least one.
_DCT_SAMPLES_PER_BYTE = 256
_LOSSLESS_SAMPLES_PER_BYTE = 8
# A flat JPEG 2000 has no least size. Beyond these the claim, not the image, is what is large.
_J2K_SAMPLES_PER_BYTE = 4096
_J2K_SAMPLES = 1 << 24

_BEHIND = "bytes lie behind the end of the compressed image"

_RLE_HEADER_BYTES = 64
# Two bytes replicate one value 128 times; nothing expands further.
_RLE_EXPANSION = 64


@dataclass(frozen=True, slots=True)
class FrameShape:
    """What the DICOM header says about every frame.

    Attributes:
        rows: Height.
        columns: Width.
        samples: Samples per pixel.
        bits_allocated: 1, 8, 12, 16 or 32 bits per sample.
        bits_stored: Bits per sample that carry the value.
        photometric: Photometric Interpretation.
        planar: Whether each sample is a plane of its own; only for uncompressed pixel data.
        is_signed: Whether the values are signed.
        halvings: How often a decoder may halve rows and columns, if it can.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    photometric: str
    planar: bool
    is_signed: bool = False
    halvings: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows, columns, samples)."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """Pixel cells as a decoder left them.

    Attributes:
        cells: Shape (rows, columns[, samples]), unsigned, as stored.
        photometric: Their colour space.
        precision: Bits of a JPEG 2000 codestream, whose header counts for more than the file's
            (PS3.5 section A.4); None for all else, where bits above may be an overlay's.
        deviations: As of `Header`.
    """

    cells: Samples
    photometric: str
    precision: int | None = None
    deviations: tuple[str, ...] = ()


def decode_frame(frame: bytes, *, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    """Decode one compressed frame.

    Args:
        frame: The frame's fragments, joined.
        shape: What the header says.
        transfer_syntax: UID, a key of `DECODERS`.

    Returns:
        Cells of shape `shape.shape`, or halved, unsigned, as stored.

    Raises:
        ReadingError: `truncated` or `corrupt`.
    """
    if transfer_syntax not in CODESTREAMS:
        return DECODERS[transfer_syntax](frame, shape)
    end = codestream_end(frame)
    # Bytes of ones, and one of zeros for an even length, are padding.
    if not frame[end:].removesuffix(b"\0").strip(b"\xff"):
        return DECODERS[transfer_syntax](frame, shape)
    decoded = DECODERS[transfer_syntax](frame[:end], shape)
    return replace(decoded, deviations=(_BEHIND,))


def _checked(frame: bytes, shape: FrameShape) -> Codestream:
    """The codestream's own size, which must be the header's."""
    found = inspect_codestream(frame)
    if (found.rows, found.columns, found.samples) != (shape.rows, shape.columns, shape.samples):
        raise ReadingError(
            Outcome.CORRUPT, "the compressed frame is not of the size that the header gives"
        )
    return found


def _check_density(frame: bytes, shape: FrameShape, samples_per_byte: int, base: int = 0) -> None:
    """Refuse, before memory is taken, a frame too short to hold its image."""
    if shape.rows * shape.columns > base + samples_per_byte * len(frame):
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame is too short for its image")


def _decode_uncompressed(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """Raw cells in a fragment (PS3.5 section A.4.11): little endian, planes as the header says."""
    if shape.bits_allocated % 8:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "encapsulated samples of less than a byte")
    width = shape.bits_allocated // 8
    needed = shape.rows * shape.columns * shape.samples
    if len(frame) < needed * width:
        raise ReadingError(Outcome.TRUNCATED, "the frame is shorter than its image")
    cells: Samples = np.frombuffer(frame, f"<u{width}", needed)
    if shape.samples > 1 and shape.planar:
        cells = np.moveaxis(cells.reshape(shape.samples, shape.rows, shape.columns), 0, -1)
    return DecodedFrame(cells.reshape(shape.shape), shape.photometric)


def _decode_rle(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """PackBits by byte planes (PS3.5 annex G), never writing more than the image holds."""
    if shape.bits_allocated % 8:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "RLE with samples of less than a byte")
    width = shape.bits_allocated // 8
    samples, pixels = shape.samples, shape.rows * shape.columns
    if len(frame) < _RLE_HEADER_BYTES:
        raise ReadingError(Outcome.TRUNCATED, "the RLE header is incomplete")
    segments, *offsets = struct.unpack_from("<16I", frame)
    if segments != samples * width:
        raise ReadingError(Outcome.CORRUPT, "the number of RLE segments does not fit the image")
    if max(offsets[:segments]) >= len(frame) or _RLE_EXPANSION * len(frame) < pixels * segments:
        raise ReadingError(Outcome.TRUNCATED, "the RLE frame is too short for the image")
    # An odd plane may have been padded to an even one before it was packed.
    most = samples * width * (pixels + pixels % 2)
    try:
        planes = np.frombuffer(imagecodecs.dicomrle_decode(frame, f"<u{width}", out=most), "u1")
    except (imagecodecs.DicomrleError, ValueError) as error:
        raise _refused(error) from None
    if planes.size < samples * width * pixels:
        raise ReadingError(Outcome.TRUNCATED, "an RLE segment ends before its image does")
    if planes.size % (samples * width):
        raise ReadingError(Outcome.CORRUPT, "the RLE segments are of different lengths")
    cells = planes.view(f"<u{width}").reshape(samples, -1)[:, :pixels]
    return DecodedFrame(np.moveaxis(cells, 0, -1).reshape(shape.shape), shape.photometric)


def _decode_jpeg(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG of 8 or 12 bits by libjpeg-turbo (equal to DCMTK, bit for bit)."""
    found = _checked(frame, shape)
    _check_density(frame, shape, _DCT_SAMPLES_PER_BYTE)
    if not shape.is_signed and shape.bits_stored >= 8:
        cells = faultless_jpeg(
            frame, rows=shape.rows, columns=shape.columns, halvings=shape.halvings
        )
        if cells is not None:
            return DecodedFrame(cells, shape.photometric)
    return _decode_by_libjpeg(frame, shape, is_adobe=found.is_adobe)


def _decode_jpeg_lossless(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG lossless of 2 to 16 bits by libjpeg-turbo; it knows no colour transform."""
    _checked(frame, shape)
    _check_density(frame, shape, _LOSSLESS_SAMPLES_PER_BYTE)
    return _decode_by_libjpeg(frame, shape, is_adobe=False)


def _decode_by_libjpeg(frame: bytes, shape: FrameShape, *, is_adobe: bool) -> DecodedFrame:
    own = stored = None
    photometric = shape.photometric
    if shape.samples == 3:
        # Without Adobe's marker libjpeg guesses the colour space; the header knows it.
        own, stored = "RGB", None if is_adobe else "RGB"
        is_ybr = photometric.startswith("YBR") and not is_adobe
        photometric = "YBR_FULL" if is_ybr else "RGB"

    def decode(data: bytes) -> NDArray[Any]:
        return imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace=own)

    try:
        cells = decode(frame)
        is_short = ran_out(frame, cells, decode=decode)
    except (imagecodecs.Jpeg8Error, ValueError) as error:
        raise _refused(error) from None
    if is_short:
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame ends before its image does")
    return DecodedFrame(_full(cells, shape), photometric)


def _decode_jpeg_ls(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG-LS by CharLS, which refuses a frame that ends early."""
    _checked(frame, shape)
    try:
        cells = imagecodecs.jpegls_decode(frame)
    except (imagecodecs.JpeglsError, ValueError) as error:
        raise _refused(error) from None
    return DecodedFrame(_full(cells, shape), shape.photometric)


def _decode_j2k(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG 2000 and high-throughput JPEG 2000 by OpenJPEG, in its strict mode."""
    found = _checked(frame, shape)
    _check_density(frame, shape, _J2K_SAMPLES_PER_BYTE, _J2K_SAMPLES)
    # What is signed in one place alone is no number there whose mean would be one.
    if found.is_signed == shape.is_signed and found.precision <= shape.bits_stored:
        small = reduced_j2k(frame, found, halvings=shape.halvings)
        if small is not None:
            halved = replace(shape, rows=small.shape[0], columns=small.shape[1])
            return DecodedFrame(_full(small, halved), shape.photometric)
    try:
        cells = imagecodecs.jpeg2k_decode(frame)
    except (imagecodecs.Jpeg2kError, ValueError) as error:
        raise _refused(error) from None
    # OpenJPEG undoes the colour transform of YBR_RCT and YBR_ICT.
    photometric = "RGB" if shape.photometric in ("YBR_RCT", "YBR_ICT") else shape.photometric
    return DecodedFrame(_full(cells, shape), photometric, found.precision)


def _full(cells: NDArray[Any], shape: FrameShape) -> Samples:
    """Cells in their shape, which must be full, with the sign left to the header."""
    if cells.size != shape.rows * shape.columns * shape.samples or cells.dtype.kind not in "iu":
        raise ReadingError(Outcome.TRUNCATED, "the decoder returned less than the whole image")
    width = cells.dtype.itemsize
    if cells.dtype.kind == "i" and 8 * width < shape.bits_stored:
        # The sign goes on through the bits that the codestream leaves out.
        width = 2
        cells = cells.astype(np.int16)
    return cells.view(f"u{width}").reshape(shape.shape)


def _refused(error: Exception) -> ReadingError:
    # The words are those of the decoders: none of them quotes the file. OpenJPEG reads the whole
    # header before it says that it cannot decode what follows, which then is not all there.
    if any(word in str(error).lower() for word in ("premature", "input_corrupt", "opj_decode")):
        return ReadingError(Outcome.TRUNCATED, "the compressed frame ends before its image does")
    return ReadingError(Outcome.CORRUPT, "the decoder refused the compressed frame")


DECODERS: dict[str, Callable[[bytes, FrameShape], DecodedFrame]] = {
    "1.2.840.10008.1.2.1.98": _decode_uncompressed,
    "1.2.840.10008.1.2.5": _decode_rle,
    "1.2.840.10008.1.2.4.50": _decode_jpeg,
    "1.2.840.10008.1.2.4.51": _decode_jpeg,
    "1.2.840.10008.1.2.4.57": _decode_jpeg_lossless,
    "1.2.840.10008.1.2.4.70": _decode_jpeg_lossless,
    "1.2.840.10008.1.2.4.80": _decode_jpeg_ls,
    "1.2.840.10008.1.2.4.81": _decode_jpeg_ls,
    "1.2.840.10008.1.2.4.90": _decode_j2k,
    "1.2.840.10008.1.2.4.91": _decode_j2k,
    "1.2.840.10008.1.2.4.201": _decode_j2k,
    "1.2.840.10008.1.2.4.202": _decode_j2k,
    "1.2.840.10008.1.2.4.203": _decode_j2k,
}

# Those whose frames are JPEG, JPEG-LS or JPEG 2000.
CODESTREAMS = frozenset(uid for uid in DECODERS if uid.startswith("1.2.840.10008.1.2.4."))

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81"))
