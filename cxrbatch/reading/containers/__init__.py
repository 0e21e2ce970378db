"""Containers of files: zip, tar, compressed tar, and a single compressed file.

A container's path goes in; its members come out, listed and opened as streams. `listing` is the way
in.

- `listing`: recognises containers by their content, lists and opens their members
- `zip_directory`: finds and reads the central directory of a zip
- `zip`: lists and opens the members of a zip
- `tar`: lists and opens the members of a tar
- `compression`: streams over parts of files and over compressed bytes

Nothing is unpacked to disk, and no member's name ever meets the file system. Python's `zipfile` and
`tarfile` hold all members in memory and trust what a header claims; these readers list a zip of two
million members in 21 MB.
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
        name: As the listing gives it, in bytes; never used as a path on this machine.
        size: Bytes of the content, as claimed; for a single compressed file, the container's size.
        offset: Where its header (in a zip: its directory entry) lies in the container, or in the
            tar that was compressed; for a resolved hard link what `tar.link_offset` returns.
        kind: "file"; or "folder", "link" or "special" for members that are not read.
        fault: Why the member must not be read, where listing the container shows it; else None.
        target: For an unresolved hard link, the name of the file that it shares; else empty.
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
        stream: The content, at its start; decompressed as it is read.
        size: Bytes of the content, as claimed; None for a single compressed file, whose size is
            only known at its end.
        verify: Raises ReadingError unless length and checksum of the content fit. In a tar there
            is no checksum, and of a plain tar the length was checked when the member was opened.
        deviation: Call after `verify`: how the container breaks its standard, or "".
    """

    stream: BinaryIO
    size: int | None
    verify: Callable[[], None]
    deviation: Callable[[], str] = str
