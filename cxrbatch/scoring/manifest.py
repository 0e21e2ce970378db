"""The manifest: the files of a walk on disk, in its order, each found by its number."""

import hashlib
import json
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from cxrbatch.reading.containers import MemberFault
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import ArchiveFile, Walk

# Size, modification time, length of the name, and of what is said of a member or a fault.
_HEAD = struct.Struct("<QqII")
_OFFSET = struct.Struct("<Q")
_BUFFER = 1 << 20
_OFFSETS_HELD = 4096
_FILES, _OFFSETS = "manifest", "manifest.offsets"


class ManifestWriter:
    """Writes a walk to disk, holding none of it."""

    def __init__(self, walk: Walk, folder: Path) -> None:
        """Write nothing yet.

        Args:
            walk: The walk.
            folder: Where the manifest's two files go.
        """
        self._walk = walk
        self._folder = folder
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hash over names, sizes and times; complete when the walk is."""
        return self._digest.hexdigest()

    def write(self) -> Iterator[int]:
        """Write all files of the walk, yielding their count as it grows.

        Raises:
            UsageError: The archive cannot be read.
            OSError: The manifest cannot be written.
        """
        with (
            (self._folder / _FILES).open("wb", buffering=_BUFFER) as files,
            (self._folder / _OFFSETS).open("wb") as offsets,
        ):
            yield from self._write(files, offsets)
            for file in (files, offsets):
                file.flush()
                os.fsync(file.fileno())

    def _write(self, files: IO[bytes], offsets: IO[bytes]) -> Iterator[int]:
        at, held = 0, array("Q")
        for count, found in enumerate(self._walk, start=1):
            record = _record(found)
            self._digest.update(record)
            files.write(record)
            held.append(at)
            at += len(record)
            if len(held) == _OFFSETS_HELD:
                held.tofile(offsets)
                held = array("Q")
            yield count
        held.tofile(offsets)


def read_manifest(folder: Path, *, start: int, stop: int) -> Iterator[ArchiveFile]:
    """Read some files of a manifest, without the others.

    Args:
        folder: Where the manifest is.
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
            size, modified_ns, name, inside = _HEAD.unpack(files.read(_HEAD.size))
            file = ArchiveFile(files.read(name), size, modified_ns)
            yield _with_inside(file, files.read(inside)) if inside else file


def _record(file: ArchiveFile) -> bytes:
    inside = b""
    if file.member is not None or file.fault is not None:
        member = None if file.member is None else file.member.decode("latin-1")
        fault = "null"
        if file.fault is not None:
            fault = json.dumps([file.fault.outcome.name, file.fault.detail])
        # As of a list of all three, in a third of the time: there may be millions.
        inside = f"[{json.dumps(member)}, {file.offset}, {fault}]".encode()
    head = _HEAD.pack(file.size, file.modified_ns, len(file.path), len(inside))
    return head + file.path + inside


def _with_inside(file: ArchiveFile, inside: bytes) -> ArchiveFile:
    member, offset, fault = json.loads(inside)
    return replace(
        file,
        member=None if member is None else member.encode("latin-1"),
        offset=offset,
        fault=None if fault is None else MemberFault(Outcome[fault[0]], fault[1]),
    )
