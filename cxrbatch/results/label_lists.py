"""Labels by path as a list of files, for what needs no table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import listed
from cxrbatch.results.label_checks import CONSISTENT, once_each
from cxrbatch.results.label_files import AS_USUAL, LabelledFile, LabelOptions, load, read_frame
from cxrbatch.results.label_names import find_classes


def read_labels(file: Path, classes: Sequence[str] = ()) -> list[LabelledFile]:
    """Read and check a file of labels by path that gives each path one label.

    Args:
        file: A CSV, XLSX or Parquet file.
        classes: Class names of the model, one of which each label has to name; empty to take any.

    Returns:
        One label per path, at least one, in the file's order. Rows without a label, and rows that
        repeat an earlier one, are left out.

    Raises:
        LabelError: The labels cannot be used, in the cases of `read_frame`; a label names no class;
            or two rows of one path have different labels, patients or splits.
    """
    loaded = load(file, LabelOptions(by="path"), classes)
    frame = loaded.frame[loaded.frame["label"].notna()]
    numbers = find_classes(frame["label"].cat.categories, classes)
    unknown = frame["label"].isin([n for n in numbers if classes and numbers[n] < 0])
    if unknown.any():
        raise LabelError(
            f"{loaded}: labels name no class of the model in {int(unknown.sum()):,} rows, first in "
            f"{loaded.unit} {unknown.idxmax()}; the classes are {listed(classes)}: correct or "
            "remove these rows"
        )
    names = pd.factorize(frame["path"])[0]
    once = once_each(loaded.name, loaded.unit, names, frame[list(CONSISTENT)])
    return _as_list(frame.loc[once.index].assign(**once))


def labels_in(file: Path, options: LabelOptions = AS_USUAL) -> list[LabelledFile]:
    """Read and check a file of labels that may name a path several times.

    Args:
        file: A CSV, XLSX or Parquet file.
        options: Names of columns, and what texts of labels mean; the images are named by path.

    Returns:
        One entry per row that has a label, at least one, in the file's order; rows of one path are
        all kept, also where their labels differ.

    Raises:
        LabelError: The file cannot be read, a needed column is missing, a row cannot be used, or no
            row has a label.
    """
    frame = read_frame(file, replace(options, by="path"))
    return _as_list(frame[frame["label"].notna()])


def _as_list(frame: pd.DataFrame) -> list[LabelledFile]:
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in frame]
    return [*map(LabelledFile, *columns)]
