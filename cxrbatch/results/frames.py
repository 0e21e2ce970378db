"""Results tables and labels as pandas DataFrames, and the heat maps of single rows as arrays."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

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
        `heatmaps` takes it. Codes (outcome, prediction, truth, header values) are categories,
        those of `prediction` in the order of the model's classes. Counts are nullable integers,
        probabilities (`p_<class>`) and logits float32 with NaN where a row was not scored. Two
        columns have other names than in the file, see `FRAME_NAMES`; `image_flags` holds a list
        of codes per row. `attrs` has the table's `path`, `classes` and `provenance`. A table of an
        older schema has the columns of today's, with nulls in those that it lacks.

    Raises:
        TableError: The file is no results table, has another major schema version, is damaged, or
            expands to more memory than a table of its size may.
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
        TableError: The file is gone, has changed since it was loaded, or is damaged.
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
    """Load and check a file of labels: CSV of any separator and encoding, Excel (.xlsx) or Parquet.

    Columns are found by their usual names in six languages, such as Dateiname, StudyInstanceUID,
    diagnosis or Patient ID.

    Args:
        path: The file.
        by: What names the images: "path", "name" (of the file alone), "sop", "series", "study",
            "accession" or "image_hash"; None to read all of them that the file has.
        label_column: Name of the column with the class. Without such a column the columns of a
            table with one column per class are read, of which each row marks one.
        path_column: Name of the column with the path or file name.
        patient_column: Name of the column with an id that all images of a person share.
        class_map: Text of a label -> class name that is meant.

    Returns:
        One row per label, in the file's order; the index is its line, in Excel and Parquet its row.
        First come the columns that name the images, as text: path, sop_instance_uid, image_hash,
        series_instance_uid, study_instance_uid, accession_key, as far as the file has them; then
        `label`, `patient`, `split` and `source` as categories, null where the file has nothing.
        `accession_key` is a hash of the accession number under the user's patient secret.

    Raises:
        LabelError: The file cannot be read, lacks a column or has two that may be meant, or has a
            row with a label and no image, or with a split other than train, val or test.
        UsageError: `by` is none of these, or `path` is no path.
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
