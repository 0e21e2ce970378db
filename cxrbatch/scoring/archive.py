"""Finds every file of an archive, in the same order on every machine, and lists them on disk.

The members of a container (a zip, a tar or a compressed file) take the container's place.
"""

import errno
import hashlib
import json
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.files import path_to_text
from cxrbatch.reading.containers import MemberFault
from cxrbatch.reading.containers.listing import is_container, list_members
from cxrbatch.reading.outcomes import Outcome, reading_error
from cxrbatch.reading.sniffing import has_container_suffix

_LARGEST_SIZE = _LATEST = (1 << 63) - 1
_LONGEST_PATH = 4096 - 256  # PATH_MAX of Linux less NAME_MAX: the length of an entry's name
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE, _LINK = b"f", b"l"
_UNKNOWN_FILE = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file of an archive, or one member of a container (zip, tar, gz …); not yet read.

    Attributes:
        path: Relative to the folder `Walk.base`, in the bytes of the operating system.
        size: Size in bytes; 0 if it cannot be known.
        modified_ns: Modification time, nanoseconds since 1970; of a member, that of its container.
        member: Name of the member of the container at `path`; None for a file.
        offset: Position of the member, for `reading.containers.open_member`.
        fault: Why it cannot be read (outcome, detail), if the walk saw that; else None. It gets
            a row in the table nevertheless.
    """

    path: bytes
    size: int
    modified_ns: int = 0
    member: bytes | None = None
    offset: int = 0
    fault: MemberFault | None = None


@dataclass(slots=True)
class Walk:
    """All files of an archive, listed while iterating, sorted by the bytes of each path component.

    A container (zip, tar, compressed file) with a suffix of one is replaced by its members in its
    own order; a damaged one also comes itself, after them, with a `fault`. To be iterated once.

    Attributes:
        root: The archive: a folder, or one file.
        follow_links: Follow symbolic links; each folder is entered once, so that loops end.
        skip: (device, inode) of files and folders that this program writes: not yielded.
        passed_over: Number of entries that are not yielded (links, pipes, unreadable folders …) by
            kind, such as "link"; complete after the walk.
    """

    root: Path
    follow_links: bool = False
    skip: frozenset[tuple[int, int]] = frozenset()
    passed_over: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Yield each file and each member of a container; count all other entries in `passed_over`.

        Raises:
            UsageError: The root is missing, a folder that cannot be listed, or neither a folder nor
                a file.
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
        """The folder that paths are relative to: `root`, or its parent if `root` is a file."""
        return self.root.parent if self.root.is_file() else self.root

    def identity(self) -> dict[str, str]:
        """Return values for a table's provenance that distinguish archives in one folder `base`.

        Returns:
            `archive`: the file's name, or "." for a folder. `archive_version`: size and
            modification time; only of a file.

        Raises:
            UsageError: The root is missing or cannot be examined.
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
        # A stack, as folders may be nested deeper than Python recurses.
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
                    yield from self._files(location, os.path.join(folder.path, name), state)
            except OSError:
                self.passed_over["unreadable_folder"] += 1

    def _files(self, location: bytes, path: bytes, state: os.stat_result) -> Iterator[ArchiveFile]:
        """Yield a file; of a container, its members, and then the container if it is damaged."""
        container = ArchiveFile(path, state.st_size, modified_ns(state))
        if not has_container_suffix(location) or not is_container(location):
            yield container
            return
        is_empty = True
        try:
            for member in list_members(location):
                if member.kind != "file":
                    self.passed_over[f"member_{member.kind}"] += 1
                    continue
                is_empty = False
                # Not by `replace`, which takes longer than listing the member.
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
        """Examine an entry; count it and return None if it is neither a file nor a folder."""
        try:
            state = folder.state(name, follow=False)
            if stat.S_ISLNK(state.st_mode):
                if not self.follow_links:
                    self.passed_over["link"] += 1
                    return None
                state = folder.state(name, follow=True)
        except OSError as error:
            if error.errno == errno.EACCES and kind == _FILE:
                return _UNKNOWN_FILE  # its folder may be listed but not entered
            lost = "dangling_link" if kind == _LINK else "vanished"
            self.passed_over["link_loop" if error.errno == errno.ELOOP else lost] += 1
            return None
        if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode):
            return state
        kinds = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
        self.passed_over[kinds.get(stat.S_IFMT(state.st_mode), "device")] += 1
        return None

    def _enters(self, state: os.stat_result, entered: set[tuple[int, int]]) -> bool:
        if not self.follow_links:
            return True  # without links there is one way into each folder
        identity = (state.st_dev, state.st_ino)
        if identity in entered:
            self.passed_over["link_loop"] += 1
            return False
        entered.add(identity)
        return True


@dataclass(slots=True)
class _Folder:
    """A folder on the walk's stack.

    Attributes:
        location: Its path for the operating system.
        path: Its path relative to the archive's root.
        entries: Entries that are left, the next one last: a name, a NUL and a letter for the kind.
        descriptor: Of the open folder, where `location` is too long for a path; else -1.
    """

    location: bytes
    path: bytes
    entries: list[bytes]
    descriptor: int = -1

    def state(self, name: bytes, *, follow: bool) -> os.stat_result:
        """Examine an entry; OSError if that fails."""
        if self.descriptor >= 0:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=follow)
        return os.stat(os.path.join(self.location, name), follow_symlinks=follow)

    def enter(self, name: bytes) -> "_Folder":
        """List a folder in this one; OSError if that fails."""
        location, path = os.path.join(self.location, name), os.path.join(self.path, name)
        if len(location) < _LONGEST_PATH:
            return _Folder(location, path, _sorted_entries(location))
        # Folders of any depth can be made step by step; they are found in the same way.
        here = self.descriptor if self.descriptor >= 0 else os.open(self.location, _FOLDER)
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=here)
        finally:
            if self.descriptor < 0:
                os.close(here)
        return _Folder(location, path, _sorted_entries(descriptor), descriptor)

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def modified_ns(state: os.stat_result) -> int:
    """Return a file's modification time in nanoseconds since 1970, clipped to signed 64 bits."""
    return max(-_LATEST - 1, min(state.st_mtime_ns, _LATEST))


def _sorted_entries(folder: bytes | int) -> list[bytes]:
    # A folder may contain a million files, so no more is kept of each. NUL sorts before every byte
    # of a name, so the order is that of the names.
    with os.scandir(folder) as entries:
        marked = (
            os.fsencode(e.name) + (b"\0l" if e.is_symlink() else b"\0f" if e.is_file() else b"\0-")
            for e in entries
        )
        return sorted(marked, reverse=True)


# Of each file: size, modification time, length of its path, length of its JSON (see `_record`).
_HEAD = struct.Struct("<QqII")
_OFFSET = struct.Struct("<Q")
_FILES, _OFFSETS, _BUFFER = "manifest", "manifest.offsets", 1 << 20


def write_manifest(walk: Walk, folder: Path, *, found: Callable[[int], object]) -> tuple[int, str]:
    """Walk over an archive and write the list of its files, the manifest, to two files on disk.

    It is not kept in memory, as there may be too many files.

    Args:
        walk: Yields the archive's files; the list has them in the same order.
        folder: The folder for the manifest's two files.
        found: Called after each file with the number of files so far; its result is ignored.

    Returns:
        Number of files; SHA-256 of the list (names, sizes and times), as hexadecimal digits.

    Raises:
        UsageError: The archive cannot be read.
        OSError: The manifest cannot be written.
    """
    digest, count, position = hashlib.sha256(), 0, 0
    with (
        (folder / _FILES).open("wb", buffering=_BUFFER) as files,
        (folder / _OFFSETS).open("wb", buffering=_BUFFER) as offsets,
    ):
        for count, file in enumerate(walk, start=1):
            record = _record(file)
            digest.update(record)
            files.write(record)
            offsets.write(_OFFSET.pack(position))
            position += len(record)
            found(count)
        for stream in (files, offsets):
            stream.flush()
            os.fsync(stream.fileno())
    return count, digest.hexdigest()


def read_manifest(folder: Path, *, start: int, stop: int) -> Iterator[ArchiveFile]:
    """Yield the files `start` to `stop - 1` of a manifest; none if `start` is not below `stop`.

    Args:
        folder: Contains the manifest, as `write_manifest` wrote it.
        start: Number of the first file, from 0.
        stop: Number after the last file, at most the number of files.

    Raises:
        OSError: The manifest cannot be read.
    """
    if start >= stop:
        return
    with (folder / _OFFSETS).open("rb") as offsets:
        offsets.seek(start * _OFFSET.size)
        (offset,) = _OFFSET.unpack(offsets.read(_OFFSET.size))
    with (folder / _FILES).open("rb", buffering=_BUFFER) as files:
        files.seek(offset)
        for _ in range(start, stop):
            size, modified_ns, path_length, json_length = _HEAD.unpack(files.read(_HEAD.size))
            file = ArchiveFile(files.read(path_length), size, modified_ns)
            yield _with_member(file, files.read(json_length)) if json_length else file


def _record(file: ArchiveFile) -> bytes:
    """Pack a file; a member or a fault goes into JSON: [name, offset, [outcome, detail]]."""
    inside = b""
    if file.member is not None or file.fault is not None:
        member = None if file.member is None else file.member.decode("latin-1")
        fault = "null"
        if file.fault is not None:
            fault = json.dumps([file.fault.outcome.name, file.fault.detail])
        # A third of the time that json.dumps takes for the list; there may be millions.
        inside = f"[{json.dumps(member)}, {file.offset}, {fault}]".encode()
    head = _HEAD.pack(file.size, file.modified_ns, len(file.path), len(inside))
    return head + file.path + inside


def _with_member(file: ArchiveFile, content: bytes) -> ArchiveFile:
    member, offset, fault = json.loads(content)
    return replace(
        file,
        member=None if member is None else member.encode("latin-1"),
        offset=offset,
        fault=None if fault is None else MemberFault(Outcome[fault[0]], fault[1]),
    )
