"""Joins the tables of all parts of an archive to the table of the whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbatch.errors import UsageError
from cxrbatch.files import partial_folder, writing
from cxrbatch.results.columns import table_schema
from cxrbatch.results.table import Table, open_table
from cxrbatch.scoring.plan import list_differences
from cxrbatch.scoring.table_writer import Counts, write_table

_OF_A_PART = ("part", "files", "rows", "outcomes")


def merge_parts(output: Path, parts: Sequence[Path]) -> Counts:
    """Join the tables of all parts of an archive (`score --shard 1/2`, `2/2`) into one table.

    The table has the same bytes that one run over the whole archive writes. The caller has the
    output's partial folder locked, see `files.claimed`.

    Args:
        output: The table to write; an existing file is replaced.
        parts: The tables of all parts, in any order.

    Returns:
        The counts of the joined table.

    Raises:
        UsageError: A table is not a part, a part is missing or given twice, or the parts differ in
            anything that decides their rows, such as archive, checkpoint or recipe.
        TableError: A part cannot be read, or the output cannot be written.
    """
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
            provenance=lambda counts: {**common, **counts.to_provenance()},
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
