"""Reads the rows of labels in CSV of usual separators and encodings, in bounded memory."""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, BinaryIO, TextIO

import pandas as pd

from cxrbatch.errors import LabelError

if TYPE_CHECKING:
    import _csv

# Characters of a field, and of a row of CSV.
LONGEST_VALUE, _LONGEST_ROW = 1 << 16, 1 << 20
TOO_LONG = f"a field is longer than {LONGEST_VALUE} characters"
# Rows that are checked together, and their characters.
_CHUNK_ROWS, _CHUNK_CHARACTERS = 1 << 16, 1 << 22
# Lines among which the header is looked for: titles and remarks may stand above it.
_HEAD_LINES = 10
# Lines of one row that prove a stray quote, if each has as many fields as the header.
_JOINED_ROWS = 4

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n]?)"?\s*', re.IGNORECASE)
_ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8",
    "cp1252": "Windows-1252",
    "utf-32": "UTF-32",
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "UTF-16"),
}
_BOMS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_MOST_BLANK = 2_000_000

Count = Callable[[Sequence[str]], int]
"""Returns how many texts of a row are names that columns of labels have."""

Chunks = Iterator[pd.DataFrame]
"""Yields the rows of a file some at a time, each time as a DataFrame of texts without outer spaces.

Its columns are positions of columns in the file, from 0; its index is the row's number, or its last
line in CSV, from 1. An empty field, and one that the row lacks, is "".
"""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A file of labels whose header was read.

    Attributes:
        form: What the file is, for a message: "CSV in UTF-8, separated by commas".
        unit: What numbers its rows in messages: "line" or "row".
        header: Names of the columns.
        read: Takes positions of columns and yields the rows below the header, see `Chunks`; rows
            of blank fields may be left out. May be called once.
    """

    form: str
    unit: str
    header: tuple[str, ...]
    read: Callable[[Sequence[int]], Chunks]


def encodings_of(head: bytes) -> tuple[str, ...]:
    """Return the encodings that a text which starts with these bytes may have, the likeliest first.

    A byte order mark decides; then NULs in most of every second byte, as UTF-16 without a mark has.
    Else it is UTF-8 or, where it is not, Windows-1252.
    """
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return (encoding,)
    halves = head[0::2], head[1::2]
    for half, other, encoding in ((0, 1, "utf-16-be"), (1, 0, "utf-16-le")):
        if 2 * halves[half].count(0) > len(halves[half]) > 20 * halves[other].count(0):
            return (encoding,)
    return "utf-8", "cp1252"


def frame_of(
    columns: Sequence[Sequence[str]], places: Sequence[int], numbers: Sequence[int] | range
) -> pd.DataFrame:
    """Make a DataFrame of texts, with the spaces around each text removed.

    Args:
        columns: The texts of each column.
        places: Names of the columns of the DataFrame.
        numbers: Its index: the number of each row in its file.
    """
    texts = pd.DataFrame(dict(zip(places, columns, strict=True)), numbers, dtype="string")
    return texts.apply(lambda column: column.str.strip())


class _Lines:
    """The lines of CSV: no row is read beyond its limit, nor one that a stray quote prolongs.

    Attributes:
        head: The first lines, each of which may be as long as a row. They are read again.
        separator: What divides the fields; set before the first row ends.
        width: Number of fields of the header; set likewise.
    """

    def __init__(self, text: TextIO, file: str) -> None:
        self._text = text
        self._file = file
        self._row: list[str] = []
        self._begin, self._length = 1, 0
        self.separator, self.width = "", 0
        self.head = [*itertools.islice(iter(self._read, ""), _HEAD_LINES)]
        self._again = deque(self.head)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line and self._row:
            raise self._open_quote()
        if not line:
            raise StopIteration
        self._row.append(line)
        self._length += len(line)
        return line

    def _read(self) -> str:
        left = max(1, _LONGEST_ROW - self._length)
        line = self._text.readline(left)
        if len(line) == left:
            raise self.too_long(f"a row has more than {_LONGEST_ROW:,} characters")
        return line

    def end_row(self) -> None:
        """End a row behind the line that was read last.

        Raises:
            LabelError: The row holds other rows, which a stray quote made one field.
        """
        if len(self._row) > 1 and self._holds_rows():
            raise self._open_quote()
        self._begin += len(self._row)
        self._row.clear()
        self._length = 0

    def _holds_rows(self) -> bool:
        """Whether text follows a quote that ends a field, or each of many lines is a row."""
        try:
            [*csv.reader(self._row, delimiter=self.separator, strict=True)]
        except csv.Error:
            return True
        widths = {line.count(self.separator) + 1 for line in self._row}
        return len(self._row) >= _JOINED_ROWS and widths == {self.width}

    def _open_quote(self) -> LabelError:
        return LabelError(
            f"{self._file}, line {self._begin}: a field begins with a quote that makes one field "
            "of the rows below; remove the quote, or write it twice inside a quoted field"
        )

    def too_long(self, what: str) -> LabelError:
        """Return the error that the row, or a field of it, is too long."""
        return LabelError(
            f"{self._file}, line {self._begin}: {what}, perhaps because a quote has no end; write "
            "one image a line"
        )


def open_csv(stream: BinaryIO, encoding: str, file: str, count: Count) -> LabelTable:
    """Find the separator and the header of a CSV file: comma, semicolon, tab or vertical bar.

    A first line `sep=` may name another. It is the separator that divides the header into most
    names of columns; of several, the one that this line names, else that of the most parts.

    Args:
        stream: The file, opened for reading bytes.
        encoding: One of `encodings_of`.
        file: Its path, for messages.
        count: Tells the header from other rows.

    Raises:
        LabelError: A line has 1,048,576 characters or more, or a field more than 131,072; a quote
            joins rows, or never ends; or the columns are written as rows. `LabelTable.read` raises
            it too, and where a row has more fields than the header, or 2,000,001 rows are blank.
        UnicodeDecodeError: The file is not in this encoding. `LabelTable.read` raises it too.
    """
    # By `csv` and not `pandas.read_csv`, which has no limit for a row without end, and does not say
    # on which line of the file a row stands.
    lines = _Lines(io.TextIOWrapper(stream, encoding=encoding, newline=""), file)
    separator, place, rows = _divided(lines.head, count)
    header = tuple(name.strip() for name in rows[place]) if rows else ()
    check_upright(rows, place, count, file)
    lines.separator, lines.width = separator, len(header)
    reader = csv.reader(lines, delimiter=separator)
    with _csv_explained(lines):
        for _ in itertools.islice(reader, place + 1):
            lines.end_row()
    by = _SEPARATORS.get(separator, repr(separator))
    form = f"CSV in {_ENCODINGS[encoding]}" + (f", separated by {by}" if len(header) > 1 else "")
    return LabelTable(form, "line", header, functools.partial(_csv_chunks, reader, lines, file))


def _divided(head: Sequence[str], count: Count) -> tuple[str, int, list[list[str]]]:
    """Find the separator of some lines, the place of the header, and the rows that they are."""
    stated = _SEPARATOR_LINE.fullmatch(head[0]) if head else None
    named = stated[1] if stated else ""
    parsed = {sep: _parsed(head, sep) for sep in dict.fromkeys([named or ",", *_SEPARATORS])}
    places = {sep: header_place(rows, count) for sep, rows in parsed.items()}
    headers = {sep: parsed[sep][at] if parsed[sep] else [] for sep, at in places.items()}
    best = max(parsed, key=lambda sep: (count(headers[sep]), sep == named, len(headers[sep])))
    return best, places[best], parsed[best]


def _parsed(head: Sequence[str], separator: str) -> list[list[str]]:
    """The rows that some lines are with a separator, up to a field that is too long."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(csv.reader(head, delimiter=separator))
    return rows


def header_place(rows: Sequence[Sequence[str]], count: Count) -> int:
    """Return the position of the header among the first rows of a file.

    Among rows that are neither empty nor a remark (# or `sep=`) it is the first that has two names
    of columns or more, else the first that has one, else the first.
    """
    some = [place for place, row in enumerate(rows) if any(row) and not _is_remark(row[0])]
    return max(some, key=lambda place: min(2, count(rows[place])), default=0)


def check_upright(rows: Sequence[Sequence[str]], place: int, count: Count, file: str) -> None:
    """Refuse a file whose columns are written as rows, which may have names of people on top.

    Args:
        rows: The first rows.
        place: Position of the header among them.
        count: Tells names of columns from other texts.
        file: The file, for the message.

    Raises:
        LabelError: The first fields of the rows hold two names of columns or more, and more than
            the header.
    """
    if rows and count([row[0] for row in rows if row]) > max(1, count(rows[place])):
        raise LabelError(
            f"{file} has the names of its columns below each other; write them in one row, and one "
            "image a row"
        )


def _is_remark(text: str) -> bool:
    return text.startswith("#") or _SEPARATOR_LINE.fullmatch(text) is not None


@contextlib.contextmanager
def _csv_explained(lines: _Lines) -> Iterator[None]:
    try:
        yield
    except csv.Error:
        longest = csv.field_size_limit()
        raise lines.too_long(f"a field has more than {longest:,} characters") from None


def _csv_chunks(reader: "_csv.Reader", lines: _Lines, file: str, places: Sequence[int]) -> Chunks:
    with _csv_explained(lines):
        yield from chunks_of(_csv_rows(reader, lines, file), places)


def chunks_of(rows: Iterator[tuple[int, Sequence[str]]], places: Sequence[int]) -> Chunks:
    """Put rows into DataFrames of texts, up to 65,536 rows or some 4 million characters each.

    `rows` are pairs of a row's number, for the index, and its texts; `places` are the positions of
    the texts that become columns. A text that a row lacks is "".
    """
    while some := list(_some(rows)):
        columns = [[row[p] if p < len(row) else "" for _, row in some] for p in places]
        yield frame_of(columns, places, [number for number, _ in some])


def _csv_rows(reader: "_csv.Reader", lines: _Lines, file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with its line number."""
    blank = 0
    for row in reader:
        lines.end_row()
        if not any(row) or (row[0][:1] == "\0" and not "".join(row).strip("\0 ")):
            blank += 1
            if blank > _MOST_BLANK:
                raise LabelError(f"{file} has more than {_MOST_BLANK:,} blank rows; remove them")
            continue
        if any(row[lines.width :]):
            raise LabelError(
                f"{file}, line {reader.line_num}: more fields than the header; quote those that "
                f"hold {lines.separator!r}"
            )
        yield reader.line_num, row


def _some(rows: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the next rows, as many as are checked together."""
    characters = 0
    for number, row in itertools.islice(rows, _CHUNK_ROWS):
        yield number, row
        characters += sum(map(len, row))
        if characters > _CHUNK_CHARACTERS:
            return


def text_of(value: object) -> str:
    """Convert a field to text.

    None, NaN and NaT become "", a float without fraction like 3.0 "3", as a column of whole numbers
    with gaps holds floats; True "true", bytes the text that they hold in UTF-8, midnight its day.

    Raises:
        UnicodeDecodeError: Bytes are not UTF-8.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return value.isoformat() if isinstance(value, date) else str(value)
