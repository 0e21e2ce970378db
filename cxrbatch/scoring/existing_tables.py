"""What becomes of tables that exist: rows kept by an update, and tables of parts joined to one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import UsageError
from cxrbatch.files import partial_folder, path_to_text, text_to_place, writing
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import SCHEMA_VERSION, table_schema
from cxrbatch.results.table import Table, open_table
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.plan import list_differences
from cxrbatch.scoring.table_writer import Counts, write_table

TRIED_AGAIN = frozenset(
    code.value
    for code in (
        Outcome.UNREADABLE_FILE,
        Outcome.DECODER_CRASHED,
        Outcome.OUT_OF_MEMORY,
        Outcome.READER_KILLED,
    )
)
"""Outcomes that the disk or the machine may have caused: an update reads these files again."""


@dataclass(frozen=True, slots=True)
class _FileRows:
    """All rows of one file, and the place of the file in the walk's order."""

    path: str
    place: list[bytes]
    size: int
    modified_ns: int
    is_tried_again: bool
    rows: pa.Table


class EarlierRows:
    """Finds the rows of unchanged files in the table that an update replaces.

    The table's files are in the order of the walk over the archive. So the table is read once, from
    front to back, while files are asked for in that order; memory holds a part of its rows.
    """

    def __init__(self, table: Table) -> None:
        """Open the table and read the rows of its first file.

        Args:
            table: The table that is updated.

        Raises:
            TableError: The table is damaged.
        """
        self._files = _files(table)
        self._next = next(self._files, None)

    def take(self, file: ArchiveFile) -> pa.Table | None:
        """Return the rows of a file from the earlier table, if the file need not be read again.

        Args:
            file: Later in the walk's order than the file of the call before.

        Returns:
            One row per frame. None if the table has no such file, its size or modification time is
            another, or the outcome of one of its rows is in `TRIED_AGAIN`: failures that the disk
            or the machine may have caused.

        Raises:
            TableError: The table is damaged.
        """
        place = file.path.split(b"/")
        while self._next is not None and self._next.place < place:
            self._next = next(self._files, None)
        following = self._next
        if following is None or following.place != place:
            return None
        # Members of a container share one place; in an unchanged container their order is the same.
        path = path_to_text(file.path, file.member)
        if following.path == path:
            self._next = next(self._files, None)
        same = (following.path, following.size, following.modified_ns) == (
            path,
            file.size,
            file.modified_ns,
        )
        return following.rows if same and not following.is_tried_again else None


def _files(table: Table) -> Iterator[_FileRows]:
    rest: pa.Table | None = None
    for group in table.row_groups():
        rows = group if rest is None else pa.concat_tables([rest, group])
        starts = [row for row, frame in enumerate(rows["frame"].to_pylist()) if frame == 0]
        rest = rows.slice(starts[-1]) if starts else rows
        yield from _kept(rows, starts)
    if rest is not None and rest.num_rows:
        yield from _kept(rest, [0, rest.num_rows])


def _kept(rows: pa.Table, starts: list[int]) -> Iterator[_FileRows]:
    """Yield the rows of each file; all but the last of `starts` are the first row of a file."""
    names = ("path", "file_size", "file_modified_ns")
    columns = [rows[name].take(pa.array(starts[:-1], pa.int64())).to_pylist() for name in names]
    outcomes = rows["outcome"].to_pylist()
    for start, stop, path, size, modified_ns in zip(starts, starts[1:], *columns, strict=False):
        is_tried_again = not TRIED_AGAIN.isdisjoint(outcomes[start:stop])
        yield _FileRows(
            path, _place(path), size, modified_ns, is_tried_again, rows.slice(start, stop - start)
        )


def _place(path: str | None) -> list[bytes]:
    """Return a file's place in the walk's order; one before all files for an invalid path."""
    try:
        return text_to_place(path or "")[0].split(b"/")
    except ValueError:
        return []


def updatable(fingerprint: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Select the values of a run's fingerprint that must equal those of a table to be updated.

    Left out are the version of an archive that is one file, as an update compares each file; of a
    table of an older schema, whose rows are converted, the schema's version; and the archive's name
    if the table, an older one, does not contain it.

    Args:
        fingerprint: Everything that decides the run's rows, by name; not changed.
        table: The table.

    Returns:
        A new dict with the other values.
    """
    omitted = {"archive_version"} | ({"archive"} - table.provenance.keys())
    omitted |= {"schema_version"} if table.is_older else set()
    return {name: value for name, value in fingerprint.items() if name not in omitted}


def is_up_to_date(table: Table, manifest_sha256: str) -> bool:
    """Whether an update of a table would change nothing.

    True if the table was made from the same list of files (paths, sizes and times) and no row has
    an outcome of `TRIED_AGAIN` (failures that the disk or the machine may have caused). False for
    a table of an older schema, or one that does not name its archive.

    Args:
        table: The table.
        manifest_sha256: Hash of the list of the archive's files now, from `write_manifest`.

    Raises:
        TableError: The table is damaged.
    """
    made = table.provenance
    if table.is_older or made.get("manifest_sha256") != manifest_sha256 or "archive" not in made:
        return False
    # The rows are searched, as the counts in the metadata may be of another table.
    outcomes = table.read(["outcome"])["outcome"]
    return not pc.any(pc.is_in(outcomes, pa.array(sorted(TRIED_AGAIN)))).as_py()


_OF_A_PART = ("part", "files", "rows", "outcomes")
# Rows of older parts are converted.
_OF_TODAY = {"schema_version": SCHEMA_VERSION}


def merge_parts(output: Path, parts: Sequence[Path]) -> Counts:
    """Join the tables of all parts of an archive (`score --shard 1/2`, `2/2`) into one table.

    The table has the same bytes that one run over the whole archive writes, unless parts are of an
    older schema. The caller has the output's partial folder locked, see `files.claimed`.

    Args:
        output: The table to write; an existing file is replaced.
        parts: The tables of all parts, one at least, in any order.

    Returns:
        The counts of the joined table.

    Raises:
        UsageError: There are no parts, a table is no part, one is missing or given twice, or they
            differ in anything that decides their rows, such as archive, checkpoint or recipe.
        TableError: A part cannot be read, or the output cannot be written.
    """
    if not parts:
        raise UsageError("no parts are given; name the tables of all parts")
    tables = _in_order([open_table(path) for path in parts])
    common = _common(tables[0])
    for table in tables[1:]:
        if differ := list_differences(common, _common(table)):
            raise UsageError(f"{table.path} does not go with {tables[0].path}: {differ}")
    with writing(output):
        return write_table(
            output,
            (group for table in tables for group in table.row_groups()),
            within=partial_folder(output),
            schema=table_schema(tables[0].classes, heatmap_size=common["heatmap_size"]),
            files=sum(table.provenance["files"] for table in tables),
            provenance=lambda counts: {**common, **_OF_TODAY, **counts.to_provenance()},
        )


def _common(table: Table) -> Mapping[str, Any]:
    return {key: value for key, value in table.provenance.items() if key not in _OF_A_PART}


def _in_order(tables: Sequence[Table]) -> list[Table]:
    numbered: dict[int, Table] = {}
    for table in tables:
        number, _, of = str(table.provenance.get("part", "")).partition("/")
        is_counted = type(table.provenance.get("files")) is int
        if not (number.isdecimal() and of.isdecimal() and is_counted):
            raise UsageError(f"{table.path} is not a part; parts come from score --shard")
        if int(of) != len(tables) or int(number) in numbered:
            doubled = numbered.get(int(number))
            why = f"{doubled.path} is it too" if doubled else f"{len(tables)} tables were given"
            raise UsageError(f"{table.path} is part {number} of {of}, and {why}")
        numbered[int(number)] = table
    return [numbered[number] for number in sorted(numbered)]
