"""Streams over parts of files and over compressed bytes, read without unpacking to disk.

Source: RFC 1951 and 1952 for deflate and gzip; the .xz file format 1.2.1; bzip2 1.0.8.
"""

import bz2
import errno
import io
import lzma
import os
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cxrbatch.reading.containers import MemberFault
from cxrbatch.reading.outcomes import Outcome, ReadingError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Decompressed bytes that are always allowed, and the most times the compressed length beyond that.
# Radiographs shrink to a half or a third; only a bomb, or an empty picture, goes near these.
_ALWAYS_ALLOWED = 32 << 20
_MOST_EXPANSION = 100
# Streams that may follow each other in one file; beyond this number each must hold so many bytes,
# or starting a decompressor would cost more than the data.
_FREE_STREAMS = 1000
_SMALLEST_STREAM = 1024
# `xz -9` needs 65 MiB; a stream that demands more than this has a hostile header.
_MOST_XZ_MEMORY = 160 << 20
_XZ_WANTS_MORE = "Memory usage limit exceeded"
_STEP = 1 << 20
_SMALL_STEP = 1 << 14
_INFLATE_STEP = 1 << 18
# Data set trailing padding and what else may follow pixel data (PS3.10 section 7.2).
_MOST_TRAILING = 1 << 20


class Compression(NamedTuple):
    """A compressed format.

    Attributes:
        signature: The first bytes of each stream of the format; several streams may follow each
            other in one file. Empty for raw deflate: one stream, which has no signature.
        start: Makes a decompressor for one stream: zlib's, bz2's or lzma's, which verifies the
            checksum that the stream has, if any.
    """

    signature: bytes
    start: Callable[[], Any]


DEFLATE = Compression(b"", lambda: zlib.decompressobj(-zlib.MAX_WBITS))
COMPRESSIONS = {
    "gzip": Compression(b"\x1f\x8b\x08", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    "bzip2": Compression(b"BZh", bz2.BZ2Decompressor),
    "xz": Compression(
        b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)
    ),
}
"""Formats of compressed files that are read, by name."""


def skip_hole(file: BinaryIO, offset: int) -> int:
    """Find where the data of a sparse file continue after a hole; do not move its position.

    A hole reads as zeros, as slowly as if the zeros were stored.

    Returns:
        The first offset from `offset` on that lies outside a hole, or the file's size if a hole
        ends the file; `offset` itself where the system cannot tell, as for a stream in memory.
    """
    try:
        descriptor = file.fileno()
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:
        return offset
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        is_last = error.errno == errno.ENXIO
        return max(offset, os.fstat(descriptor).st_size) if is_last else offset
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


class _SeekableStream(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class FileSlice(_SeekableStream):
    """The `size` bytes of a file from the offset `start` on, read as a file of its own.

    The position is its own: neither other readers of the file nor a forked process move it.
    """

    def __init__(self, file: BinaryIO, *, start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def fileno(self) -> int:
        """Descriptor of the whole file, not of the range alone."""
        return self._file.fileno()

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read the next bytes into a buffer; return their number, 0 at the end of range or file."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        if not view:
            return 0  # the system is not asked for the end, as often as for the content of crumbs
        count = os.preadv(self.fileno(), [view], self._start + self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Set and return the position.

        `offset` counts from the range's start, the position or the range's end: `whence` 0, 1, 2.
        """
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position


class DecompressedFile(_SeekableStream):
    """Compressed bytes read as a file: seeking forwards decompresses, backwards starts anew.

    Reading raises ReadingError: `corrupt`, `truncated`, or `too_large` for data that inflate to
    over 32 MiB and over 100 times what was read of them, or for xz that needs over 160 MiB.

    Attributes:
        checksum: CRC-32 of all bytes from the start to the position.
        verified: Offset up to which checksums at the ends of streams have confirmed the bytes.
        has_rest: Whether bytes other than zeros follow the last stream; known at the end, and
            False for raw deflate.
    """

    def __init__(self, packed: BinaryIO, compression: Compression) -> None:
        super().__init__()
        self._packed = packed
        self._compression = compression
        self._start()

    def _start(self) -> None:
        self._packed.seek(0)
        self._decompressor = self._compression.start()
        self._input = b""
        self._consumed = 0
        self._streams = 1
        self._position = 0
        self._failure: MemberFault | None = None
        self.checksum = 0
        self.verified = 0
        self.has_rest = False

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Decompress the next bytes into a buffer; return their number, 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._decompress(min(len(view), _STEP))
        view[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        """Return the position: the number of decompressed bytes before the next one to read."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Set and return the position, which stops at the end of the decompressed bytes.

        `offset` counts from the position if `whence` is 1, else from the start. All bytes up to the
        new position are decompressed, from the start if it lies before the present one.
        """
        target = offset + (self._position if whence == 1 else 0)
        if target < self._position:
            self._start()
        while self._position < target and self._decompress(min(target - self._position, _STEP)):
            pass
        return self._position

    def _decompress(self, most: int) -> bytes:
        if self._failure:
            # The bytes that could not be decompressed are lost, so none may follow.
            raise ReadingError(*self._failure)
        try:
            plain = self._next_bytes(most)
        except ReadingError as error:
            # Not the error itself: its traceback refers to this object, and so to the open file.
            self._failure = MemberFault(error.outcome, error.detail)
            raise
        self._position += len(plain)
        self.checksum = zlib.crc32(plain, self.checksum)
        return plain

    def _next_bytes(self, most: int) -> bytes:
        """Decompress 1 to `most` bytes; none at the end."""
        plain = b""
        while most and not plain and not self._is_at_end():
            # A decompressor that has taken all input may still hold output back.
            is_starved = not self._input and getattr(self._decompressor, "needs_input", True)
            is_cut = is_starved and not self._read_input()
            plain = self._feed(most)
            if is_cut and not plain and not self._decompressor.eof:
                raise ReadingError(Outcome.TRUNCATED, "the compressed data end too early")
        if self._position + len(plain) > max(_ALWAYS_ALLOWED, _MOST_EXPANSION * self._consumed):
            detail = f"the compressed data inflate to more than {_MOST_EXPANSION} times their size"
            raise ReadingError(Outcome.TOO_LARGE, detail)
        return plain

    def _feed(self, most: int) -> bytes:
        """Pass the input to the decompressor and keep what it leaves; bzip2 and xz leave none."""
        decompressor = self._decompressor
        try:
            plain: bytes = decompressor.decompress(self._input, most)
        except (zlib.error, lzma.LZMAError, OSError) as error:
            if str(error) == _XZ_WANTS_MORE:
                detail = f"undoing xz needs more than {_MOST_XZ_MEMORY >> 20} MiB; pack with xz -9"
                raise ReadingError(Outcome.TOO_LARGE, detail) from None
            raise ReadingError(Outcome.CORRUPT, "the compressed data are damaged") from None
        self._input = getattr(decompressor, "unconsumed_tail", b"") or decompressor.unused_data
        return plain

    def _read_input(self) -> bool:
        """Read more of the compressed file; return False at its end."""
        data = self._packed.read(_SMALL_STEP)
        self._input += data
        self._consumed += len(data)
        return bool(data)

    def _is_at_end(self) -> bool:
        """Whether the last stream has ended; starts the next one if any (RFC 1952 section 2.2)."""
        if not self._decompressor.eof:
            return False
        self.verified = self._position
        signature = self._compression.signature
        if not signature or self.has_rest:
            return True
        # Zeros are padding, as on tapes and disks.
        self._input = self._input.lstrip(b"\0")
        while len(self._input) < len(signature) and self._read_input():
            self._input = self._input.lstrip(b"\0")
            if not self._input:
                self._packed.seek(skip_hole(self._packed, self._packed.tell()))
        if not self._input.startswith(signature):
            self.has_rest = bool(self._input)
            return True
        self._streams += 1
        if self._streams > max(_FREE_STREAMS, self._position // _SMALLEST_STREAM):
            raise ReadingError(Outcome.CORRUPT, "the compressed data are in crumbs")
        self._decompressor = self._compression.start()
        return False


class CachedSlice:
    """The `size` bytes of a stream from the offset `start` on; bytes once read stay in memory.

    For a stream that is slow to seek backwards, such as a compressed one.

    Attributes:
        limit: Bytes of the range, as claimed.
    """

    def __init__(self, source: io.RawIOBase | BinaryIO, *, start: int, size: int) -> None:
        self.limit = size
        self._source = source
        self._start = start
        self._cache = bytearray()
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """Read up to `count` bytes from the position; all that are left if `count` is negative."""
        end = self.limit if count < 0 else self._position + count
        self._cache_to(end)
        data = bytes(memoryview(self._cache)[self._position : end])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set and return the position, without reading anything.

        `offset` counts from the position if `whence` is 1, else from the range's start.
        """
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Position of the next byte to read, as an offset from the range's start."""
        return self._position

    def cache_all(self) -> None:
        """Read all bytes of the range into memory; do not move the position.

        Raises:
            ReadingError: `truncated` if the source ends before `limit` bytes of the range.
        """
        self._cache_to(self.limit)
        if len(self._cache) < self.limit:
            raise ReadingError(Outcome.TRUNCATED, "the member is shorter than it claims")

    def _cache_to(self, end: int) -> None:
        while (missing := min(end, self.limit) - len(self._cache)) > 0:
            # Others may have moved the source meanwhile.
            self._source.seek(self._start + len(self._cache))
            step = min(max(missing, _SMALL_STEP), _STEP, self.limit - len(self._cache))
            data = self._source.read(step)
            if not data:
                return
            self._cache += data


class InflatedStream(CachedSlice):
    """A DICOM file's deflated data set, read as if it were not compressed.

    The data set starts at the present position of the source.

    Attributes:
        limit: Bytes that may be read; reading beyond them raises ReadingError `too_large`.
    """

    def __init__(self, source: BinaryIO, *, limit: int) -> None:
        super().__init__(source, start=0, size=limit)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def finish(self) -> None:
        """Inflate what follows the bytes read so far, to prove that the deflate stream has an end.

        Raises:
            ReadingError: `truncated` if no end is found in about 1 MiB, `corrupt` if it is damaged.
        """
        self.limit = len(self._cache) + _MOST_TRAILING
        self._cache_to(self.limit)
        if not self._inflater.eof:
            raise ReadingError(Outcome.TRUNCATED, "the deflated file ends before its data do")

    def _cache_to(self, end: int) -> None:
        if end > self.limit:
            raise ReadingError(Outcome.TOO_LARGE, "the deflated file inflates beyond the limit")
        while len(self._cache) < end and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._source.read(_INFLATE_STEP)
            try:
                inflated = self._inflater.decompress(packed, _INFLATE_STEP)
            except zlib.error:
                raise ReadingError(Outcome.CORRUPT, "the file cannot be inflated") from None
            self._cache += inflated
            if not packed and not inflated:  # without input zlib may still hold output
                return
