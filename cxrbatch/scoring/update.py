"""Rows of an earlier table that still hold: their files have not changed since."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.paths import path_to_text, text_to_place
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.table import Table
from cxrbatch.scoring.archive import ArchiveFile

TRIED_AGAIN = frozenset(
    code.value
    for code in (
        Outcome.UNREADABLE_FILE,
        Outcome.DECODER_CRASHED,
        Outcome.OUT_OF_MEMORY,
        Outcome.READER_KILLED,
    )
)
"""Outcomes that may be due to the disk or the machine: an update reads these files again."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """All rows of one file."""

    path: str
    place: list[bytes]
    size: int
    modified_ns: int
    outcome: str
    rows: pa.Table


class EarlierRows:
    """Finds the rows of files in a table that is in the order of the walk.

    Both are read once, side by side, so nothing is held but a row group.
    """

    def __init__(self, table: Table) -> None:
        """Read nothing yet."""
        self._files = _files(table)
        self._next = next(self._files, None)

    def take(self, file: ArchiveFile) -> pa.Table | None:
        """Give the rows of a file that is as it was; None where it is to be read.

        Args:
            file: Later in the walk's order than the last one asked for.

        Raises:
            TableError: The table is damaged.
        """
        place = file.path.split(b"/")
        while self._next is not None and self._next.place < place:
            self._next = next(self._files, None)
        found = self._next
        if found is None or found.place != place:
            return None
        # Members of one container have one place, and in one that is as it was one order.
        path = path_to_text(file.path, file.member)
        if found.path == path:
            self._next = next(self._files, None)
        same = (found.path, found.size, found.modified_ns) == (path, file.size, file.modified_ns)
        return found.rows if same and found.outcome not in TRIED_AGAIN else None


def _files(table: Table) -> Iterator[_Kept]:
    rest: pa.Table | None = None
    for group in table.row_groups():
        rows = group if rest is None else pa.concat_tables([rest, group])
        starts = [row for row, frame in enumerate(rows["frame"].to_pylist()) if frame == 0]
        rest = rows.slice(starts[-1]) if starts else rows
        yield from _kept(rows, starts)
    if rest is not None and rest.num_rows:
        yield from _kept(rest, [0, rest.num_rows])


def _kept(rows: pa.Table, starts: list[int]) -> Iterator[_Kept]:
    """The files that begin at all places but the last."""
    names = ("path", "file_size", "file_modified_ns", "outcome")
    columns = [rows[name].take(pa.array(starts[:-1], pa.int64())).to_pylist() for name in names]
    for start, stop, path, size, modified_ns, outcome in zip(
        starts, starts[1:], *columns, strict=False
    ):
        yield _Kept(path, _place(path), size, modified_ns, outcome, rows.slice(start, stop - start))


def _place(path: str | None) -> list[bytes]:
    """The place of a file in the walk; of a path that no run writes one before all files."""
    try:
        return text_to_place(path or "")[0].split(b"/")
    except ValueError:
        return []


def updatable(fingerprint: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Give the part of a run's fingerprint that a table must share to be updated by the run.

    The version of an archive that is one file is left out, as an update compares file by file, and
    so is the archive's name where an older table does not have it.
    """
    unasked = {"archive_version"} | ({"archive"} - table.provenance.keys())
    return {name: value for name, value in fingerprint.items() if name not in unasked}


def is_up_to_date(table: Table, manifest_sha256: str) -> bool:
    """Whether an update would change nothing: the files are those of the table, and none failed
    in a way that is tried again.

    Raises:
        TableError: The table is damaged.
    """
    made = table.provenance
    if made.get("manifest_sha256") != manifest_sha256 or "archive" not in made:
        return False
    # The rows are asked, not the counts in the metadata: those may be of another table.
    outcomes = table.read(["outcome"])["outcome"]
    return not pc.any(pc.is_in(outcomes, pa.array(sorted(TRIED_AGAIN)))).as_py()
