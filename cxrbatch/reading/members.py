"""What containers have in common: their members, and streams that read one without unpacking it."""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from cxrbatch.reading.outcomes import Outcome, ReadingError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What deflated bytes may always inflate to, and how many times their own length beyond that.
# Radiographs shrink to a half or a third; only a bomb, or an empty picture, goes near these.
_ALWAYS_INFLATED = 32 << 20
_MOST_EXPANSION = 100
# gzip streams may follow each other, but not in crumbs that cost more than they hold.
_FREE_STREAMS = 1000
_SMALLEST_STREAM = 1024
_STEP = 1 << 20
_SMALL_STEP = 1 << 14


class Fault(NamedTuple):
    """Why something that a container's list names cannot be read."""

    outcome: Outcome
    detail: str


class Member(NamedTuple):
    """What a container says of one of its members.

    Attributes:
        name: As the container spells it. It names nothing on this machine and never will.
        size: Bytes of its content, as claimed.
        offset: Where its own header lies in the container (inflated, if it is compressed whole).
        kind: "file", or what has no content to read: "folder", "link" or "special".
        fault: Why it must not be read, where that is known from the container as a whole.
    """

    name: bytes
    size: int
    offset: int
    kind: str = "file"
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A member that can be read.

    Attributes:
        stream: Its content, at the start; no further inflated than it is read.
        size: Bytes of it, as claimed.
        verify: Reads what is left and raises ReadingError unless all is as it was packed.
    """

    stream: BinaryIO
    size: int
    verify: Callable[[], None]


class Window(io.RawIOBase):
    """A part of a file, read as a file of its own."""

    def __init__(self, file: BinaryIO, *, start: int, size: int) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as the part goes."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset from the part's start, from here, or from its end."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position


class Inflated(io.RawIOBase):
    """Deflated bytes as a file. Going forward inflates what is passed, going back starts anew.

    Raises:
        ReadingError: While reading: `corrupt`, `truncated`, or `too_large` for a bomb.

    Attributes:
        checksum: CRC-32 of all from the start to where it stands.
    """

    def __init__(self, packed: BinaryIO, *, is_gzip: bool) -> None:
        super().__init__()
        self._packed = packed
        self._window_bits = 16 + zlib.MAX_WBITS if is_gzip else -zlib.MAX_WBITS
        self._start()

    def _start(self) -> None:
        self._packed.seek(0)
        self._inflater = zlib.decompressobj(self._window_bits)
        self._rest = b""
        self._consumed = 0
        self._streams = 1
        self._position = 0
        self._failure: ReadingError | None = None
        self.checksum = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always, at a price."""
        return True

    def close(self) -> None:
        """Close the packed file too; also done when this is dropped."""
        super().close()
        self._packed.close()

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Inflate into a buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._inflate(min(len(view), _STEP))
        view[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        """Offset in the inflated bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset from the start or from here; the end stops it."""
        target = offset + (self._position if whence == 1 else 0)
        if target < self._position:
            self._start()
        while self._position < target and self._inflate(min(target - self._position, _STEP)):
            pass
        return self._position

    def _inflate(self, most: int) -> bytes:
        if self._failure:
            raise self._failure  # what it was about to give is lost, so nothing may follow
        try:
            plain = self._some(most)
        except ReadingError as error:
            self._failure = error
            raise
        self._position += len(plain)
        self.checksum = zlib.crc32(plain, self.checksum)
        return plain

    def _some(self, most: int) -> bytes:
        plain = b""
        while most and not plain and not self._is_at_end():
            if not self._rest:
                self._rest = self._packed.read(_SMALL_STEP)
                self._consumed += len(self._rest)
            if not self._rest:
                raise ReadingError(Outcome.TRUNCATED, "the compressed data end too early")
            try:
                plain = self._inflater.decompress(self._rest, most)
            except zlib.error:
                raise ReadingError(Outcome.CORRUPT, "the compressed data are damaged") from None
            self._rest = self._inflater.unconsumed_tail or self._inflater.unused_data
        if self._position + len(plain) > max(_ALWAYS_INFLATED, _MOST_EXPANSION * self._consumed):
            detail = f"the compressed data inflate to more than {_MOST_EXPANSION} times their size"
            raise ReadingError(Outcome.TOO_LARGE, detail)
        return plain

    def _is_at_end(self) -> bool:
        """Whether nothing follows; another gzip stream may (RFC 1952 section 2.2)."""
        if not self._inflater.eof:
            return False
        if self._window_bits < 0:
            return True
        while not self._rest.lstrip(b"\0"):
            # Tapes and disks pad with zeros.
            self._rest = self._packed.read(_SMALL_STEP)
            self._consumed += len(self._rest)
            if not self._rest:
                return True
        self._rest = self._rest.lstrip(b"\0")
        self._streams += 1
        if self._streams > max(_FREE_STREAMS, self._position // _SMALLEST_STREAM):
            raise ReadingError(Outcome.CORRUPT, "the compressed data are in crumbs")
        self._inflater = zlib.decompressobj(self._window_bits)
        return False


class Held:
    """A part of a stream that is dear to go back in, as a file: what was read is held."""

    def __init__(self, source: io.RawIOBase | io.BufferedReader, *, start: int, size: int) -> None:
        self._source = source
        self._start = start
        self._size = size
        self._held = bytearray()
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; all that is left if negative."""
        end = self._size if count < 0 else min(self._size, self._position + count)
        self._hold(end)
        data = bytes(memoryview(self._held)[self._position : end])
        self._position += len(data)
        return data

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as the part goes."""
        view = memoryview(buffer).cast("B")
        end = min(self._size, self._position + len(view))
        self._hold(end)
        count = max(0, min(end, len(self._held)) - self._position)
        view[:count] = memoryview(self._held)[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the start or from here; nothing is read yet."""
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Offset from the start."""
        return self._position

    def hold_all(self) -> None:
        """Read to the end.

        Raises:
            ReadingError: `truncated` if there is less than was claimed.
        """
        self._hold(self._size)
        if len(self._held) < self._size:
            raise ReadingError(Outcome.TRUNCATED, "the member is shorter than it claims")

    def _hold(self, end: int) -> None:
        while (missing := end - len(self._held)) > 0:
            # Others may have moved the source meanwhile.
            self._source.seek(self._start + len(self._held))
            step = min(max(missing, _SMALL_STEP), _STEP, self._size - len(self._held))
            data = self._source.read(step)
            if not data:
                return
            self._held += data
