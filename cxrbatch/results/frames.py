"""Results tables and labels as pandas DataFrames, and the heat maps of single rows as arrays."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from cxrbatch.results.labels import labels_by_key
from cxrbatch.results.table import FACTS, TRUTH_COLUMNS, Table, open_table

FRAME_NAMES = {"flags": "image_flags", "rows": "image_rows", "columns": "image_columns"}
"""Columns that bear another name in a DataFrame, where `flags` and `columns` are attributes."""

_HEATMAPS = ("heatmaps", "heatmap_scale")
_CODES = frozenset(
    {"format", "outcome", "prediction", *FACTS, *TRUTH_COLUMNS}
    - {"rows", "columns", "bits_stored"}
    - {name for name in FACTS if name.endswith("_uid")}
)
_NULLABLE = {
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


def load_results(path: str | Path) -> pd.DataFrame:
    """Load a results table, without its heat maps.

    Args:
        path: A Parquet file that `cxrbatch score` or `cxrbatch train` wrote.

    Returns:
        One row per row of the table, in its order; the index is the row's number, from 0, and
        `heatmaps` takes it. Codes (outcome, prediction, truth, header values) are categories,
        those of `prediction` in the order of the model's classes. Counts and the 64-bit
        `dhash` are nullable integers, probabilities (`p_<class>`) and logits float32 with NaN
        where a row was not scored. Three columns have other names than in the file, see
        `FRAME_NAMES`; `image_flags` holds a list of codes per row, None where there is none.
        `attrs` has the table's `path`, `classes` and `provenance`.

    Raises:
        TableError: The file is no results table, has another major schema version, is damaged, or
            expands to more memory than a table of its size may.
    """
    table = open_table(Path(path))
    names = [name for name in table.columns if name not in _HEATMAPS]
    frame = table.read(names).to_pandas(
        categories=[name for name in names if name in _CODES],
        types_mapper=_NULLABLE.get,
        ignore_metadata=True,
    )
    for name in {"prediction", "truth"}.intersection(names):
        frame[name] = frame[name].cat.set_categories(
            [*table.classes, *frame[name].cat.categories.difference(table.classes)]
        )
    # Lists of Python's: the arrays of pandas would compare value by value.
    frame["flags"] = [None if flags is None else list(flags) for flags in frame["flags"]]
    frame = frame.rename(columns=FRAME_NAMES)
    frame.attrs = {
        "path": str(table.path),
        "classes": table.classes,
        "provenance": dict(table.provenance),
    }
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
        TableError: The file is gone, damaged, or is another table by now.
    """
    return heatmaps_of(open_table(Path(results.attrs["path"])), row)


def heatmaps_of(table: Table, row: int) -> npt.NDArray[np.float32] | None:
    """Read the heat maps of one row of an open table; see `heatmaps`."""
    (values,) = table.take([row], _HEATMAPS).to_pylist()
    if values["heatmaps"] is None:
        return None
    levels = np.frombuffer(values["heatmaps"], np.uint8).astype(np.float32)
    cells = int(table.provenance["heatmap_size"])
    maps: npt.NDArray[np.float32] = levels * np.float32(values["heatmap_scale"] / 255.0)
    return maps.reshape(len(table.classes), cells, cells)


def load_labels(path: str | Path) -> pd.DataFrame:
    """Load a CSV or Parquet file of labels.

    Args:
        path: A file with the column `label` and one of `path`, `sop_instance_uid`, `image_hash`;
            `patient`, `split` and `source` may stand beside them.

    Returns:
        One row per label, in the file's order: the column that names the images, then `label`,
        `patient`, `split` and `source` as categories, null where the file says nothing. `attrs`
        has the name of the first column as `key`.

    Raises:
        LabelError: The file cannot be read, lacks a column, or has a row without a name or label.
    """
    key, labels = labels_by_key(Path(path))
    columns = {
        name: pd.Categorical([getattr(item, name) for item in labels])
        for name in ("label", "patient", "split", "source")
    }
    frame = pd.DataFrame({key: [item.path for item in labels], **columns})
    frame.attrs["key"] = key
    return frame
