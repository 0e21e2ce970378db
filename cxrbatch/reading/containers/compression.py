"""Kinds of compressed streams that the standard library undoes, told apart by their first bytes.

Source: RFC 1951 and 1952 for deflate and gzip; the .xz file format 1.2.1; bzip2 1.0.8.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

from cxrbatch.reading.outcomes import Outcome, ReadingError

# `xz -9` needs 65 MiB; what a stream demands beyond this is memory that a hostile header asks for.
_MOST_XZ_MEMORY = 160 << 20
_XZ_WANTS_MORE = "Memory usage limit exceeded"


class Decompressor(Protocol):
    """One compressed stream, undone piece by piece; it checks the stream's checksum at its end."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """What followed the stream's end in the input."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take input and give at most `max_length` bytes."""


class Codec(NamedTuple):
    """How a file or member is compressed.

    Attributes:
        name: Of the format.
        signature: The bytes that every stream of it starts with, of which several may follow each
            other; empty if one stream without signature is all.
        start: Makes the decompressor of one stream.
    """

    name: str
    signature: bytes
    start: Callable[[], Decompressor]


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)


DEFLATE = Codec("deflate", b"", lambda: zlib.decompressobj(-zlib.MAX_WBITS))
_CODECS = (
    Codec("gzip", b"\x1f\x8b\x08", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    Codec("bzip2", b"BZh", bz2.BZ2Decompressor),
    Codec("xz", b"\xfd7zXZ\0", _xz),
)


def codec_of(head: bytes) -> Codec | None:
    """Give the codec of a file that starts with these bytes; None if it is not compressed."""
    return next((codec for codec in _CODECS if head.startswith(codec.signature)), None)


def decompressed(decompressor: Decompressor, data: bytes, most: int) -> tuple[bytes, bytes]:
    """Decompress up to `most` bytes.

    Returns:
        The bytes, and what is left of `data`; bzip2 and xz hold input back instead.

    Raises:
        ReadingError: `corrupt`, or `too_large` for a stream that needs too much memory.
    """
    try:
        plain = decompressor.decompress(data, most)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if str(error) == _XZ_WANTS_MORE:
            detail = f"undoing xz needs more than {_MOST_XZ_MEMORY >> 20} MiB; pack with xz -9"
            raise ReadingError(Outcome.TOO_LARGE, detail) from None
        raise ReadingError(Outcome.CORRUPT, "the compressed data are damaged") from None
    return plain, getattr(decompressor, "unconsumed_tail", b"") or decompressor.unused_data


_INFLATE_STEP = 1 << 18
# Data set trailing padding and what else is allowed behind pixel data (PS3.10 section 7.2).
_MOST_TRAILING = 1 << 20


class InflatedStream:
    """A raw deflate stream read as if it were a file, inflated no further than is asked for."""

    def __init__(self, source: BinaryIO, *, limit: int) -> None:
        self.limit = limit
        self._source = source
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._plain = bytearray()
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; all that the limit allows if negative."""
        end = self.limit if count < 0 else self._position + count
        self._inflate_to(end)
        data = bytes(memoryview(self._plain)[self._position : end])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the start (or from here); nothing is inflated yet."""
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Offset from the start of the inflated data."""
        return self._position

    def finish(self) -> None:
        """Inflate what little may follow the pixel data.

        Raises:
            ReadingError: `truncated` if the deflate stream has no end, `corrupt`, `too_large`.
        """
        self.limit = len(self._plain) + _MOST_TRAILING
        self._inflate_to(self.limit)
        if not self._inflater.eof:
            raise ReadingError(Outcome.TRUNCATED, "the deflated file ends before its data do")

    def _inflate_to(self, end: int) -> None:
        if end > self.limit:
            raise ReadingError(Outcome.TOO_LARGE, "the deflated file inflates beyond the limit")
        while len(self._plain) < end and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._source.read(_INFLATE_STEP)
            if not packed:
                return
            try:
                self._plain += self._inflater.decompress(packed, _INFLATE_STEP)
            except zlib.error:
                raise ReadingError(Outcome.CORRUPT, "the file cannot be inflated") from None
