"""The walk: every regular file below a root, in one order on every machine.

A container, that is a zip, a tar or a compressed file, counts by its members.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.paths import path_to_text
from cxrbatch.reading.containers import MemberFault
from cxrbatch.reading.containers.listing import is_container, list_members
from cxrbatch.reading.outcomes import reading_error

_LARGEST_SIZE = _LATEST = (1 << 63) - 1
# PATH_MAX of Linux less NAME_MAX: beyond it a folder has entries that cannot be named.
_LONGEST_PATH = 4096 - 256
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE, _LINK = b"f", b"l"
_UNKNOWN_FILE = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file found by the walk, or a member of a container.

    Attributes:
        path: Relative to the archive's root, as the operating system names it.
        size: In bytes when it was found.
        modified_ns: Its modification time when it was found, nanoseconds since 1970; of a member,
            that of its container.
        member: Name of the member of the container at `path`; None for a file of its own.
        offset: Where `reading.containers.open_member` finds the member.
        fault: Why it cannot be read, where the walk has seen it; it has a row all the same.
    """

    path: bytes
    size: int
    modified_ns: int = 0
    member: bytes | None = None
    offset: int = 0
    fault: MemberFault | None = None


@dataclass(slots=True)
class Walk:
    """One walk over an archive, lazy and sorted by the bytes of each path component.

    Attributes:
        root: The archive: a folder, or one file.
        follow_links: Follow symbolic links; every folder is entered once, which ends all loops.
        skip: (device, inode) of files and folders that are the program's own.
        passed_over: Counts what has no row, by kind; complete when the walk is.
    """

    root: Path
    follow_links: bool = False
    skip: frozenset[tuple[int, int]] = frozenset()
    passed_over: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Yield the files.

        Raises:
            UsageError: The root is missing, unreadable, or neither a folder nor a file.
        """
        root = os.fsencode(self.root)
        try:
            state = os.stat(root)
            if stat.S_ISREG(state.st_mode):
                yield from self._files(root, os.path.basename(root), state)
                return
            entries = _sorted_entries(root)
        except OSError as error:
            raise self._unreadable(error) from None
        yield from self._walk(_Folder(root, b"", entries), {(state.st_dev, state.st_ino)})

    @property
    def base(self) -> Path:
        """The folder that the paths are relative to."""
        return self.root.parent if self.root.is_file() else self.root

    def identity(self) -> dict[str, str]:
        """Name the archive within `base`; of one file, the version too.

        Returns:
            `archive`: the file's name, or "." for a folder. `archive_version`: size and time of
            change of the file; only where the archive is one.

        Raises:
            UsageError: The root is missing or cannot be looked at.
        """
        try:
            state = self.root.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        if not stat.S_ISREG(state.st_mode):
            return {"archive": "."}
        return {
            "archive": path_to_text(os.fsencode(self.root.name)),
            "archive_version": f"{state.st_size} bytes, {state.st_mtime_ns} ns",
        }

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(f"cannot read archive {self.root}: {error.strerror}")

    def _walk(self, top: "_Folder", entered: set[tuple[int, int]]) -> Iterator[ArchiveFile]:
        # An explicit stack: an archive may be nested deeper than Python recurses.
        stack = [top]
        while stack:
            folder = stack[-1]
            if not folder.entries:
                stack.pop().close()
                continue
            name, _, kind = folder.entries.pop().rpartition(b"\0")
            try:
                state = self._state(folder, name, kind)
                if state is None:
                    continue
                if (state.st_dev, state.st_ino) in self.skip:
                    self.passed_over["own_output"] += 1
                elif stat.S_ISDIR(state.st_mode):
                    if self._enters(state, entered):
                        stack.append(folder.enter(name))
                else:
                    location = os.path.join(folder.location, name)
                    yield from self._files(location, folder.inside(name), state)
            except OSError:
                self.passed_over["unreadable_folder"] += 1

    def _files(self, location: bytes, path: bytes, state: os.stat_result) -> Iterator[ArchiveFile]:
        """Yield a file; in a container's stead its members, and itself only if it is damaged."""
        container = ArchiveFile(path, state.st_size, modified_ns(state))
        if not is_container(location):
            yield container
            return
        is_empty = True
        try:
            for member in list_members(location):
                if member.kind != "file":
                    self.passed_over[f"member_{member.kind}"] += 1
                    continue
                is_empty = False
                # Not by `replace`, which takes longer than to list the member.
                yield ArchiveFile(
                    path,
                    min(member.size, _LARGEST_SIZE),
                    container.modified_ns,
                    member.name,
                    member.offset,
                    member.fault,
                )
        except Exception as error:
            failure = reading_error(error)
            yield replace(container, fault=MemberFault(failure.outcome, failure.detail))
            return
        if is_empty:
            self.passed_over["empty_container"] += 1

    def _state(self, folder: "_Folder", name: bytes, kind: bytes) -> os.stat_result | None:
        """Say what an entry is; None, and counted, where it is neither file nor folder."""
        try:
            state = folder.state(name, follow=False)
            if stat.S_ISLNK(state.st_mode):
                if not self.follow_links:
                    self.passed_over["link"] += 1
                    return None
                state = folder.state(name, follow=True)
        except OSError as error:
            if error.errno == errno.EACCES and kind == _FILE:
                return _UNKNOWN_FILE  # in a folder that may be listed but not entered
            self._count_lost(kind, error)
            return None
        if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode):
            return state
        self.passed_over[_kind(state.st_mode)] += 1
        return None

    def _count_lost(self, kind: bytes, error: OSError) -> None:
        lost = "dangling_link" if kind == _LINK else "vanished"
        self.passed_over["link_loop" if error.errno == errno.ELOOP else lost] += 1

    def _enters(self, state: os.stat_result, entered: set[tuple[int, int]]) -> bool:
        if not self.follow_links:
            return True  # without links a tree has no second way into a folder
        place = (state.st_dev, state.st_ino)
        if place in entered:
            self.passed_over["link_loop"] += 1
            return False
        entered.add(place)
        return True


@dataclass(slots=True)
class _Folder:
    """A folder on the walk's stack.

    Attributes:
        location: How the system reaches it; beyond the system's longest path, by `descriptor`.
        path: Relative to the archive's root.
        entries: What is left of it, the next one last: names, each with a NUL and its kind.
        descriptor: Open where the location is too long to be named; -1 elsewhere.
    """

    location: bytes
    path: bytes
    entries: list[bytes]
    descriptor: int = -1

    def inside(self, name: bytes) -> bytes:
        """Path of an entry relative to the archive's root."""
        return os.path.join(self.path, name)

    def state(self, name: bytes, *, follow: bool) -> os.stat_result:
        """Say what an entry is.

        Raises:
            OSError: It cannot be said.
        """
        if self.descriptor >= 0:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=follow)
        return os.stat(os.path.join(self.location, name), follow_symlinks=follow)

    def enter(self, name: bytes) -> "_Folder":
        """Open a folder in this one.

        Raises:
            OSError: It cannot be listed.
        """
        location, path = os.path.join(self.location, name), self.inside(name)
        if len(location) < _LONGEST_PATH:
            return _Folder(location, path, _sorted_entries(location))
        # A name of any depth can be made, step by step; it can be found the same way.
        here = self.descriptor if self.descriptor >= 0 else os.open(self.location, _FOLDER)
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=here)
        finally:
            if self.descriptor < 0:
                os.close(here)
        return _Folder(location, path, _sorted_entries(descriptor), descriptor)

    def close(self) -> None:
        """Give the descriptor back, where there is one."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def modified_ns(state: os.stat_result) -> int:
    """Time of change in nanoseconds since 1970, within the 64 bits that a table has for it.

    A file system may hold any year; 64 bits reach from 1677 to 2262.
    """
    return max(-_LATEST - 1, min(state.st_mtime_ns, _LATEST))


def _sorted_entries(folder: bytes | int) -> list[bytes]:
    # No more than this is kept: a folder may hold a million files. As NUL comes before all that
    # a name can hold, the order is that of the names.
    with os.scandir(folder) as entries:
        return sorted(
            (os.fsencode(entry.name) + b"\0" + _letter(entry) for entry in entries), reverse=True
        )


def _letter(entry: os.DirEntry[bytes] | os.DirEntry[str]) -> bytes:
    if entry.is_symlink():
        return _LINK
    return _FILE if entry.is_file(follow_symlinks=False) else b"-"


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"
