"""Files below folders that labels may mean, members of zips and tars among them.

Worker processes import this module to read headers, so it imports neither torch nor pandas.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from cxrbatch.files import path_to_text, text_to_path, text_to_place
from cxrbatch.reading.containers import Member, OpenMember
from cxrbatch.reading.containers.listing import list_members, open_member
from cxrbatch.reading.outcomes import ReadingError, reading_error
from cxrbatch.reading.sniffing import HEAD_BYTES, open_regular, sniff
from cxrbatch.results.labels import files_below
from cxrbatch.scoring.archive import ArchiveFile, modified_ns

_INSIDE = "!/"
_IMAGE_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
# A labels file may lie in a folder that holds much else, such as a home.
_MOST_LOOKED_AT = 1_000_000
_NO_OFFSET = -1


class LocatedFile(NamedTuple):
    """A file, or a member of a container, that exists.

    Attributes:
        file: Its path is absolute.
        place: Device, inode and, of a member, its offset: what is one file under any name.
    """

    file: ArchiveFile
    place: tuple[int, int, int]


class NotFoundError(Exception):
    """Nothing that can be read lies at a path; the text says why, in a few words."""


def spellings(text: str) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield what the path in a label may mean, the most likely first.

    That is the text as it stands; as `path_to_text` writes a path, or a member of a container; and
    both with slashes for backslashes and in the two normal forms of Unicode.

    Args:
        text: The path, relative or absolute.

    Yields:
        The path of a file or container, and the name of the member or None.
    """
    slashed = text.replace("\\", "/")
    forms = (text, slashed, normalize("NFC", slashed), normalize("NFD", slashed))
    for form in dict.fromkeys(forms):
        with suppress(ValueError):  # no UTF-8
            yield os.fsencode(form), None
        if "\\" in form:
            with suppress(ValueError):
                yield text_to_path(form), None
        if _INSIDE in form:
            with suppress(ValueError):
                yield text_to_place(form)


class MemberIndex:
    """The members of containers that labels name; each container is listed once, when needed."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Collect the names of members that may be asked for.

        Args:
            texts: Paths in labels; those that name no member are skipped.
        """
        places = (place for text in texts if _INSIDE in text for place in spellings(text))
        self._wanted = {member for _, member in places if member is not None}
        self._members: dict[bytes, dict[bytes, list[Member]]] = {}
        self._faults: dict[bytes, str] = {}

    def find(self, container: bytes, name: bytes) -> list[Member]:
        """Return the members of a container that have one name, at least one.

        Args:
            container: Path of the zip, tar or compressed file.
            name: Name of the member, as the container spells it.

        Raises:
            NotFoundError: There is none, or the container is damaged in front of it.
        """
        if container not in self._members:
            self._list(container)
        if found := self._members[container].get(name):
            return found
        raise NotFoundError(self._faults.get(container, "the archive has no such member"))

    def _list(self, container: bytes) -> None:
        found = self._members[container] = defaultdict(list)
        try:
            for member in list_members(container):
                if member.kind == "file" and member.name in self._wanted:
                    found[member.name].append(member)
        except Exception as error:
            self._faults[container] = f"the archive cannot be listed: {reading_error(error).detail}"


def files_at(path: bytes, member: bytes | None, members: MemberIndex) -> list[LocatedFile]:
    """Return the file at a path, or all members of one name in the container there.

    Args:
        path: Of a file or container, absolute or relative to the working folder.
        member: Name of a member; None for the file itself.
        members: Lists the containers.

    Raises:
        NotFoundError: There is no such file or member, or it is no regular file.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise NotFoundError(getattr(error, "strerror", "no possible path")) from None
    if not stat.S_ISREG(state.st_mode):
        raise NotFoundError("not a regular file")
    file = ArchiveFile(os.path.abspath(path), state.st_size, modified_ns(state))
    if member is None:
        return [LocatedFile(file, (state.st_dev, state.st_ino, _NO_OFFSET))]
    return [
        LocatedFile(
            replace(file, size=found.size, member=member, offset=found.offset, fault=found.fault),
            (state.st_dev, state.st_ino, found.offset),
        )
        for found in members.find(file.path, member)
    ]


@contextmanager
def opened(file: ArchiveFile) -> Iterator[OpenMember]:
    """Open a file, or a member of a container, as a stream of its bytes.

    Args:
        file: Its path is absolute.

    Yields:
        The stream, with the size and a check of what was read, as `open_member` gives them.

    Raises:
        OSError, ReadingError: It cannot be opened.
    """
    if file.member is not None:
        with open_member(file.path, file.member, file.offset) as member:
            yield member
        return
    with open_regular(file.path) as stream:
        yield OpenMember(stream, os.fstat(stream.fileno()).st_size, verify=lambda: None)


def images_below(roots: Iterable[Path], known: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the paths of images below folders, without decoding them; containers are not opened.

    At most a million files are looked at. An image is a file whose name or first bytes say so.

    Args:
        roots: The folders; each is walked once.
        known: Device and inode of files that are left out. Those of the yielded ones are added, as
            folders may overlap.

    Yields:
        The absolute path, as `path_to_text` writes it.
    """
    folders = dict.fromkeys(os.path.abspath(root) for root in roots)
    below = (
        os.path.join(folder, name)
        for folder in folders
        for name in files_below(Path(folder), pass_unreadable=True)
    )
    for location in islice(below, _MOST_LOOKED_AT):
        place = _place_of_image(location)
        if place is not None and place not in known:
            known.add(place)
            yield path_to_text(os.fsencode(location))


def _place_of_image(location: str) -> tuple[int, int] | None:
    try:
        state = os.stat(location)
        place = state.st_dev, state.st_ino
        if not stat.S_ISREG(state.st_mode):
            return None
        if location.lower().endswith(_IMAGE_SUFFIXES):
            return place
        with open_regular(location) as stream:
            return place if sniff(stream.read(HEAD_BYTES), size=state.st_size) != "other" else None
    except (OSError, ReadingError):
        return None
