"""Reads and verifies the chunks of a PNG before a decoder sees any of them.

A PNG is read chunk by chunk, so that a claim of gigabytes is refused before memory is taken. Only
the chunks that decide pixels are kept: text and profiles, which can inflate without end, are passed
over. The kept chunks are put together as a plain PNG for the decoder, with image data that are
inflated already where libdeflate can do that faster.

Source: PNG specification, sections 5 (chunks), 11 (their meaning) and 9.2 (samples).
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs

from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.readings import check_samples
from cxrbatch.reading.sniffing import PNG_SIGNATURE

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_GREY, _PALETTE = 0, 3
_WITH_ALPHA = (4, 6)
_KNOWN = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Chunks that a writer may leave out and that change what is shown.
_OPTIONAL = (b"tRNS", b"sBIT", b"eXIf")
# An orientation and a thumbnail; a longer one is passed over.
_LONGEST_OPTIONAL = 1 << 16

# A file may be this much larger than its own pixels.
SPARE_BYTES = 16 << 20
# More chunks than this belong to no image; to walk them would take for ever.
_MOST_CHUNKS = 100_000
_STEP = 1 << 20
# For longer image data, memory for all of them at once costs as much time as libdeflate saves;
# libpng never holds them whole.
_MOST_INFLATED = 4 << 20


@dataclass(frozen=True, slots=True)
class PngChunks:
    """The chunks of a PNG that decide its pixels, with verified checksums.

    Attributes:
        columns: Width in pixels.
        rows: Height in pixels.
        depth: Bits per sample; for colour type 3, per index into the palette.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        interlace: 0, or 1 for Adam7.
        palette: Red, green and blue of each entry, for colour type 3.
        transparency: The body of tRNS: alpha of each palette entry, or the transparent colour;
            None without one and for types with alpha.
        packed: The deflated image data.
        significant: The largest number of significant bits that sBIT gives to a colour channel;
            None without a valid sBIT and for a palette.
        exif: The body of eXIf; empty without one of up to 64 KiB.
    """

    columns: int
    rows: int
    depth: int
    colour_type: int
    interlace: int
    palette: bytes
    transparency: bytes | None
    packed: bytes
    significant: int | None = None
    exif: bytes = b""

    @property
    def raw_bytes(self) -> int:
        """Length of the inflated image data without the filter byte of each row, in bytes.

        Each row takes whole bytes, whatever the depth; interlacing is not counted.
        """
        samples = self.columns * CHANNELS[self.colour_type]
        return self.rows * ((samples * self.depth + 7) // 8)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all samples in memory: two each for a depth of 16, else one."""
        width = 2 if self.depth == 16 else 1
        return self.rows * self.columns * CHANNELS[self.colour_type] * width

    def plain(self) -> bytes:
        """Return a PNG file of header, image data and end alone, for a decoder.

        It decodes to the bare samples: no colour is transparent, and palette indices count as grey.
        """
        kind = _GREY if self.colour_type == _PALETTE else self.colour_type
        header = struct.pack(
            ">IIBBBBB", self.columns, self.rows, self.depth, kind, 0, 0, self.interlace
        )
        chunks = ((b"IHDR", header), (b"IDAT", self._inflated() or self.packed), (b"IEND", b""))
        return PNG_SIGNATURE + b"".join(_chunk(name, body) for name, body in chunks)

    def _inflated(self) -> bytes | None:
        """Rewrite the image data as a deflate stream without compression.

        libdeflate inflates in less than half of libpng's time.

        Returns:
            The stream; None where libpng must inflate: interlaced or long data, and, as libpng
            judges them, data that are damaged or longer or shorter than the image.
        """
        length = self.raw_bytes + self.rows
        if self.interlace or length > _MOST_INFLATED:
            return None
        try:
            rows = imagecodecs.deflate_decode(self.packed, raw=False, out=length)
        except imagecodecs.DeflateError:
            return None
        return bytes(imagecodecs.deflate_encode(rows, level=0)) if len(rows) == length else None


def read_chunks(stream: BinaryIO, *, size: int, max_samples: int) -> PngChunks:
    """Read a PNG to its end; verify each checksum and the order of the chunks that matter.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.
        max_samples: Largest claim of rows x columns x channels.

    Raises:
        ReadingError: `truncated` if the file ends inside or before a chunk; `corrupt` for a wrong
            checksum, a bad header, or chunks that are invalid, missing or misplaced; `too_large`
            over `max_samples`, for a file far larger than its pixels, or over 100,000 chunks.
    """
    if stream.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        raise ReadingError(Outcome.CORRUPT, "the PNG signature is damaged")
    name, body = _next_chunk(stream, size)
    if name != b"IHDR" or len(body) != 13:
        raise ReadingError(Outcome.CORRUPT, "the PNG does not start with its header")
    head = _checked_header(body, size=size, max_samples=max_samples)
    bodies: dict[bytes, list[bytes]] = {}
    last = name
    for _ in range(_MOST_CHUNKS):
        name, body = _next_chunk(stream, size)
        if name == b"IEND":
            return _assembled(head, bodies)
        _check_order(name, last, bodies)
        if name in (b"PLTE", b"IDAT", b"eXIf") or (name in _OPTIONAL and b"IDAT" not in bodies):
            bodies.setdefault(name, []).append(body)
        last = name
    raise ReadingError(Outcome.TOO_LARGE, "the PNG has more chunks than any image")


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = imagecodecs.deflate_crc32(body, imagecodecs.deflate_crc32(name))
    return b"".join((struct.pack(">I", len(body)), name, body, struct.pack(">I", checksum)))


def _next_chunk(stream: BinaryIO, size: int) -> tuple[bytes, bytes]:
    """Read the next chunk; return its name and, if it decides pixels, its body, else b""."""
    start = stream.tell()
    head = stream.read(8)
    if len(head) < 8:
        raise ReadingError(Outcome.TRUNCATED, "the PNG ends before its last chunk")
    length, name = int.from_bytes(head[:4], "big"), head[4:]
    if start + 12 + length > size:
        raise ReadingError(Outcome.TRUNCATED, "the PNG ends inside a chunk")
    checksum = imagecodecs.deflate_crc32(name)
    is_kept = name in _KNOWN or (name in _OPTIONAL and length <= _LONGEST_OPTIONAL)
    parts = []
    while length > 0:
        part = stream.read(length if is_kept else min(length, _STEP))
        if not part:
            raise ReadingError(Outcome.TRUNCATED, "the PNG ends inside a chunk")
        length -= len(part)
        checksum = imagecodecs.deflate_crc32(part, checksum)
        parts += [part] if is_kept else []
    if stream.read(4) != checksum.to_bytes(4, "big"):
        raise ReadingError(Outcome.CORRUPT, "a checksum in the PNG does not match")
    return name, b"".join(parts)


def _checked_header(body: bytes, *, size: int, max_samples: int) -> tuple[int, ...]:
    """Return columns, rows, depth, colour type and interlace method, if they are possible."""
    columns, rows, depth, colour_type, compression, filters, interlace = struct.unpack(
        ">IIBBBBB", body
    )
    if depth not in _DEPTHS.get(colour_type, ()):
        raise ReadingError(Outcome.CORRUPT, "the PNG header names no colour type and depth")
    if compression or filters or interlace > 1:
        raise ReadingError(Outcome.CORRUPT, "the PNG header names an unknown method")
    if rows < 1 or columns < 1:
        raise ReadingError(Outcome.CORRUPT, "the image has no rows or no columns")
    samples = rows * columns * CHANNELS[colour_type]
    check_samples(samples, limit=max_samples)
    if size > samples * ((depth + 7) // 8) + rows + SPARE_BYTES:
        raise ReadingError(Outcome.TOO_LARGE, "the file is far larger than its image")
    return columns, rows, depth, colour_type, interlace


def _check_order(name: bytes, last: bytes, bodies: dict[bytes, list[bytes]]) -> None:
    """Refuse what libpng refuses: chunks out of place or repeated, unknown critical chunks."""
    if not name.isalpha():
        raise ReadingError(Outcome.CORRUPT, "a chunk of the PNG has no name")
    # A capital first letter: a reader that does not know the chunk cannot read the image.
    is_critical = name[:1].isupper()
    is_misplaced = (
        name == b"IHDR"
        or (name == b"PLTE" and (b"PLTE" in bodies or b"IDAT" in bodies))
        or (name == b"IDAT" and b"IDAT" in bodies and last != b"IDAT")
    )
    if is_misplaced or (is_critical and name not in _KNOWN):
        raise ReadingError(Outcome.CORRUPT, "a chunk of the PNG is unknown or out of place")


def _assembled(head: tuple[int, ...], bodies: dict[bytes, list[bytes]]) -> PngChunks:
    columns, rows, depth, colour_type, interlace = head
    if b"IDAT" not in bodies:
        raise ReadingError(Outcome.CORRUPT, "the PNG has no image data")
    palette = b"".join(bodies.get(b"PLTE", ()))
    if colour_type == _PALETTE and not (0 < len(palette) <= 768 and len(palette) % 3 == 0):
        raise ReadingError(Outcome.CORRUPT, "the PNG has no usable palette")
    transparency = bodies[b"tRNS"][0] if b"tRNS" in bodies else None
    if transparency is not None and colour_type in _WITH_ALPHA:
        # Such a PNG has an alpha channel, so the chunk has no meaning.
        transparency = None
    if transparency is not None:
        lengths = {0: (2,), 2: (6,), 3: range(1, len(palette) // 3 + 1)}[colour_type]
        if len(transparency) not in lengths:
            raise ReadingError(Outcome.CORRUPT, "the transparency of the PNG does not fit it")
    return PngChunks(
        columns,
        rows,
        depth,
        colour_type,
        interlace,
        palette,
        transparency,
        packed=b"".join(bodies[b"IDAT"]),
        significant=_significant(bodies.get(b"sBIT", [b""])[0], depth, colour_type),
        exif=bodies.get(b"eXIf", [b""])[0],
    )


def _significant(body: bytes, depth: int, colour_type: int) -> int | None:
    """Largest number of bits that sBIT gives to a colour channel (11.3.2.4); None if invalid."""
    if colour_type == _PALETTE or len(body) != CHANNELS[colour_type]:
        return None
    if not all(1 <= bits <= depth for bits in body):
        return None
    return max(body[:-1] if colour_type in _WITH_ALPHA else body)
