"""Decodes compressed DICOM frames to samples, with one named decoder per transfer syntax.

Which decoder reads what is decided here, once, by measurement on lossless twins. Decoders are not
tried in turn: a second one may return a wrong image where the first one rightly refused. Every
result is checked for its full length, and a JPEG for data that lasted to the end of its image.

All decoders come from the imagecodecs package (libjpeg-turbo 3 for 8, 12 and 16 bits, lossless
too; CharLS; OpenJPEG; a DICOM RLE of its own), but for two that are faster: simplejpeg for grey
JPEG, and Pillow's OpenJPEG for JPEG 2000 at a reduced size.

Source: ITU-T T.81 annex A.3 (JPEG) and T.800 annex B.5 (JPEG 2000) for reduced sizes.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from cxrbatch.reading.codecs.codestreams import (
    J2K_START,
    Codestream,
    codestream_end,
    inspect_codestream,
)
from cxrbatch.reading.codecs.jpeg_completeness import decode_faultless_jpeg, is_cut_short
from cxrbatch.reading.display import GreyImage
from cxrbatch.reading.outcomes import Outcome, ReadingError

Samples = NDArray[np.unsignedinteger]

# Blocks of 8 x 8 samples take at least two bits, samples of lossless JPEG at least one.
_DCT_SAMPLES_PER_BYTE = 256
_LOSSLESS_SAMPLES_PER_BYTE = 8
# A flat JPEG 2000 has no least size. Beyond these the claim, not the image, is what is large.
_J2K_SAMPLES_PER_BYTE = 4096
_J2K_SAMPLES = 1 << 24
_RLE_HEADER_BYTES = 64
# Two bytes replicate one value 128 times; nothing expands further.
_RLE_EXPANSION = 64

_MOST_HALVINGS = 3
_PILLOW_BITS = 16
# The mean of fewer bits, rounded to a whole number, would lose much of what is seen.
_LEAST_BITS = 8


@dataclass(frozen=True, slots=True)
class FrameShape:
    """What the DICOM header claims about every frame.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
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
        """Shape of a frame's array: (rows, columns), or (rows, columns, samples) if samples > 1."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """The samples of one frame, as a decoder returned them.

    Attributes:
        cells: Shape (rows, columns[, samples]), unsigned, as stored.
        photometric: Their colour space.
        precision: Bits per sample of a JPEG 2000 codestream, which count for more than those of
            the DICOM header (PS3.5 section A.4); None at a reduced size, and for other codecs,
            where the bits above may be an overlay's.
        deviations: How the frame breaks the standard although it was read, each in a few words.
    """

    cells: Samples
    photometric: str
    precision: int | None = None
    deviations: tuple[str, ...] = ()


def decode_frame(frame: bytes, *, shape: FrameShape, transfer_syntax: str) -> DecodedFrame:
    """Decode one compressed frame.

    Args:
        frame: The frame's fragments, joined.
        shape: What the DICOM header claims.
        transfer_syntax: UID, a key of `DECODERS`.

    Returns:
        The frame; its cells have the shape `shape.shape`, unsigned, as stored. The decoders of grey
        JPEG and JPEG 2000 may halve rows and columns up to `shape.halvings` times, rounded up.

    Raises:
        ReadingError: `truncated`, `corrupt`, or `unsupported_image` for bits allocated that the
            transfer syntax cannot hold.
    """
    end = codestream_end(frame) if transfer_syntax in CODESTREAMS else len(frame)
    # Bytes of ones, and one of zeros for an even length, are padding.
    has_rest = bool(frame[end:].removesuffix(b"\0").strip(b"\xff"))
    try:
        decoded = DECODERS[transfer_syntax](frame[:end] if has_rest else frame, shape)
    except (RuntimeError, ValueError) as error:  # RuntimeError: the base of imagecodecs' errors
        # "opj_decode": OpenJPEG has read the whole header, so that what follows is not all there.
        words = ("premature", "input_corrupt", "opj_decode")
        if any(word in str(error).lower() for word in words):
            detail = "the compressed frame ends before its image does"
            raise ReadingError(Outcome.TRUNCATED, detail) from None
        raise ReadingError(Outcome.CORRUPT, "the decoder refused the compressed frame") from None
    if not has_rest:
        return decoded
    return replace(decoded, deviations=("bytes lie behind the end of the compressed image",))


def halvings(rows: int, columns: int, *, least_size: int | None) -> int:
    """Return how often, 0 to 3, an image can be halved while its shorter side keeps a size.

    Args:
        rows: Height in pixels.
        columns: Width in pixels.
        least_size: The size in pixels; 0 is returned if it is None or the side is shorter already.
    """
    if least_size is None:
        return 0
    times = range(_MOST_HALVINGS + 1)
    return max((n for n in times if min(rows, columns) >> n >= least_size), default=0)


def aspect_in_full(image: GreyImage, *, rows: int, columns: int) -> float:
    """Return the pixel aspect (height over width) of an image that may be decoded at reduced size.

    Each side was rounded up by itself when it was halved, which changes the aspect slightly.

    Args:
        image: The image as decoded, with the `pixel_aspect` of the image in full.
        rows: Height in full, in pixels.
        columns: Width in full, in pixels.
    """
    height, width = image.shape
    return image.pixel_aspect * (rows / height) / (columns / width)


def halved(length: int, times: int) -> int:
    """Return the length of a side that is halved `times` times, rounded up each time."""
    return -(-length >> times)


def _check_claims(
    frame: bytes, shape: FrameShape, samples_per_byte: int | None = None, base: int = 0
) -> Codestream:
    """Read a codestream's claims, which must be of the header's size and fit the frame's length."""
    found = inspect_codestream(frame)
    if (found.rows, found.columns, found.samples) != (shape.rows, shape.columns, shape.samples):
        detail = "the compressed frame is not of the size that the header gives"
        raise ReadingError(Outcome.CORRUPT, detail)
    if samples_per_byte and shape.rows * shape.columns > base + samples_per_byte * len(frame):
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame is too short for its image")
    return found


def _decode_uncompressed(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """Raw samples in a fragment (PS3.5 section A.4.11): little endian, planes by the header."""
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
    planes = np.frombuffer(imagecodecs.dicomrle_decode(frame, f"<u{width}", out=most), "u1")
    if planes.size < samples * width * pixels:
        raise ReadingError(Outcome.TRUNCATED, "an RLE segment ends before its image does")
    if planes.size % (samples * width):
        raise ReadingError(Outcome.CORRUPT, "the RLE segments are of different lengths")
    cells = planes.view(f"<u{width}").reshape(samples, -1)[:, :pixels]
    return DecodedFrame(np.moveaxis(cells, 0, -1).reshape(shape.shape), shape.photometric)


def _decode_jpeg(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG of 8 or 12 bits by libjpeg-turbo (equal to DCMTK, bit for bit)."""
    found = _check_claims(frame, shape, _DCT_SAMPLES_PER_BYTE)
    if not shape.is_signed and shape.bits_stored >= 8:
        rows, columns = halved(shape.rows, shape.halvings), halved(shape.columns, shape.halvings)
        cells = decode_faultless_jpeg(frame, rows=rows, columns=columns)
        if cells is not None:
            return DecodedFrame(cells, shape.photometric)
    return _decode_by_libjpeg(frame, shape, is_adobe=found.is_adobe)


def _decode_jpeg_lossless(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG lossless of 2 to 16 bits by libjpeg-turbo; it knows no colour transform."""
    _check_claims(frame, shape, _LOSSLESS_SAMPLES_PER_BYTE)
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

    cells = decode(frame)
    if is_cut_short(frame, cells, decode=decode):
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame ends before its image does")
    return DecodedFrame(_full(cells, shape), photometric)


def _decode_jpeg_ls(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG-LS by CharLS, which refuses a frame that ends early."""
    _check_claims(frame, shape)
    return DecodedFrame(_full(imagecodecs.jpegls_decode(frame), shape), shape.photometric)


def _decode_j2k(frame: bytes, shape: FrameShape) -> DecodedFrame:
    """JPEG 2000 and high-throughput JPEG 2000 by OpenJPEG, in its strict mode."""
    found = _check_claims(frame, shape, _J2K_SAMPLES_PER_BYTE, _J2K_SAMPLES)
    # If only one of codestream and header is signed, the mean of samples means nothing.
    if found.is_signed == shape.is_signed and found.precision <= shape.bits_stored:
        small = _decode_reduced_j2k(frame, found, halvings=shape.halvings)
        if small is not None:
            halved = replace(shape, rows=small.shape[0], columns=small.shape[1])
            return DecodedFrame(_full(small, halved), shape.photometric)
    cells = imagecodecs.jpeg2k_decode(frame)
    # OpenJPEG undoes the colour transform of YBR_RCT and YBR_ICT.
    photometric = "RGB" if shape.photometric in ("YBR_RCT", "YBR_ICT") else shape.photometric
    return DecodedFrame(_full(cells, shape), photometric, found.precision)


def _decode_reduced_j2k(frame: bytes, found: Codestream, *, halvings: int) -> NDArray[Any] | None:
    """Decode a JPEG 2000 codestream of one component at a smaller resolution level.

    Each side is halved `halvings` times, or as often as the codestream has levels, rounded up.

    Returns:
        The samples, as wide and as signed as in the codestream; None where the frame must be
        decoded in full, so that a damaged file has the outcome that it has in full.
    """
    levels = min(halvings, found.levels)
    is_read = frame.startswith(J2K_START) and _LEAST_BITS <= found.precision <= _PILLOW_BITS
    if not levels or not is_read:
        return None
    size = halved(found.columns, levels), halved(found.rows, levels)
    try:
        with _ReducedJ2k(frame, size, levels) as image:
            values = np.asarray(image)
    except (OSError, ValueError):
        return None
    # Pillow moves samples up to the top of 16 bits, and signed ones to where none is negative.
    values = values >> (_PILLOW_BITS - found.precision)
    if found.is_signed:
        values = (values - (1 << (found.precision - 1))).astype(np.int16)
    return values.astype(f"{values.dtype.kind}1") if found.precision == 8 else values


class _ReducedJ2k(ImageFile.ImageFile):
    """A codestream for Pillow's decoder at a smaller level, without Pillow's plug-in.

    The plug-in takes a side of 9 halved twice to have 2 pixels, and fails on the 3 that come.
    """

    format = "JPEG2000"

    def __init__(self, frame: bytes, size: tuple[int, int], levels: int) -> None:
        self._arguments = size, levels, len(frame)
        super().__init__(io.BytesIO(frame))

    def _open(self) -> None:
        self._size, levels, length = self._arguments
        self._mode = "I;16"
        args = ("j2k", levels, 0, -1, length)
        self.tile = [ImageFile._Tile("jpeg2k", (0, 0, *self._size), 0, args)]


def _full(cells: NDArray[Any], shape: FrameShape) -> Samples:
    """Give samples their shape, which must be full; the DICOM header knows their sign."""
    if cells.size != shape.rows * shape.columns * shape.samples or cells.dtype.kind not in "iu":
        raise ReadingError(Outcome.TRUNCATED, "the decoder returned less than the whole image")
    width = cells.dtype.itemsize
    if cells.dtype.kind == "i" and 8 * width < shape.bits_stored:
        # The sign is extended into the bits that the codestream leaves out.
        width = 2
        cells = cells.astype(np.int16)
    return cells.view(f"u{width}").reshape(shape.shape)


_JPEG = "1.2.840.10008.1.2.4."
# Transfer syntaxes whose frames are JPEG, JPEG-LS or JPEG 2000.
CODESTREAMS = {
    **dict.fromkeys((_JPEG + "50", _JPEG + "51"), _decode_jpeg),
    **dict.fromkeys((_JPEG + "57", _JPEG + "70"), _decode_jpeg_lossless),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), _decode_jpeg_ls),
    **dict.fromkeys((_JPEG + number for number in ("90", "91", "201", "202", "203")), _decode_j2k),
}
DECODERS: dict[str, Callable[[bytes, FrameShape], DecodedFrame]] = {
    "1.2.840.10008.1.2.1.98": _decode_uncompressed,
    "1.2.840.10008.1.2.5": _decode_rle,
    **CODESTREAMS,
}
LOSSY = frozenset((_JPEG + "50", _JPEG + "51", _JPEG + "81"))
