"""Row filters: an address's query to a RowFilter, a RowFilter to SQL and back to a query.

Values are bound to the SQL statement, never written into it; column names come from fixed lists or
from the table's classes, in quotes.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

from cxrbatch.results.table import Table

EQUALITY_COLUMNS = {
    "outcome": "outcome",
    "prediction": "prediction",
    "truth": "truth",
    "view": "view_position",
    "sex": "patient_sex",
    "age": "patient_age_bin",
    "manufacturer": "manufacturer",
}
"""Query parameter -> column that must equal the parameter's value."""

PARAMETERS = (*EQUALITY_COLUMNS, "flag", "right", "path", "ood", "min", "max", "sort")
"""All query parameters of a filter; `min` and `max` name a class: `min[Normal]=0.5`."""

_SORTABLE = (
    *("path", "outcome", "prediction", "truth", "file_size", "ood_score"),
    *("view_position", "patient_sex", "patient_age_bin", "manufacturer"),
)
_MAX_VALUE_LENGTH = 500
_BOUND = re.compile(r"(min|max)\[(.+)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows of a table are selected, and in which order.

    Attributes:
        equal: Pairs of a parameter of `EQUALITY_COLUMNS` and the value to equal.
        flag: A flag that the row must have; empty for no such condition.
        right: Whether prediction and truth must agree (True) or differ (False), which they do only
            where both are known; None for no such condition.
        path: Text that the path must contain, ignoring case; empty for no such condition.
        ood: Smallest `ood_score`, included, in [0, 100]; None for no such condition.
        bounds: Triples of "min" or "max", class name and probability, a bound that is included.
        sort: Column to sort by, with "-" in front for descending; empty for the table's order.
    """

    equal: tuple[tuple[str, str], ...] = ()
    flag: str = ""
    right: bool | None = None
    path: str = ""
    ood: float | None = None
    bounds: tuple[tuple[str, str, float], ...] = ()
    sort: str = ""

    def arguments(self) -> dict[str, str]:
        """Return the filter as query parameters of an address, which `parse_filter` reads again.

        Parameters without a condition are left out: the result is empty for all rows in the table's
        order. Bounds keep all their digits.
        """
        right = {None: "", True: "yes", False: "no"}[self.right]
        bounds = {f"{side}[{name}]": _text_of(bound) for side, name, bound in self.bounds}
        before = {**dict(self.equal), "flag": self.flag, "right": right, "path": self.path}
        ood = "" if self.ood is None else _text_of(self.ood)
        arguments = {**before, "ood": ood, **bounds, "sort": self.sort}
        return {name: text for name, text in arguments.items() if text}

    def where(self) -> tuple[str, list[object]]:
        """Return the SQL condition that selected rows fulfil.

        Returns:
            The text of the condition, "true" where all rows are selected; and the values to bind to
            its question marks, in their order.
        """
        parts = list(self._conditions())
        sql = " AND ".join(f"({condition})" for condition, _ in parts)
        return sql or "true", [value for _, values in parts for value in values]

    def sort_column(self) -> str:
        """Return the column to sort by, in double quotes; `file_row_number` if `sort` is empty."""
        return quote_column(self.sort.removeprefix("-")) if self.sort else "file_row_number"

    def order(self) -> str:
        """Return the text to write after ORDER BY in an SQL statement.

        Rows without a value come last, and rows with equal values are ordered by their number.
        """
        if not self.sort:
            return self.sort_column()
        direction = "DESC" if self.sort.startswith("-") else "ASC"
        return f"{self.sort_column()} {direction} NULLS LAST, file_row_number"

    def _conditions(self) -> Iterator[tuple[str, list[object]]]:
        for parameter, value in self.equal:
            yield f"{EQUALITY_COLUMNS[parameter]} = ?", [value]
        if self.flag:
            yield "list_contains(image_flags, ?)", [self.flag]
        if self.right is not None:
            yield ("prediction = truth" if self.right else "prediction <> truth"), []
        if self.path:
            yield "contains(lower(path), ?)", [self.path.lower()]
        if self.ood is not None:
            yield "ood_score >= ?", [self.ood]
        for side, name, bound in self.bounds:
            yield f"{quote_column(f'p_{name}')} {'>=' if side == 'min' else '<='} ?", [bound]


def parse_filter(
    query: MultiDict[str, str], table: Table, *, others: Sequence[str] = ()
) -> RowFilter:
    """Read a filter from the query of an address.

    Args:
        query: The query; a parameter with an empty value sets no condition.
        table: The table whose rows are selected.
        others: Parameters of the page that are no part of the filter; they set no condition.

    Raises:
        BadRequest: A parameter is unknown, repeated or longer than 500 characters; it names a
            class or column that this table has not; or its value is invalid.
    """
    given = {}
    for name, values in query.lists():
        is_known = name in {*PARAMETERS, *others} - {"min", "max"}
        if not is_known and not _BOUND.fullmatch(name):
            raise BadRequest(f"There is no filter {name[:40]!r}.")
        if len(values) > 1 or len(values[0]) > _MAX_VALUE_LENGTH:
            raise BadRequest(f"The filter {name[:40]!r} is given twice or is too long.")
        if values[0] and name not in others:
            given[name] = values[0]
    if not is_labelled(table) and {"truth", "right"} & given.keys():
        raise BadRequest("This table has no column of the truth.")
    right = given.get("right")
    if right not in (None, "yes", "no"):
        raise BadRequest("The filter 'right' is yes or no.")
    sort = given.get("sort", "")
    if sort and sort.removeprefix("-") not in sortable_columns(table):
        raise BadRequest("Rows cannot be sorted by that.")
    return RowFilter(
        equal=tuple((name, given[name]) for name in EQUALITY_COLUMNS if name in given),
        flag=given.get("flag", ""),
        right=None if right is None else right == "yes",
        path=given.get("path", ""),
        ood=_number(given["ood"], high=100, what="An ood score") if "ood" in given else None,
        bounds=tuple(_bounds(given, table)),
        sort=sort,
    )


def parse_number(
    query: MultiDict[str, str], name: str, *, default: int, least: int, most: int
) -> int:
    """Read a whole number from the query of an address.

    Args:
        query: The query.
        name: The parameter.
        default: Returned where the parameter is absent or empty.
        least: Smallest number that is accepted.
        most: Largest number that is accepted, below 10**9.

    Raises:
        BadRequest: The value is no decimal number from `least` to `most`.
    """
    text = query.get(name) or str(default)
    # The digits are limited first: converting very many takes long.
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    if not (is_number and least <= int(text) <= most):
        raise BadRequest(f"{name} is a whole number from {least} to {most}.")
    return int(text)


def sortable_columns(table: Table) -> list[str]:
    """Return the names of the columns by which rows may be sorted.

    These are path, outcome, prediction, truth if the table has it, file_size, ood_score,
    view_position, patient_sex, patient_age_bin, manufacturer and, for each class, its probability
    `p_<class>`.
    """
    columns = [name for name in _SORTABLE if name != "truth" or is_labelled(table)]
    return [*columns, *(f"p_{name}" for name in table.classes)]


def is_labelled(table: Table) -> bool:
    """Return whether the table has the column `truth`, the class that a label gave each image."""
    return table.provenance.get("labelled") is True


def quote_column(column: str) -> str:
    """Return a column's name in double quotes, so that SQL takes it for nothing but a name."""
    return '"' + column.replace('"', '""') + '"'


def _text_of(bound: float) -> str:
    """The shortest text that is read again as this number."""
    return repr(bound).removesuffix(".0")


def _bounds(given: dict[str, str], table: Table) -> Iterator[tuple[str, str, float]]:
    for parameter, text in given.items():
        match = _BOUND.fullmatch(parameter)
        if match is None:
            continue
        if match[2] not in table.classes:
            raise BadRequest("There is no such class in this table.")
        yield match[1], match[2], _number(text, high=1, what="A probability")


def _number(text: str, *, high: int, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= high:
        raise BadRequest(f"{what} is a number from 0 to {high}.")
    return number
