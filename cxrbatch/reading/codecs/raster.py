"""Reads PNG and JPEG files as display images, as strictly as DICOM.

libpng and libjpeg-turbo decode. What they let pass is checked here, before or after: the claims of
a header against limits and the file's length, the order and checksums of chunks, and whether the
compressed data lasted to the end of the image. A gamma chunk is ignored: radiograph archives store
display values, and their readers ignore it too.
"""

import logging
import struct
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.reading.codecs.codestreams import (
    EXIF_START,
    JpegHeader,
    JpegScan,
    list_scans,
    read_jpeg_header,
)
from cxrbatch.reading.codecs.decoders import aspect_in_full, halved, halvings
from cxrbatch.reading.codecs.jpeg_completeness import decode_faultless_jpeg, is_cut_short
from cxrbatch.reading.codecs.png import SPARE_BYTES, PngChunks, read_chunks
from cxrbatch.reading.codecs.significant_bits import UNSCALED, ShownRange, shown_range, stretched
from cxrbatch.reading.colour import grey_of
from cxrbatch.reading.display import GreyImage
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.readings import check_samples

# It logs each of libpng's warnings, of which an interlaced PNG always gives one.
logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)

# No deflate stream expands further (RFC 1951: 258 bytes out of two bits).
_DEFLATE_LIMIT = 1032
# Whatever has to be inflated further than this is no radiograph: those halve at best.
_LARGE_BYTES = 64 << 20
_MOST_EXPANSION = 200
# Data that are stored without compression are longer than the image, by filters and block headers.
_SPARE_PACKED = 1 << 16
# A block of 8 x 8 samples takes a bit in the first scan of a progressive JPEG, two in others.
_SAMPLES_PER_BYTE = 512
# Samples times the scans that code them, as each scan visits each sample. Genuine progressive JPEGs
# have about six scans; to hold all coefficients until the end costs as much as eight visits.
_MOST_VISITS = 1 << 29
_PROGRESSIVE_VISITS = 8
# Scans of this length are decoded for any image, longer ones for one of half the length or more.
_SMALL_BYTES = 1 << 20
_PROGRESSIVE = 0xC2
_PROCESSES = (0xC0, 0xC1, _PROGRESSIVE)
# EXIF: the tag of the orientation, the type of its value, and the value for an upright image.
_ORIENTATION = 0x0112
_SHORT = 3
_UPRIGHT = 1


@dataclass(frozen=True, slots=True)
class RasterImage:
    """A decoded PNG or JPEG.

    Attributes:
        image: The display image.
        shape: (rows, columns) in full, before any halving.
        bits: Bits per sample that carry the value.
        is_colour: Whether the channels differ visibly.
        voi_source: "none_robust" or "none_full_range" where a policy chose the range of grey
            levels, as nothing in the file names it; else None.
        deviation: How the file, which was read, breaks its standard; else empty.
    """

    image: GreyImage
    shape: tuple[int, int]
    bits: int
    is_colour: bool
    voi_source: str | None = None
    deviation: str = ""


def read_png(
    stream: BinaryIO, *, size: int, max_pixels: int, no_voi: str = "robust"
) -> RasterImage:
    """Decode a PNG of any colour type and depth into a grey image: colours become luminance.

    Transparent parts become black. The image is turned upright by its EXIF orientation. Samples
    with unused upper bits are stretched to black and white by the chunk sBIT, else those of 16 bits
    by `no_voi`.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.
        max_pixels: Largest claim of rows x columns x channels that is decoded.
        no_voi: How 16-bit samples with unused upper bits become grey levels if no sBIT names the
            range: "robust" stretches percentiles of the image, "full_range" the bits in use.

    Raises:
        ReadingError: `truncated` if the file or its image data end early, `corrupt` for damaged
            data or no PNG, `too_large` over `max_pixels` or for a far too large file or image.
    """
    chunks = read_chunks(stream, size=size, max_samples=max_pixels)
    _check_png(chunks)
    try:
        values = imagecodecs.png_decode(chunks.plain())
    except imagecodecs.PngError as error:
        if "Not enough" in str(error):
            raise ReadingError(Outcome.TRUNCATED, "the PNG ends before its image does") from None
        raise ReadingError(Outcome.CORRUPT, "the PNG data cannot be decoded") from None
    if chunks.colour_type == 3:
        image, is_colour = _palette_image(values, chunks)
        shown = ShownRange(chunks.depth)
    else:
        has_alpha = chunks.colour_type in (4, 6)
        colours = values[..., :-1] if has_alpha else values
        shown = shown_range(colours, depth=chunks.depth, significant=chunks.significant)
        if shown.is_unscaled and has_alpha and values[..., -1].max() < 1 << shown.bits:
            full, most = (1 << chunks.depth) - 1, (1 << shown.bits) - 1
            values[..., -1] = values[..., -1].astype(np.uint32) * full // most
        image, is_colour = grey_of(_over_black(values, chunks))
    if shown.bits != chunks.depth:
        image = stretched(image, shown, depth=chunks.depth, no_voi=no_voi)
    if (turn := _orientation(chunks.exif)) != _UPRIGHT:
        image = replace(image, cells=_turned_upright(image.cells, turn))
    return RasterImage(
        image,
        image.shape,
        bits=shown.bits,
        is_colour=is_colour,
        voi_source=f"none_{no_voi}" if shown.is_guessed else None,
        deviation=UNSCALED if shown.is_unscaled else "",
    )


def _check_png(chunks: PngChunks) -> None:
    """Refuse, by the length of its image data alone, a PNG that cannot be a sound radiograph."""
    expansion = chunks.raw_bytes / max(1, len(chunks.packed))
    if expansion > _DEFLATE_LIMIT:
        raise ReadingError(Outcome.TRUNCATED, "the PNG holds too few bytes for its size")
    if chunks.decoded_bytes > max(_LARGE_BYTES, _MOST_EXPANSION * len(chunks.packed)):
        raise ReadingError(Outcome.TOO_LARGE, "the PNG inflates further than any radiograph")
    if len(chunks.packed) > 2 * chunks.raw_bytes + chunks.rows + _SPARE_PACKED:
        raise ReadingError(Outcome.CORRUPT, "the PNG has more data than its image could need")


def _over_black(values: NDArray[Any], chunks: PngChunks) -> NDArray[Any]:
    """Mix the transparent parts of an image with black.

    Args:
        values: Shape (rows, columns) or (rows, columns, channels), uint8 or uint16.
        chunks: Says what is transparent.

    Returns:
        Grey or RGB samples, without alpha.
    """
    if chunks.colour_type in (4, 6):
        colours, alpha = values[..., :-1], values[..., -1:]
        if colours.shape[2] == 1:
            colours, alpha = colours[..., 0], alpha[..., 0]
        return _mixed(colours, alpha)
    if chunks.transparency is None:
        return values
    words = np.frombuffer(chunks.transparency, ">u2")
    key = (words & ((1 << chunks.depth) - 1)) * _widening(values, chunks)
    is_transparent = (values.reshape(*values.shape[:2], -1) == key).all(axis=2)
    masked = values.copy()
    masked[is_transparent] = 0
    return masked


def _widening(values: NDArray[Any], chunks: PngChunks) -> int:
    """Factor by which libpng widens samples, indices and keys of 1, 2 and 4 bits to 8 bits."""
    return int(np.iinfo(values.dtype).max) // ((1 << chunks.depth) - 1)


def _palette_image(values: NDArray[np.uint8], chunks: PngChunks) -> tuple[GreyImage, bool]:
    """Look the grey level of each palette index up; the indices stay the image's cells.

    Returns:
        The image, and whether its colours differ visibly from grey.
    """
    is_used = np.zeros(256, bool)
    for row in values:
        is_used[row] = True
    used = np.flatnonzero(is_used)
    index = used // _widening(values, chunks)
    colours = np.frombuffer(chunks.palette, np.uint8).reshape(-1, 3)
    if index[-1] >= len(colours):
        raise ReadingError(Outcome.CORRUPT, "a pixel of the PNG is not in its palette")
    alpha = np.full((len(colours), 1), 255, np.uint8)
    if chunks.transparency is not None:
        alpha[: len(chunks.transparency), 0] = np.frombuffer(chunks.transparency, np.uint8)
    grey, is_colour = grey_of(_mixed(colours, alpha)[np.newaxis, index])
    table = np.zeros(256, np.float32)
    table[used] = grey.whole()[0]
    return GreyImage(values, table), is_colour


def _mixed(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Samples in [0, 1], multiplied by their opacity; unchanged samples if all are opaque."""
    full = np.iinfo(colours.dtype).max
    if alpha.min() == full:
        return colours
    opacity = np.divide(alpha, full, dtype=np.float32)
    mixed: NDArray[np.float32] = np.multiply(colours, opacity, dtype=np.float32)
    return mixed / np.float32(full)


def read_jpeg(
    stream: BinaryIO, *, size: int, max_pixels: int, least_size: int | None = None
) -> RasterImage:
    """Decode a JPEG of 8 or 12 bits, progressive or not, grey, YCbCr, RGB, CMYK or YCCK.

    Colours become luminance. The image is turned upright by its EXIF orientation.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.
        max_pixels: Largest claim of rows x columns x components that is decoded.
        least_size: A grey JPEG of 8 bits without fault is halved up to 3 times while both sides
            keep so many pixels; None decodes in full.

    Raises:
        ReadingError: `truncated`, `corrupt`, `too_large` over `max_pixels` or for too many scans or
            bytes, or `unsupported_image` for another kind of JPEG, such as a lossless one.
    """
    header = read_jpeg_header(stream.read(SPARE_BYTES))
    _check_jpeg(header, size=size, max_pixels=max_pixels)
    stream.seek(0)
    frame = stream.read()
    _check_scans(header, list_scans(frame))
    rows, columns = header.rows, header.columns
    times = halvings(rows, columns, least_size=least_size)
    values: NDArray[Any] | None = decode_faultless_jpeg(
        frame, rows=halved(rows, times), columns=halved(columns, times)
    )
    if values is None:
        values = _decode_whole_jpeg(frame)
    if header.precision != 8:
        # Samples of 12 bits lie in 16, whose range they do not fill.
        values = np.divide(values, (1 << header.precision) - 1, dtype=np.float32)
    turn = _orientation(header.exif)
    image, is_colour = grey_of(_turned_upright(_as_rgb(values), turn))
    if _swaps_axes(turn):
        rows, columns = columns, rows
    image = replace(image, pixel_aspect=aspect_in_full(image, rows=rows, columns=columns))
    return RasterImage(image, (rows, columns), bits=header.precision, is_colour=is_colour)


def _check_jpeg(header: JpegHeader, *, size: int, max_pixels: int) -> None:
    """Refuse, by its header alone, a JPEG that would cost too much or is of an unread kind."""
    if header.rows < 1 or header.columns < 1:
        raise ReadingError(Outcome.CORRUPT, "the image has no rows or no columns")
    if header.process not in _PROCESSES or header.precision not in (8, 12):
        detail = "a JPEG that is neither baseline, extended nor progressive"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    if header.samples not in (1, 3, 4):
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, f"a JPEG of {header.samples} components")
    pixels = header.rows * header.columns
    samples = pixels * header.samples
    check_samples(samples, limit=max_pixels)
    if size > samples * ((header.precision + 7) // 8) + SPARE_BYTES:
        raise ReadingError(Outcome.TOO_LARGE, "the file is far larger than its image")


def _check_scans(header: JpegHeader, scans: list[JpegScan]) -> None:
    """Bound the time of decoding: a file may hold thousands of scans, or too little for one."""
    visits = sum(scan.components for scan in scans)
    if header.process == _PROGRESSIVE or visits > header.samples:
        visits = max(visits, _PROGRESSIVE_VISITS * header.samples)
    pixels = header.rows * header.columns
    packed = sum(scan.end - scan.start for scan in scans)
    if pixels * visits > _MOST_VISITS or packed > 2 * pixels * header.samples + _SMALL_BYTES:
        raise ReadingError(Outcome.TOO_LARGE, "the JPEG has too many scans for its size")
    if pixels > _SAMPLES_PER_BYTE * packed:
        raise ReadingError(Outcome.TRUNCATED, "the JPEG holds too few bytes for its size")


def _decode_whole_jpeg(frame: bytes) -> NDArray[Any]:
    """Decode all samples, as stored; raises `truncated` unless the data lasted to the last one."""
    values = _decode_jpeg(frame)
    try:
        is_short = is_cut_short(frame, values, decode=_decode_jpeg)
    except ReadingError:
        is_short = True
    if is_short:
        raise ReadingError(Outcome.TRUNCATED, "the JPEG has too little data for its image")
    return values


def _decode_jpeg(frame: bytes) -> NDArray[Any]:
    """Decode samples as stored, but YCbCr as RGB and YCCK as CMYK."""
    try:
        values: NDArray[Any] = imagecodecs.jpeg8_decode(frame)
    except (imagecodecs.Jpeg8Error, ValueError):
        raise ReadingError(Outcome.CORRUPT, "the JPEG data cannot be decoded") from None
    return values


def _as_rgb(values: NDArray[Any]) -> NDArray[Any]:
    """Turn CMYK, which JPEGs store inverted as Adobe's programs do, to RGB; keep grey and RGB."""
    if values.ndim == 2 or values.shape[2] == 3:
        return values
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(255 - values, "CMYK").convert("RGB"))
    inks: NDArray[Any] = values[..., :3] * values[..., 3:]
    return inks


def _orientation(exif: bytes) -> int:
    """Read the orientation from EXIF data, 1 to 8; 1 (upright) where they are absent or damaged.

    Args:
        exif: The body of a JPEG's APP1 segment or of a PNG's eXIf chunk.
    """
    tiff = exif.removeprefix(EXIF_START)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return _UPRIGHT
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        count = struct.unpack_from(order + "H", tiff, start)[0]
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else _UPRIGHT
    except struct.error:
        pass
    return _UPRIGHT


def _swaps_axes(turn: int) -> bool:
    return turn >= 5


def _turned_upright(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """Undo an EXIF orientation of an image of shape (rows, columns[, channels])."""
    if _swaps_axes(turn):
        values = np.swapaxes(values, 0, 1)
    # What is left is to mirror: rows, columns or both.
    flip_rows = turn in (3, 4, 7, 8)
    flip_columns = turn in (2, 3, 6, 7)
    return np.ascontiguousarray(values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])
