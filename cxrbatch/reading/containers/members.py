"""What containers have in common: their members, and streams that read one without unpacking it."""

import errno
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from cxrbatch.reading.containers.compression import Codec, decompressed
from cxrbatch.reading.outcomes import Outcome, ReadingError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What compressed bytes may always inflate to, and how many times their own length beyond that.
# Radiographs shrink to a half or a third; only a bomb, or an empty picture, goes near these.
_ALWAYS_INFLATED = 32 << 20
_MOST_EXPANSION = 100
# Streams may follow each other, but not in crumbs that cost more than they hold.
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
        size: Bytes of its content, as claimed; of a file compressed alone, those of its container.
        offset: Where its own header lies in the container (inflated, if it is compressed whole).
        kind: "file", or what has no content to read: "folder", "link" or "special".
        fault: Why it must not be read, where that is known from the container as a whole.
        target: Name of the member whose content it has too, if it is a hard link.
    """

    name: bytes
    size: int
    offset: int
    kind: str = "file"
    fault: Fault | None = None
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A member that can be read.

    Attributes:
        stream: Its content, at the start; no further inflated than it is read.
        size: Bytes of it, as claimed; None where only reading to the end tells.
        verify: Reads what is left and raises ReadingError unless all is as it was packed.
        deviation: How the container breaks its standard, or ""; asked for after `verify`.
    """

    stream: BinaryIO
    size: int | None
    verify: Callable[[], None]
    deviation: Callable[[], str] = str


def nothing_to_verify() -> None:
    """Stand in for `verify` where no checksum is."""


def next_data(file: BinaryIO, offset: int) -> int:
    """Pass over a hole: the offset, or one behind it up to which the file holds zeros alone.

    A sparse file claims what is not there, and reading that takes as long as if it were.
    """
    try:
        descriptor = file.fileno()
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:
        return offset  # a part of a file, or inflated bytes
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        is_last = error.errno == errno.ENXIO
        return max(offset, os.fstat(descriptor).st_size) if is_last else offset
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)


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
    """Compressed bytes as a file. Going forward inflates what is passed, going back starts anew.

    Raises:
        ReadingError: While reading: `corrupt`, `truncated`, or `too_large` for a bomb.

    Attributes:
        checksum: CRC-32 of all from the start to where it stands.
        verified: Offset up to which the checksums of whole streams vouch for what was given.
        has_rest: Whether other bytes follow the last stream; zeros are padding. Known at the end.
    """

    def __init__(self, packed: BinaryIO, codec: Codec) -> None:
        super().__init__()
        self._packed = packed
        self._codec = codec
        self._start()

    def _start(self) -> None:
        self._packed.seek(0)
        self._decompressor = self._codec.start()
        self._rest = b""
        self._consumed = 0
        self._streams = 1
        self._position = 0
        self._failure: Fault | None = None
        self.checksum = 0
        self.verified = 0
        self.has_rest = False

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
            # What it was about to give is lost, so nothing may follow.
            raise ReadingError(*self._failure)
        try:
            plain = self._some(most)
        except ReadingError as error:
            # Not the error itself, whose traceback holds this, and with it the open file.
            self._failure = Fault(error.outcome, error.detail)
            raise
        self._position += len(plain)
        self.checksum = zlib.crc32(plain, self.checksum)
        return plain

    def _some(self, most: int) -> bytes:
        plain = b""
        while most and not plain and not self._is_at_end():
            # A decompressor that has taken all input may still have something to give.
            is_starved = not self._rest and getattr(self._decompressor, "needs_input", True)
            is_cut = is_starved and not self._fill()
            plain, self._rest = decompressed(self._decompressor, self._rest, most)
            if is_cut and not plain and not self._decompressor.eof:
                raise ReadingError(Outcome.TRUNCATED, "the compressed data end too early")
        if self._position + len(plain) > max(_ALWAYS_INFLATED, _MOST_EXPANSION * self._consumed):
            detail = f"the compressed data inflate to more than {_MOST_EXPANSION} times their size"
            raise ReadingError(Outcome.TOO_LARGE, detail)
        return plain

    def _fill(self) -> bool:
        """Read more of the packed file; False at its end."""
        data = self._packed.read(_SMALL_STEP)
        self._rest += data
        self._consumed += len(data)
        return bool(data)

    def _is_at_end(self) -> bool:
        """Whether the last stream has ended; another may follow (RFC 1952 section 2.2)."""
        if not self._decompressor.eof:
            return False
        self.verified = self._position
        signature = self._codec.signature
        if not signature or self.has_rest:
            return True
        self._skip_padding(len(signature))
        if not self._rest.startswith(signature):
            self.has_rest = bool(self._rest)
            return True
        self._streams += 1
        if self._streams > max(_FREE_STREAMS, self._position // _SMALLEST_STREAM):
            raise ReadingError(Outcome.CORRUPT, "the compressed data are in crumbs")
        self._decompressor = self._codec.start()
        return False

    def _skip_padding(self, least: int) -> None:
        """Pass over zeros, with which tapes and disks pad, to so many other bytes or the end."""
        self._rest = self._rest.lstrip(b"\0")
        while len(self._rest) < least and self._fill():
            self._rest = self._rest.lstrip(b"\0")
            if not self._rest:
                self._packed.seek(next_data(self._packed, self._packed.tell()))


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
