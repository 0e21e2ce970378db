"""Labels from a CSV or Parquet file of any content, checked and read in bounded memory."""

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from sys import getsizeof

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import shown
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.reading.sniffing import open_regular
from cxrbatch.results.label_rows import (
    LONGEST_VALUE,
    TOO_LONG,
    csv_chunks,
    frame_of,
    key_column,
    names_of,
    parquet_chunks,
    text_of,
)
from cxrbatch.results.labels import SPLITS, LabelledFile

_PARQUET_MAGIC = b"PAR1"
_MOST_DIFFERENT, _MOST_SHOWN = 10_000, 5
# What all labels of a file may take, so that a command stays below 1 GB: nearly two millions.
_MOST_BYTES = 512 << 20
# Bytes that a label takes beside its texts, in a frame or as a `LabelledFile` with what training
# joins to it; and that a text of several labels takes beside its characters.
_LABEL_BYTES, _SHARED_BYTES = 249, 100

# Paths that `normpath` may change.
_NOT_NORMAL = r"(?:^|/)\.{0,2}(?:/|$)"

_SPLIT = "|".join(("", *SPLITS))


def read_labels(file: Path) -> list[LabelledFile]:
    """Read and check a file of labels that may name each path only once.

    Args:
        file: A CSV or Parquet file (told apart by its content, not its name) with the columns path
            and label; patient, split and source are read too if it has them.

    Returns:
        One label per row, in the file's order.

    Raises:
        LabelError: As for `labels_in`; or two rows have the same path, even with the same label.
    """
    frame = read_frame(file, ("path",))
    check_each_once(file, frame["path"], frame["label"])
    return _as_list(frame)


def labels_in(file: Path) -> list[LabelledFile]:
    """Read and check a file of labels that may name a path several times.

    Args:
        file: A CSV or Parquet file (told apart by its content, not its name) with the columns path
            and label; patient, split and source are read too if it has them.

    Returns:
        One label per row, in the file's order.

    Raises:
        LabelError: As for `read_frame`.
    """
    return _as_list(read_frame(file, ("path",)))


def read_frame(labels: Path | pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Read and check labels of a CSV or Parquet file, or of a DataFrame with the same columns.

    Numbers in a Parquet file become their text. Spaces around a text are removed, and paths are
    normalised ("./a" is "a"). A path or image may occur several times.

    Args:
        labels: The file, whose content, not its name, says whether it is CSV or Parquet; or a
            DataFrame.
        keys: Columns that may name the images; the first of them that `labels` has is read.

    Returns:
        A row per label, in order: that column as text, then label, patient, split and source as
        categories, null where nothing is given.

    Raises:
        LabelError: The file cannot be read as CSV or Parquet, a column is missing or doubled, a
            name or a label is empty, a split is not one of `SPLITS`, there are no rows, or more
            than fit into 512 MiB.
    """
    if isinstance(labels, pd.DataFrame):
        name = "the DataFrame of labels"
        key = key_column(list(labels.columns), name, keys)
        values = labels.reindex(columns=names_of(key)).astype(object)
        texts = values.where(values.notna(), None).map(text_of)
        checked = _CheckedLabels(name, "row")
        checked.add(frame_of(texts.to_dict("list"), range(1, len(texts) + 1)))
        return checked.frame()
    try:
        with open_regular(labels) as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            stream.seek(0)
            checked = _CheckedLabels(labels, "row" if is_parquet else "line")
            for chunk in (parquet_chunks if is_parquet else csv_chunks)(stream, labels, keys):
                checked.add(chunk)
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {labels}: {reading_error(error).detail}") from None
    return checked.frame()


def check_each_once(file: Path | str, names: pd.Series, labels: pd.Series) -> None:
    """Raise LabelError if two labels name the same image, be their classes equal or not.

    Args:
        file: The file that the labels come from, for the message.
        names: The name of the image in each label.
        labels: The class in each label, in the same order.

    Raises:
        LabelError: Its message counts the images that are named several times and lists up to
            five of them, with their classes where these differ.
    """
    doubled = names[names.duplicated()].unique()
    if not len(doubled):
        return
    several = labels.astype(object)[names.isin(doubled[:_MOST_SHOWN])].groupby(names, sort=False)
    listed = ", ".join(_described(name, own.unique()) for name, own in several)
    raise LabelError(f"{file} names {len(doubled)} images more than once: {listed}")


def _described(name: str, labels: Iterable[str]) -> str:
    different = sorted(labels)
    if len(different) == 1:
        return shown(name)
    return f"{shown(name)} (labels {', '.join(map(shown, different[:_MOST_SHOWN]))})"


def _as_list(frame: pd.DataFrame) -> list[LabelledFile]:
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in frame]
    return [*map(LabelledFile, *columns)]


class _CheckedLabels:
    """Checked labels of a file, as far as they fit into `_MOST_BYTES`."""

    def __init__(self, file: Path | str, unit: str) -> None:
        self._file, self._unit = file, unit
        self._parts: list[pd.DataFrame] = []
        self._rows, self._left = 0, _MOST_BYTES
        self._texts, self._classes = set[str](), set[str]()

    def add(self, chunk: pd.DataFrame) -> None:
        """Check the rows of a chunk and keep them.

        Raises:
            LabelError: A row cannot be used, or is one too many.
        """
        if chunk.empty:
            return
        _check_fields(self._file, self._unit, chunk)
        key, *others = chunk.columns
        if key == "path" and (irregular := chunk[key].str.contains(_NOT_NORMAL)).any():
            chunk.loc[irregular, key] = chunk.loc[irregular, key].map(posixpath.normpath)
        self._classes.update(chunk["label"].unique())
        if len(self._classes) > _MOST_DIFFERENT:
            raise LabelError(
                f"{self._file} has more than {_MOST_DIFFERENT:,} different labels; "
                "its column label has to name classes"
            )
        for name in others:
            new = set(chunk[name].unique()) - self._texts
            self._texts |= new
            self._left -= sum(_SHARED_BYTES + getsizeof(text) for text in new)
        taken = (chunk[key].str.len() + _LABEL_BYTES).cumsum()
        if taken.iloc[-1] > self._left:
            count = self._rows + int((taken <= self._left).sum()) + 1
            raise LabelError(
                f"{self._file} has more labels than fit into {_MOST_BYTES >> 20} MiB, "
                f"{count:,} by then; divide it"
            )
        self._left -= int(taken.iloc[-1])
        self._rows += len(chunk)
        self._parts.append(chunk)

    def frame(self) -> pd.DataFrame:
        """Return all labels as `read_frame` does.

        Raises:
            LabelError: There are none.
        """
        if not self._rows:
            raise LabelError(f"{self._file} has no rows")
        labels = pd.concat(self._parts, ignore_index=True)
        for name in labels.columns[1:]:
            labels[name] = labels[name].mask(labels[name] == "").astype("category")
        return labels


def _check_fields(file: Path | str, unit: str, chunk: pd.DataFrame) -> None:
    """Refuse the first row without a name or a label, or with a field that cannot be used.

    Raises:
        LabelError: Names the row and what is wrong with it.
    """
    key, *others = chunk.columns
    lengths = chunk.apply(lambda texts: texts.str.len())
    # NUL is allowed in names: a path that leads to no file is listed as such later.
    nul = chunk[others].apply(lambda texts: texts.str.contains("\0", regex=False))
    problems = pd.DataFrame(
        {
            f"{key} or label is empty": (lengths[[key, "label"]] == 0).any(axis=1),
            TOO_LONG: (lengths > LONGEST_VALUE).any(axis=1),
            "a field holds a NUL character; write the file again as text": nul.any(axis=1),
            "split is not train, val or test": ~chunk["split"].str.fullmatch(_SPLIT),
        }
    )
    unusable = problems[problems.any(axis=1)]
    if len(unusable):
        raise LabelError(f"{file}, {unit} {unusable.index[0]}: {unusable.iloc[0].idxmax()}")
