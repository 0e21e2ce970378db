"""Containers of files: zip, tar, compressed tar, and a single compressed file.

A container's path goes in; its members come out, listed and opened as streams. `listing` is the way
in; the other modules are for it alone.

- `listing`: recognises containers by their content, lists and opens their members
- `zip_directory`: finds and reads the central directory of a zip
- `zip`: lists and opens the members of a zip
- `tar`: lists and opens the members of a tar
- `compression`: streams over parts of files and over compressed bytes

Nothing is unpacked to disk, no member's name ever meets the file system, and no claim of a
container is believed. Python's `zipfile` and `tarfile` hold all members in memory and trust what a
header claims; these readers list a zip of two million members in 21 MB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from cxrbatch.reading.outcomes import Outcome


class MemberFault(NamedTuple):
    """Why a container, or a member of it, cannot be read: an outcome and one line for a person."""

    outcome: Outcome
    detail: str


class Member(NamedTuple):
    """What a container (zip, tar or compressed file) claims about one of its members.

    Attributes:
        name: The bytes that the container has for the name; never used as a path on this machine.
        size: Bytes of the content, as claimed; for a single compressed file, the container's size.
        offset: Where the member's header lies in the container (in a compressed tar, in the tar).
        kind: "file"; or "folder", "link" or "special" for members that have no content to read.
        fault: Why the member must not be read, where listing the container shows it; else None.
        target: For a hard link, the name of the file whose content it shares; else empty.
    """

    name: bytes
    size: int
    offset: int
    kind: str = "file"
    fault: MemberFault | None = None
    target: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenMember:
    """A member opened for reading.

    Attributes:
        stream: The content, at its start; decompressed only as far as it is read.
        size: Bytes of the content, as claimed; None for a single compressed file, whose size is
            only known at its end.
        verify: Reads the rest of the content; raises ReadingError unless length and checksum fit.
        deviation: Call after `verify`: how the container breaks its standard, or "".
    """

    stream: BinaryIO
    size: int | None
    verify: Callable[[], None]
    deviation: Callable[[], str] = str
