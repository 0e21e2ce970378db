"""Hard links in a tar: a second name of a file that came before, so a file with that content.

Source: POSIX.1-2017, pax, "ustar Interchange Format", typeflag 1.
"""

import posixpath
from collections.abc import Callable, Iterable, Iterator

from cxrbatch.reading.containers.members import Fault, Member
from cxrbatch.reading.containers.tar import link_place
from cxrbatch.reading.outcomes import Outcome

_MOST_BYTES = 128 << 20
_FILE_BYTES = 256
_TOO_MANY = Fault(
    Outcome.UNREADABLE_FILE,
    "a hard link in a tar of too many members; pack with --hard-dereference",
)


def follow_links(
    members: Iterable[Member], *, earlier: Callable[[int], Iterable[Member]]
) -> Iterator[Member]:
    """Give hard links to earlier files as files; other members, and other links, as they are.

    Args:
        members: Of a tar, in its order.
        earlier: Gives the members in front of an offset once more. Called at the first link, as
            most tars have none and need not be held.
    """
    files: _Files | None = None
    for member in members:
        if member.target:
            if files is None:
                files = _Files(earlier(member.offset))
            member = files.linked(member)
        if files is not None:
            files.add(member)
        yield member


class _Files:
    """Files of a tar by their names, up to a limit of memory."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._files: dict[bytes, Member] = {}
        self._bytes = 0
        for member in members:
            self.add(member)

    def add(self, member: Member) -> None:
        """Add a file; the later one of two of one name counts, as when they are unpacked."""
        if member.kind == "file" and self._bytes <= _MOST_BYTES:
            self._bytes += _FILE_BYTES + len(member.name)
            self._files[_unpacked(member.name)] = member

    def linked(self, link: Member) -> Member:
        """The link as the file that it names, where that is one."""
        file = self._files.get(_unpacked(link.target))
        if file:
            return file._replace(name=link.name, offset=link_place(file.name, file.offset))
        return link._replace(kind="file", fault=_TOO_MANY) if self._bytes > _MOST_BYTES else link


def _unpacked(name: bytes) -> bytes:
    """Where a name is unpacked: in the folder of unpacking, whichever way it is spelled."""
    return posixpath.normpath(name.lstrip(b"/"))
