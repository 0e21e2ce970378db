"""The deflated transfer syntax, inflated no further than is asked for (PS3.5 section A.5)."""

import zlib
from typing import BinaryIO

from cxrbatch.reading.outcomes import Outcome, ReadingError

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
