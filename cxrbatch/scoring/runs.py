"""What a run is and how far it is: its state, its shards and its culprits, all on disk."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrbatch.errors import TableError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.claim import RUN_STATE
from cxrbatch.scoring.durable import sync_folder, written_whole
from cxrbatch.workers.isolation import Fault

_CULPRITS = "culprits"
_OUTCOMES = {code.value: code for code in Outcome}


@dataclass(frozen=True, slots=True)
class Part:
    """One of the equal parts that an archive is scored in.

    Attributes:
        number: From 1.
        of: Number of parts.
    """

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def numbers(self, files: int) -> range:
        """The files of this part by their numbers in the manifest."""
        return range(files * (self.number - 1) // self.of, files * self.number // self.of)


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose walk is complete.

    Attributes:
        fingerprint: All that decides what the rows will be, beside the archive itself.
        files: In the manifest.
        manifest_sha256: Hash of the manifest.
        passed_over: What the walk did not list, by kind.
        part: The part of the manifest that is scored.
        shard_files: Files per shard.
        update: Whether rows are taken from the table that is there.
    """

    fingerprint: dict[str, Any]
    files: int
    manifest_sha256: str
    passed_over: dict[str, int]
    part: Part
    shard_files: int
    update: bool

    @property
    def numbers(self) -> range:
        """The files that this run scores, by their numbers in the manifest."""
        return self.part.numbers(self.files)

    @property
    def shards(self) -> list[range]:
        """The same, shard by shard."""
        whole = self.numbers
        return [whole[at : at + self.shard_files] for at in range(0, len(whole), self.shard_files)]

    def save(self, folder: Path) -> None:
        """Make the folder that of a run that can go on.

        Raises:
            OSError: It cannot be written.
        """
        with written_whole(folder / RUN_STATE) as file:
            file.write(json.dumps(asdict(self), sort_keys=True).encode())


def saved_run(folder: Path) -> Run | None:
    """Give the run of a folder; None where there is none.

    Raises:
        TableError: Its state is damaged.
    """
    try:
        state = json.loads((folder / RUN_STATE).read_bytes())
        return Run(**{**state, "part": Part(**state["part"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise TableError(f"{folder} is damaged; remove it and run again") from None


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard is kept once it is whole."""
    return folder / f"shard-{index:06d}.arrow"


class Culprits:
    """Files that ended the process that read them, so that they are not met again.

    One line of JSON each, on the disk before the run goes on. Several threads may add.
    """

    def __init__(self, folder: Path) -> None:
        """Read those that are known.

        Raises:
            OSError: The list cannot be read or written.
        """
        self._known = dict(_read(folder / _CULPRITS))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / _CULPRITS, flags, 0o644)
        sync_folder(folder)

    def get(self, number: int) -> Fault | None:
        """The fault of a file, if it is known."""
        return self._known.get(number)

    def add(self, number: int, fault: Fault) -> None:
        """Write one down.

        Raises:
            OSError: It cannot be written.
        """
        record = json.dumps([number, fault.outcome.value, fault.detail])
        # A line begins anew, as the one before may have been cut short.
        os.write(self._descriptor, f"\n{record}\n".encode())
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the list."""
        os.close(self._descriptor)


def _read(path: Path) -> Iterator[tuple[int, Fault]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            number, outcome, detail = json.loads(line)
            yield int(number), Fault(_OUTCOMES[outcome], str(detail), lasting=True)
        except (ValueError, TypeError, KeyError):
            continue  # empty, or cut short when the run was killed
