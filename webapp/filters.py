"""Which rows, in which order: an address's query to a filter, a filter to SQL, and back.

Values are bound, never written into SQL; columns come from lists alone.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

from cxrbatch.results.table import Table

EQUAL = {
    "outcome": "outcome",
    "prediction": "prediction",
    "truth": "truth",
    "view": "view_position",
    "sex": "patient_sex",
    "age": "patient_age_bin",
    "manufacturer": "manufacturer",
}
"""Parameter -> column that has to have its value."""

PARAMETERS = (*EQUAL, "flag", "right", "path", "min", "max", "sort")
"""All that a filter is made of; `min` and `max` name a class: `min[Normal]=0.5`."""

_SORTABLE = (
    *("path", "outcome", "prediction", "truth", "file_size"),
    *("view_position", "patient_sex", "patient_age_bin", "manufacturer"),
)
_LONGEST_VALUE = 500
_BOUND = re.compile(r"(min|max)\[(.+)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice of rows and their order.

    Attributes:
        equal: (parameter of `EQUAL`, value).
        flag: A flag that the row has; empty for any.
        right: Whether prediction and truth agree; None for any.
        path: Text in the path, capitals or not; empty for any.
        bounds: ("min" or "max", class, probability).
        sort: A column, after "-" for the highest first; empty for the table's order.
    """

    equal: tuple[tuple[str, str], ...] = ()
    flag: str = ""
    right: bool | None = None
    path: str = ""
    bounds: tuple[tuple[str, str, float], ...] = ()
    sort: str = ""

    def arguments(self) -> dict[str, str]:
        """Give it as an address's query, empty for all rows in the table's order."""
        given = dict(self.equal)
        if self.flag:
            given["flag"] = self.flag
        if self.right is not None:
            given["right"] = "yes" if self.right else "no"
        if self.path:
            given["path"] = self.path
        given |= {f"{side}[{name}]": f"{bound:g}" for side, name, bound in self.bounds}
        if self.sort:
            given["sort"] = self.sort
        return given

    def where(self) -> tuple[str, list[object]]:
        """Give the condition on a row, and the values to bind."""
        parts = list(self._conditions())
        sql = " AND ".join(f"({condition})" for condition, _ in parts)
        return sql or "true", [value for _, values in parts for value in values]

    def key(self) -> str:
        """Give the column that comes first in the order."""
        return quoted(self.sort.removeprefix("-")) if self.sort else "file_row_number"

    def order(self) -> str:
        """Give the order of rows; every row has one place in it."""
        if not self.sort:
            return self.key()
        way = "DESC" if self.sort.startswith("-") else "ASC"
        return f"{self.key()} {way} NULLS LAST, file_row_number"

    def _conditions(self) -> Iterator[tuple[str, list[object]]]:
        for parameter, value in self.equal:
            yield f"{EQUAL[parameter]} = ?", [value]
        if self.flag:
            yield "list_contains(flags, ?)", [self.flag]
        if self.right is not None:
            yield ("prediction = truth" if self.right else "prediction <> truth"), []
        if self.path:
            yield "contains(lower(path), ?)", [self.path.lower()]
        for side, name, bound in self.bounds:
            yield f"{quoted(f'p_{name}')} {'>=' if side == 'min' else '<='} ?", [bound]


def parse_filter(query: MultiDict[str, str], table: Table, *, beside: Sequence[str] = ()) -> Filter:
    """Read a filter off an address.

    Args:
        query: Its query; what is empty is taken for absent.
        table: What it is about.
        beside: Other parameters that the page takes.

    Raises:
        BadRequest: A parameter is unknown, doubled or makes no sense for this table.
    """
    given = {}
    for name, values in query.lists():
        is_plain = name in {*PARAMETERS, *beside} - {"min", "max"}
        if not is_plain and not _BOUND.fullmatch(name):
            raise BadRequest(f"There is no filter {name[:40]!r}.")
        if len(values) > 1 or len(values[0]) > _LONGEST_VALUE:
            raise BadRequest(f"The filter {name[:40]!r} is given twice or is too long.")
        if values[0] and name not in beside:
            given[name] = values[0]
    if not is_labelled(table) and {"truth", "right"} & given.keys():
        raise BadRequest("This table knows no truth.")
    return Filter(
        equal=tuple((name, given[name]) for name in EQUAL if name in given),
        flag=given.get("flag", ""),
        right=_yes_or_no(given.get("right")),
        path=given.get("path", ""),
        bounds=tuple(_bounds(given, table)),
        sort=_sort(given.get("sort", ""), table),
    )


def sortable(table: Table) -> list[str]:
    """Columns that rows may be ordered by."""
    known = [name for name in _SORTABLE if name != "truth" or is_labelled(table)]
    return [*known, *(f"p_{name}" for name in table.classes)]


def is_labelled(table: Table) -> bool:
    """Whether the table has the column `truth`."""
    return table.provenance.get("labelled") is True


def quoted(column: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + column.replace('"', '""') + '"'


def _yes_or_no(value: str | None) -> bool | None:
    if value not in (None, "yes", "no"):
        raise BadRequest("The filter 'right' is yes or no.")
    return None if value is None else value == "yes"


def _bounds(given: dict[str, str], table: Table) -> Iterator[tuple[str, str, float]]:
    for parameter, text in given.items():
        match = _BOUND.fullmatch(parameter)
        if match is None:
            continue
        if match[2] not in table.classes:
            raise BadRequest("There is no such class in this table.")
        try:
            bound = float(text)
        except ValueError:
            bound = math.nan
        if not 0 <= bound <= 1:
            raise BadRequest("A probability is a number from 0 to 1.")
        yield match[1], match[2], bound


def _sort(given: str, table: Table) -> str:
    if given and given.removeprefix("-") not in sortable(table):
        raise BadRequest("Rows cannot be sorted by that.")
    return given
