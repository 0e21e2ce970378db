"""Labels from a file of any usual form, or from a DataFrame, checked and in bounded memory."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from cxrbatch.errors import LabelError, UsageError
from cxrbatch.files import listed, shown
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.reading.sniffing import HEAD_BYTES, open_regular
from cxrbatch.results.label_checks import CheckedLabels
from cxrbatch.results.label_names import (
    ACCESSION_NUMBER,
    JOINS,
    WantedColumns,
    choose_columns,
    find_classes,
    folded,
    role_of,
)
from cxrbatch.results.label_rows import (
    Chunks,
    LabelTable,
    encodings_of,
    frame_of,
    open_csv,
    text_of,
)
from cxrbatch.results.label_tables import open_parquet, open_workbook

_PARQUET, _ZIP = b"PAR1", b"PK\x03\x04"
_OTHER_FORMS = (
    (b"\x1f\x8b", "gzip-compressed; unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old or protected Excel file; save it as .xlsx without a password"),
    (b"%PDF", "a PDF; give the table itself as CSV or .xlsx"),
    (b"{\\rtf", "a text with layout; save the table as CSV or .xlsx"),
)
_DATAFRAME = "the DataFrame of labels"

ClassMap = Mapping[str, str | Sequence[str]]
"""Text of a label -> the class of the model that is meant, or several that it may be any of."""


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its label.

    Attributes:
        path: Path relative to the folder of the labels, or absolute.
        label: Class name as written.
        patient: An id that all images of one person share; None where unknown.
        split: "train", "val" or "test"; None where the label names no split.
        source: The collection that the image comes from; None where unknown.
    """

    path: str
    label: str
    patient: str | None = None
    split: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How a file of labels is read, and how its rows are joined with images.

    Attributes:
        by: What names the images: a key of `JOINS` ("path", "name", "sop", "series", "study",
            "accession" or "image_hash"); None to take what joins most.
        label_column: Name of the column with the class; None to find it by its usual names.
        path_column: Name of the column with the path or file name, or with what `by` says; None
            likewise.
        patient_column: Name of the column with an id that all images of a person share; None
            likewise.
        class_map: Text of a label -> class name that is meant, or several, one of which is meant;
            labels of several are for `evaluate` alone. Blank labels stay blank.
    """

    by: str | None = None
    label_column: str | None = None
    path_column: str | None = None
    patient_column: str | None = None
    class_map: ClassMap = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the types and values.

        Raises:
            UsageError: `by` is no key of `JOINS`, a name of a column is no text or blank, or
                `class_map` does not map texts to one or more texts, or has one of spaces and
                underscores alone.
        """
        if self.by is not None and self.by not in [*JOINS]:
            raise UsageError(f"--by {self.by} is unknown; it is one of {', '.join(JOINS)}")
        for role in ("label", "path", "patient"):
            name: object = getattr(self, f"{role}_column")
            if name is not None and not (isinstance(name, str) and name.strip()):
                raise UsageError(f"--{role}-column is {name!r:.60}; give the name of a column")
        given: object = self.class_map
        texts = [*given, *_flat(given.values())] if isinstance(given, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("--map has to give texts of labels classes, as in --map TEXT=CLASS")
        if not all(map(folded, map(str, texts))):
            raise UsageError(
                "--map has an empty text or class, or one of spaces and underscores alone; rows "
                "without a label have no class: write one into the file, or leave them out"
            )

    @property
    def texts(self) -> dict[str, str]:
        """`class_map`, if it gives each text one class.

        Raises:
            UsageError: It gives a text several.
        """
        texts = {text: name for text, name in self.class_map.items() if isinstance(name, str)}
        if len(texts) < len(self.class_map):
            raise UsageError("--map gives a text several classes; only evaluate merges them")
        return texts

    def wanted(self, classes: Sequence[str] = ()) -> WantedColumns:
        """Return the columns to look for in a file whose labels are of these classes."""
        key = "path" if self.by is None else JOINS[self.by]
        if key == "accession_key" and role_of(self.path_column or "") != key:
            key = ACCESSION_NUMBER
        named = {
            "label": self.label_column,
            key: self.path_column,
            "patient": self.patient_column,
        }
        given = {role: name for role, name in named.items() if name is not None}
        return WantedColumns(self.by, given, classes)


def _flat(given: Iterable[object]) -> Iterator[object]:
    """Names of classes, of which several may be in a list; None for an empty one."""
    for names in given:
        yield from (names or [None]) if isinstance(names, list | tuple) else [names]


AS_USUAL = LabelOptions()
"""Columns are found by their usual names, and what joins most labels joins them."""


@dataclass(frozen=True, slots=True)
class LoadedLabels:
    """Labels that were read, and how they stand in their file.

    Attributes:
        name: The file's path, or "the DataFrame of labels".
        form: What it is: "CSV in UTF-8, separated by commas".
        unit: What the index of `frame` counts: "line" or "row".
        header: Names of all columns.
        columns: Role -> name of the column that was read for it. For flags the role label has the
            names of all their columns, after that of a column label.
        frame: The labels, as `read_frame` returns them.
        unused: Texts of `LabelOptions.class_map` that no label has.
    """

    name: str
    form: str
    unit: str
    header: tuple[str, ...]
    columns: Mapping[str, str]
    frame: pd.DataFrame
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Return the file and its form, for a message."""
        return f"{self.name} ({self.form})"

    @property
    def kind(self) -> str:
        """What the labels come from, unnamed: "a file of labels", or "labels" for a DataFrame."""
        return "labels" if self.name == _DATAFRAME else "a file of labels"

    def columns_read(self) -> str:
        """Return, for a message, the column of each role: "path = 'Datei', label = 'Befund'"."""
        return ", ".join(f"{role} = {shown(name)}" for role, name in self.columns.items())


def read_frame(
    labels: Path | pd.DataFrame, options: LabelOptions = AS_USUAL, classes: Sequence[str] = ()
) -> pd.DataFrame:
    """Read and check labels of a CSV, XLSX or Parquet file, or of a DataFrame with such columns.

    What the file is, its encoding and separator are found by its content, the columns by their
    names. Numbers become their text. Spaces around a text are removed, and paths are normalised
    ("./a" is "a"). A path or image may occur several times. Blank rows are left out.

    Args:
        labels: The file, or a DataFrame.
        options: Names of columns, what names the images, and what texts of labels mean.
        classes: Class names of the model, if known: the columns of flags to read, where the labels
            have one column for each class.

    Returns:
        The rows that are not blank, in order, with a label or not. The index is the row's number in
        its file: its last line in CSV, else the row, from 1. The first columns are those that name
        the images, as text, "" where a row lacks it: path, sop_instance_uid, image_hash,
        series_instance_uid, study_instance_uid, accession_key (a hash of the number, or as the file
        has it), as far as the file has them and the options ask for them. Then come label, patient,
        split ("train", "val" or "test") and source as categories, null where nothing is given.

    Raises:
        LabelError: The labels cannot be read or used, such as where the file is of no such form or
            would take too much memory, a needed column is missing or may be one of two, a row has a
            label and nothing that names its image, a split is unknown, a row has several flags or
            one against its label, no row has a label, or there are more than fit into 512 MiB.
    """
    return load(labels, options, classes).frame


def load(
    labels: Path | pd.DataFrame, options: LabelOptions = AS_USUAL, classes: Sequence[str] = ()
) -> LoadedLabels:
    """Read and check labels as `read_frame` does; return them with form and columns of their file.

    Args:
        labels: A CSV, XLSX or Parquet file, or a DataFrame.
        options: Names of columns, what names the images, and what texts of labels mean.
        classes: Class names of the model, if known.

    Raises:
        LabelError: The labels cannot be read or used, in the cases of `read_frame`; or `class_map`
            of the options has a class that names none of `classes`, if these are known.
        UsageError: `class_map` gives a text several classes.
    """
    wanted, texts = options.wanted(classes), options.texts
    if classes:
        _check_meant(texts, classes)
    if isinstance(labels, pd.DataFrame):
        return _loaded(_table_of(labels), _DATAFRAME, options, wanted)
    try:
        with open_regular(labels) as stream:
            head = stream.read(HEAD_BYTES)
        for encoding in encodings_of(head):
            with contextlib.suppress(UnicodeDecodeError), open_regular(labels) as stream:
                table = _open(stream, str(labels), head, encoding, wanted)
                return _loaded(table, str(labels), options, wanted)
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {labels}: {reading_error(error).detail}") from None
    raise LabelError(
        f"{labels} is neither Excel nor Parquet, nor text in UTF-8, UTF-16 or Windows-1252; save "
        "it as CSV in UTF-8"
    )


def _check_meant(class_map: Mapping[str, str], classes: Sequence[str]) -> None:
    numbers = find_classes(class_map.values(), classes)
    if unknown := [name for name, number in numbers.items() if number < 0]:
        raise LabelError(
            f"--map names {listed(unknown)}, which is no class of the model; its classes are "
            f"{listed(classes)}"
        )


def _open(
    stream: BinaryIO, file: str, head: bytes, encoding: str, wanted: WantedColumns
) -> LabelTable:
    """Find out what a file is, by its first bytes, and read its header."""
    for magic, what in _OTHER_FORMS:
        if head.startswith(magic):
            raise LabelError(f"{file} is {what}")
    if head.startswith(_PARQUET):
        return open_parquet(stream, file)
    if head.startswith(_ZIP):
        return open_workbook(stream, file, wanted)
    return open_csv(stream, encoding, file, wanted.count_in)


def _table_of(labels: pd.DataFrame) -> LabelTable:
    def read(places: Sequence[int]) -> Chunks:
        values = labels.iloc[:, list(places)].astype(object)
        try:
            texts = values.where(values.notna(), None).map(_unicode_of)
        except UnicodeError:
            raise LabelError(
                f"{_DATAFRAME} has bytes that are not UTF-8, or a text with half a surrogate pair; "
                "give labels as text, and paths as cxrbatch.files.path_to_text writes them"
            ) from None
        columns = [texts.iloc[:, number].tolist() for number in range(len(places))]
        yield frame_of(columns, places, range(1, len(texts) + 1))

    header = tuple(str(name) for name in labels.columns)
    return LabelTable("a pandas DataFrame", "row", header, read)


def _unicode_of(value: object) -> str:
    """The text of a field, if it can be encoded."""
    text = text_of(value)
    text.encode()
    return text


def _loaded(
    table: LabelTable, name: str, options: LabelOptions, wanted: WantedColumns
) -> LoadedLabels:
    """Choose the columns, and read and check all rows."""
    chosen = choose_columns(table.header, wanted, f"{name} ({table.form})")
    checked = CheckedLabels(name, table.unit, chosen, options.texts)
    for chunk in table.read(chosen.all_places):
        checked.add(chunk)
    frame = checked.frame()
    columns = {role: table.header[place] for role, place in chosen.places.items()}
    if checked.flags:
        columns["label"] = ", ".join([*filter(None, [columns.get("label")]), *checked.flags])
    return LoadedLabels(name, table.form, table.unit, table.header, columns, frame, checked.unused)
