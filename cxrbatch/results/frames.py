"""Results tables and labels as DataFrames, heat maps as arrays, and the names of a table's rows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import TableError, UsageError, checked_path, naming_arguments
from cxrbatch.results.columns import FACTS, TRUTH_COLUMNS
from cxrbatch.results.label_files import LabelOptions, read_frame
from cxrbatch.results.table import Table, open_table

FRAME_NAMES = {"rows": "image_rows", "columns": "image_columns"}
"""Columns that bear another name in a DataFrame, where `columns` is an attribute."""

_HEATMAPS = ("heatmaps", "heatmap_scale")
_INTEGERS = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}
_CODES = frozenset({"format", "outcome", "prediction", *FACTS, *TRUTH_COLUMNS}) - {
    *("rows", "columns", "bits_stored"),
    *(name for name in FACTS if name.endswith("_uid")),
}


class Results:
    """The rows of a results table, in its file or as a DataFrame; columns are read on demand.

    Attributes:
        name: The table's path, for messages.
        classes: Class names in the order of the probabilities.
        provenance: How the table was made.
        rows: Number of rows.
        size: Of the file in bytes; None of a DataFrame.
    """

    def __init__(self, results: "str | Path | Table | pd.DataFrame") -> None:
        """Open a table.

        Args:
            results: A table's path, an open table, or what `load_results` returned, or some of its
                rows.

        Raises:
            TableError: The file cannot be used as a results table, or the DataFrame was not made
                by `load_results`.
            UsageError: `results` is none of these.
        """
        self._source: Table | pd.DataFrame = results
        self.size: int | None = None
        if isinstance(results, pd.DataFrame):
            made, self.rows = results.attrs, len(results)
            if not {"path", "classes", "provenance"} <= set(made):
                raise TableError("the DataFrame has lost its attrs; load it with load_results")
        else:
            opened = results if isinstance(results, Table) else None
            table = opened or open_table(checked_path("results", results))
            self._source, self.rows, self.size = table, table.rows, table.size
            made = _attrs(table)
        self.name: str = made["path"]
        self.classes: tuple[str, ...] = tuple(made["classes"])
        self.provenance: Mapping[str, Any] = made["provenance"]

    def read(self, names: Iterable[str]) -> pd.DataFrame:
        """Read some columns of all rows as a DataFrame.

        Args:
            names: Names of the columns in the file, such as "rows", not "image_rows".

        Returns:
            The columns by these names and in this order, with the types that `load_results` gives
            them (`image_flags` with arrays or lists of codes); the index counts from 0.

        Raises:
            TableError: The file is damaged, expands to too much memory, or a column is missing.
        """
        wanted = list(names)
        if isinstance(self._source, Table):
            return _to_pandas(self._source, wanted)
        named = self._source.rename(columns={new: old for old, new in FRAME_NAMES.items()})
        if missing := [name for name in wanted if name not in named]:
            raise TableError(f"the DataFrame has no column {missing[0]!r}; load it anew")
        return named[wanted].reset_index(drop=True)


def load_results(path: str | Path) -> pd.DataFrame:
    """Load a results table, without its heat maps.

    Args:
        path: A Parquet file that `cxrbatch score` or `cxrbatch train` wrote.

    Returns:
        One row per row of the table, in its order; the index is the row's number, from 0, and
        `heatmaps` takes it. Codes (format, outcome, prediction, truth, split, header values other
        than UIDs) are categories, those of `prediction` in the order of the model's classes, before
        any others. Whole numbers are nullable integers, probabilities (`p_<class>`) and logits
        float32 with NaN where a row was not scored. Two columns have other names than in the file,
        see `FRAME_NAMES`; `image_flags` holds a list of codes per row, or None. `attrs` has the
        table's `path`, `classes` and `provenance`. A table of an older schema has the columns of
        today's, with nulls in those that it lacks.

    Raises:
        TableError: The file cannot be opened, is no results table, has another major schema
            version, is damaged, or expands to more memory than a table of its size may.
        UsageError: `path` is no path.
    """
    table = open_table(checked_path("path", path))
    frame = _to_pandas(table, [name for name in table.columns if name not in _HEATMAPS])
    lists = frame["image_flags"]
    frame["image_flags"] = [None if flags is None else list(flags) for flags in lists]
    frame = frame.rename(columns=FRAME_NAMES)
    frame.attrs = _attrs(table)
    return frame


def heatmaps(results: pd.DataFrame, row: int) -> npt.NDArray[np.float32] | None:
    """Read the heat maps of one row from the table's file.

    Args:
        results: What `load_results` returned, or some of its rows.
        row: The row's number in the table: its label in the index of `results`.

    Returns:
        Shape (classes, height, width), float32, at least 0: Grad-CAM of each class in the cells of
        the network's last layer. None where the row was not scored.

    Raises:
        TableError: The file is gone, has another provenance than `results`, or is damaged.
        UsageError: `results` is not of `load_results`, or the table has no such row.
    """
    if "path" not in results.attrs:
        raise UsageError("results has lost its attrs; take it from load_results")
    table = open_table(Path(results.attrs["path"]))
    if table.provenance != results.attrs["provenance"]:
        raise TableError(f"{table.path} has changed since it was loaded; load it again")
    (values,) = table.take([row], _HEATMAPS).to_pylist()
    if values["heatmaps"] is None:
        return None
    levels = np.frombuffer(values["heatmaps"], np.uint8).astype(np.float32)
    cells = int(table.provenance["heatmap_size"])
    maps: npt.NDArray[np.float32] = levels * np.float32(values["heatmap_scale"] / 255.0)
    return maps.reshape(len(table.classes), cells, cells)


def load_labels(
    path: str | Path,
    *,
    by: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    class_map: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Load and check a file of labels: CSV of a usual separator and encoding, .xlsx or Parquet.

    Columns are found by their usual names in six languages, such as Dateiname, StudyInstanceUID,
    diagnosis or Patient ID.

    Args:
        path: The file.
        by: What names the images: "path", "name" (of the file alone), "sop", "series", "study",
            "accession" or "image_hash"; None to read all of them that the file has.
        label_column: Name of the column with the class. Without such a column the columns of a
            table with one column per class are read, of which a row marks one or leaves all blank.
        path_column: Name of the column with the path, or with what `by` says.
        patient_column: Name of the column with an id that all images of a person share.
        class_map: Text of a label -> class name that is meant.

    Returns:
        One row per row that is not blank, in order; the index is its (last) line, in Excel and
        Parquet its row. First come the columns that name the images, as text: path,
        sop_instance_uid, image_hash, series_instance_uid, study_instance_uid, accession_key, as far
        as they are read; then `label`, `patient`, `split` and `source` as categories, null where
        the file has nothing. `accession_key` is a hash of the accession number under the user's
        patient secret, unless the file has the key itself.

    Raises:
        LabelError: The labels cannot be used, in the cases of `label_files.read_frame`.
        UsageError: `by` is none of these, a name of a column or a text of `class_map` is blank or
            no text, or `path` is no path.
    """
    with naming_arguments():
        options = LabelOptions(by, label_column, path_column, patient_column, class_map or {})
        return read_frame(checked_path("path", path), options)


def _attrs(table: Table) -> dict[str, Any]:
    return {
        "path": str(table.path),
        "classes": table.classes,
        "provenance": dict(table.provenance),
    }


def _to_pandas(table: Table, names: list[str]) -> pd.DataFrame:
    codes = [name for name in names if name in _CODES]
    frame = table.read(names).to_pandas(
        categories=codes, types_mapper=_INTEGERS.get, ignore_metadata=True
    )
    for name in {"prediction", "truth"}.intersection(names):
        others = frame[name].cat.categories.difference(table.classes)
        frame[name] = frame[name].cat.set_categories([*table.classes, *others])
    return frame


def names_of_rows(results: Results, by: str, names: pd.Series) -> tuple[pa.Array, pa.Array]:
    """Return the names of images in labels and in a table, in forms that are equal if they match.

    Args:
        results: The table.
        by: A key of `label_names.JOINS`, which says what the names are.
        names: The names in the labels, named as their column in the table is.

    Returns:
        The names of the labels, in order, and those of the table's rows, in order. A path is
        spelled as in the table, if it can be found there. A file name that several files have is
        null among the rows.

    Raises:
        TableError: The table is damaged.
    """
    return {"path": _paths, "name": _file_names}.get(by, _plain)(results, names)


def _plain(results: Results, names: pd.Series) -> tuple[pa.Array, pa.Array]:
    """The name of each label and of each row as they are."""
    return _texts(names), _texts(results.read([names.name])[names.name])


def _paths(results: Results, paths: pd.Series) -> tuple[pa.Array, pa.Array]:
    """The path of each label, as the table spells it if it has it, and of each row."""
    rows = _texts(results.read(["path"])["path"])
    root = str(results.provenance.get("archive_root", "")).rstrip("/")
    names = _texts(paths.str.removeprefix(f"{root}/"))
    found = positions(names, rows) >= 0
    lost = pa.array(~found & np.asarray(pc.not_equal(names, "")))
    if pc.any(lost).as_py():
        spelled = _respelled(names.filter(lost), rows, is_alone=not found.any())
        names = pc.replace_with_mask(names, lost, spelled)
    return names, rows


def _respelled(names: pa.Array, rows: pa.Array, *, is_alone: bool) -> pa.Array:
    """Find paths in the table by their `_plain_paths`; those that are not found stay as they are.

    Args:
        names: Paths of labels that the table does not have.
        rows: The table's paths.
        is_alone: Whether no path is found. Then the folders in front that all paths of the labels
            share, or all of the table, are left out one by one until a path is found.
    """
    spellings = rows.unique()
    wanted, own = _plain_paths(names), _plain_paths(spellings)
    for one, other in _without_folders(wanted, own) if is_alone else [(wanted, own)]:
        places = positions(one, other)
        if (places >= 0).any():
            places[np.append(_is_repeated(other), False)[places]] = -1
            found = spellings.take(pa.array(places, mask=places < 0))
            return pc.coalesce(found, names)
    return names


def _plain_paths(paths: pa.Array) -> pa.Array:
    """Return paths in Unicode's composed form, divided by single slashes, without a first one."""
    divided = pc.replace_substring_regex(paths, r"[/\\]+", "/")
    return pc.utf8_ltrim(pc.utf8_normalize(divided, form="NFC"), "/")


def _without_folders(wanted: pa.Array, own: pa.Array) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield paths of labels and of a table, either without more and more of its first folders."""
    yield wanted, own
    yield from ((shorter, own) for shorter in _shortened(wanted))
    yield from ((wanted, shorter) for shorter in _shortened(own))


def _shortened(paths: pa.Array) -> Iterator[pa.Array]:
    """Leave out the folders one by one that all paths share."""
    ends = pc.min_max(paths).as_py()
    first, last = ((ends[end] or "").split("/")[:-1] for end in ("min", "max"))
    for one, other in zip(first, last, strict=False):
        if one != other:
            return
        paths = pc.replace_substring_regex(paths, "^[^/]*/", "", max_replacements=1)
        yield paths


def _file_names(results: Results, paths: pd.Series) -> tuple[pa.Array, pa.Array]:
    """The file name of each label and row, null in rows whose file is not alone with its name."""
    rows = _texts(results.read(["path"])["path"]).dictionary_encode()
    names = _last_parts(rows.dictionary)
    alone = pc.if_else(pa.array(_is_repeated(names)), None, names)
    return _last_parts(_texts(paths)), alone.take(rows.indices)


def _last_parts(paths: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_plain_paths(paths), "^.*/", "")


def _is_repeated(texts: pa.Array) -> npt.NDArray[np.bool_]:
    codes = np.asarray(texts.dictionary_encode().indices, np.int64)
    repeated: npt.NDArray[np.bool_] = np.bincount(codes)[codes] > 1
    return repeated


def positions(texts: pa.Array, among: pa.Array) -> npt.NDArray[np.int64]:
    """Find texts among others.

    Args:
        texts: Shape (n,), texts; a null is not found.
        among: The other texts.

    Returns:
        Shape (n,), for each text its first position in `among`, from 0, or -1.
    """
    # By Arrow: pandas makes an object of each.
    places = pc.index_in(texts, among, skip_nulls=True).fill_null(-1)
    return np.asarray(places).astype(np.int64)


def _texts(texts: pd.Series) -> pa.Array:
    array = pa.array(texts, pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
