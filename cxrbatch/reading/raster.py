"""PNG and JPEG to a display image, as strictly as DICOM.

Pillow decodes; what it lets pass is checked here: PNG checksums, the size against the caller's
limit before any pixel is decoded, and whether the compressed data can hold the image at all.
A gamma chunk is ignored: radiograph archives store display values, and so do their readers.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrbatch.reading.codestreams import jpeg_markers
from cxrbatch.reading.deep_png import decode_deep_png
from cxrbatch.reading.grey import GreyImage, grey_of
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.sniffing import PNG_SIGNATURE

# No deflate stream expands further (RFC 1951: 258 bytes out of two bits).
_DEFLATE_LIMIT = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True, slots=True)
class RasterImage:
    """A decoded PNG or JPEG.

    Attributes:
        image: The display image.
        bits: Bits per sample in the file.
        is_colour: Whether the channels really differ.
    """

    image: GreyImage
    bits: int
    is_colour: bool


@dataclass(frozen=True, slots=True)
class PngChunks:
    """What the chunks of a PNG say, checksums verified (PNG specification, section 11)."""

    columns: int
    rows: int
    depth: int
    colour_type: int
    interlaced: bool
    transparency: bytes | None
    packed: tuple[memoryview, ...]


def read_png(data: bytes, *, max_pixels: int) -> RasterImage:
    """Decode a PNG of any colour type and depth; transparency is laid over black.

    Raises:
        ReadingError: `corrupt`, `truncated` or `too_large`.
    """
    chunks = parse_png(data)
    _check_size(chunks.rows, chunks.columns, max_pixels=max_pixels)
    channels = _CHANNELS.get(chunks.colour_type)
    if channels is None:
        raise ReadingError(Outcome.CORRUPT, "the PNG header names an unknown colour type")
    raw_bytes = chunks.rows * ((chunks.columns * channels * chunks.depth + 7) // 8)
    packed_bytes = sum(len(part) for part in chunks.packed)
    if raw_bytes > _DEFLATE_LIMIT * packed_bytes:
        raise ReadingError(Outcome.TRUNCATED, "the PNG holds too few bytes for its size")
    if chunks.depth == 16 and channels > 1:
        values: NDArray[Any] = decode_deep_png(
            b"".join(chunks.packed),
            rows=chunks.rows,
            columns=chunks.columns,
            channels=channels,
            interlaced=chunks.interlaced,
        )
    else:
        values = _decode_png(data, chunks)
    image, is_colour = grey_of(_over_black(values, chunks))
    return RasterImage(image=image, bits=chunks.depth, is_colour=is_colour)


def read_jpeg(data: bytes, *, max_pixels: int) -> RasterImage:
    """Decode a JPEG, progressive or not, grey, YCbCr, RGB or CMYK, turned as its EXIF says.

    Raises:
        ReadingError: `corrupt`, `truncated` or `too_large`.
    """
    try:
        for _ in jpeg_markers(data):
            pass
    except (EOFError, struct.error):
        raise ReadingError(Outcome.TRUNCATED, "the JPEG ends before its image does") from None
    except ValueError:
        raise ReadingError(Outcome.CORRUPT, "the JPEG has no scan behind its header") from None
    with _open(data, "JPEG", max_pixels=max_pixels) as image:
        _load(image)
        turned = _upright(image)
        if turned.mode not in ("L", "RGB"):
            turned = turned.convert("RGB")
        values = np.asarray(turned)
    image, is_colour = grey_of(values)
    return RasterImage(image=image, bits=8, is_colour=is_colour)


def parse_png(data: bytes) -> PngChunks:
    """Walk the chunks of a PNG and verify each checksum.

    Pillow skips the checksum of image data, and a radiograph with damaged bytes must not pass.

    Raises:
        ReadingError: `corrupt` or `truncated`.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise ReadingError(Outcome.CORRUPT, "the PNG signature is damaged")
    view = memoryview(data)
    offset = len(PNG_SIGNATURE)
    header: tuple[int, ...] | None = None
    transparency: bytes | None = None
    packed: list[memoryview] = []
    name = b""
    while name != b"IEND":
        name, body, offset = _next_chunk(view, offset)
        if header is None:
            if name != b"IHDR" or len(body) != 13:
                raise ReadingError(Outcome.CORRUPT, "the PNG does not start with its header")
            header = struct.unpack(">IIBBBBB", body)
        elif name == b"IDAT":
            packed.append(body)
        elif name == b"tRNS":
            transparency = bytes(body)
    if header is None or not packed:
        raise ReadingError(Outcome.CORRUPT, "the PNG has no image data")
    columns, rows, depth, colour_type, _, _, interlace = header
    return PngChunks(
        columns=columns,
        rows=rows,
        depth=depth,
        colour_type=colour_type,
        interlaced=interlace == 1,
        transparency=transparency,
        packed=tuple(packed),
    )


def _next_chunk(view: memoryview, offset: int) -> tuple[bytes, memoryview, int]:
    """Name, body and end of the chunk at `offset`."""
    if offset + 12 > len(view):
        raise ReadingError(Outcome.TRUNCATED, "the PNG ends before its last chunk")
    length = int.from_bytes(view[offset : offset + 4], "big")
    end = offset + 12 + length
    if end > len(view):
        raise ReadingError(Outcome.TRUNCATED, "the PNG ends inside a chunk")
    checked = view[offset + 4 : end - 4]
    if zlib.crc32(checked) != int.from_bytes(view[end - 4 : end], "big"):
        raise ReadingError(Outcome.CORRUPT, "a checksum in the PNG does not match")
    return bytes(checked[:4]), checked[4:], end


def _decode_png(data: bytes, chunks: PngChunks) -> NDArray[Any]:
    """Samples of a PNG that Pillow decodes without loss, scaled to its type's full range."""
    with _open(data, "PNG", max_pixels=chunks.rows * chunks.columns) as image:
        _load(image)
        if image.mode == "P":
            alpha = "transparency" in image.info
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
        if image.mode == "1":
            return np.asarray(image.convert("L"))
        return np.asarray(image)


def _over_black(values: NDArray[Any], chunks: PngChunks) -> NDArray[Any]:
    """Grey or RGB samples, transparent parts mixed with black.

    Args:
        values: Shape (rows, columns) or (rows, columns, channels), uint8 or uint16.
        chunks: The PNG's own words on depth and transparency.
    """
    if values.ndim == 3 and values.shape[2] in (2, 4):
        colours, alpha = values[..., :-1], values[..., -1:]
        if colours.shape[2] == 1:
            colours, alpha = colours[..., 0], alpha[..., 0]
        full = np.iinfo(values.dtype).max
        if alpha.min() == full:
            return colours
        opacity = np.divide(alpha, full, dtype=np.float32)
        mixed: NDArray[np.float32] = np.multiply(colours, opacity, dtype=np.float32)
        return mixed / np.float32(full)
    if chunks.transparency is None or chunks.colour_type == 3:
        return values
    key = np.frombuffer(chunks.transparency[: 2 * _CHANNELS[chunks.colour_type]], ">u2")
    # Pillow widens 1, 2 and 4-bit grey to 8 bits; the key is still of the file's depth.
    scale = np.iinfo(values.dtype).max // ((1 << chunks.depth) - 1)
    masked = values.copy()
    if values.ndim == 2:
        masked[values == int(key[0]) * scale] = 0
    elif len(key) == 3:
        masked[(values == key).all(axis=2)] = 0
    return masked


def _check_size(rows: int, columns: int, *, max_pixels: int) -> None:
    if rows < 1 or columns < 1:
        raise ReadingError(Outcome.CORRUPT, "the image has no rows or no columns")
    if rows * columns > max_pixels:
        raise ReadingError(Outcome.TOO_LARGE, f"{columns} x {rows} pixels are over the limit")


def _open(data: bytes, name: str, *, max_pixels: int) -> Image.Image:
    """Open by one named format; the size is known, no pixel is decoded yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=(name,))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ReadingError(Outcome.TOO_LARGE, "the image is over Pillow's own limit") from None
    except UnidentifiedImageError:
        raise ReadingError(Outcome.CORRUPT, f"the {name} header is damaged") from None
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise _undecodable(name, error) from None
    _check_size(image.height, image.width, max_pixels=max_pixels)
    return image


def _load(image: Image.Image) -> None:
    """Decode all pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ReadingError(Outcome.TOO_LARGE, "the image is over Pillow's own limit") from None
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise _undecodable(image.format or "image", error) from None


def _undecodable(name: str, error: Exception) -> ReadingError:
    if "truncated" in str(error).lower():
        return ReadingError(Outcome.TRUNCATED, f"the {name} ends before its image does")
    return ReadingError(Outcome.CORRUPT, f"the {name} data cannot be decoded")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; damaged EXIF is as none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ImageOps.exif_transpose(image)
    except Exception:  # EXIF parsing fails in many ways, none of which concerns the pixels.
        return image
