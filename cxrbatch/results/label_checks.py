"""Checks rows of labels, names their columns by their roles, and bounds the memory they take."""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from sys import getsizeof
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.results.label_names import (
    ACCESSION_NUMBER,
    KEYS,
    SPLITS,
    ChosenColumns,
    folded,
    meaning_of,
)
from cxrbatch.results.label_rows import LONGEST_VALUE, TOO_LONG
from cxrbatch.results.patient_keys import accession_key, patient_secret

_MOST_DIFFERENT = 10_000
# What all labels of a file may take, so that a command stays below 1 GB: nearly two millions.
_MOST_BYTES = 512 << 20
# Bytes that a label takes beside its texts, in a frame or as a `LabelledFile` with what training
# joins to it; and that a text of several labels takes beside its characters.
_LABEL_BYTES, _SHARED_BYTES = 249, 100

# Paths that `normpath` may change, and paths as a browser shows them.
_NOT_NORMAL = r"(?:^|/)\.{0,2}(?:/|$)"
_FILE_URI = re.compile("file:(?://[^/]*)?(?=/)", re.IGNORECASE)

_SPLIT_WORDS = {
    **dict.fromkeys(
        ("train", "training", "trainset", "trn", "trainieren", "entrenamiento"), "train"
    ),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "validierung"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "tst", "holdout"), "test"),
}
_FLAG_WORDS = {
    word: flag
    for flag, words in (
        (1.0, "1 1.0 x yes y true t ja j wahr oui vrai si s sim verdadero vero +"),
        (0.0, "0 0.0 no n nein non nao false f falsch faux falso -"),
    )
    for word in words.split()
} | {"": -1.0}
_OTHERS = ("patient", "split", "source")
CONSISTENT = ("label", "patient", "split")
"""What all rows that name one image have to agree on."""
_MOST_SHOWN = 5


class CheckedLabels:
    """Checked labels of a file, as far as they fit into `_MOST_BYTES`.

    Attributes:
        flags: Class name -> position of its column of flags; once `frame` has returned, empty if no
            label came from flags.
    """

    def __init__(
        self, file: str, unit: str, chosen: ChosenColumns, class_map: Mapping[str, str]
    ) -> None:
        """Begin without labels.

        Args:
            file: The file, for messages.
            unit: What numbers its rows: "line" or "row".
            chosen: Which columns are read.
            class_map: Text of a label -> class name that is meant.
        """
        self._file, self._unit, self._chosen = file, unit, chosen
        self._exact = dict(class_map)
        self._folded = {folded(text): name for text, name in class_map.items()}
        self._unused = {folded(text): text for text in class_map}
        self._parts: list[pd.DataFrame] = []
        self._rows, self._left = 0, _MOST_BYTES
        self._texts, self._classes = set[str](), set[str]()
        self.flags, self._from_flags = dict(chosen.flags), False

    def add(self, chunk: pd.DataFrame) -> None:
        """Check the rows of a chunk and keep those that are not blank.

        Args:
            chunk: Columns by their position in the file; the index is the number of the row.

        Raises:
            LabelError: A row cannot be used or is one too many, or the secret cannot be read.
        """
        chunk = chunk[(chunk != "").any(axis=1)]
        if chunk.empty:
            return
        self._check_lengths(chunk)
        labels = pd.DataFrame({role: chunk[place] for role, place in self._chosen.places.items()})
        if "label" not in labels:
            labels["label"] = self._class_by_flags(chunk)
        elif self.flags:
            labels["label"] = self._class_beside_flags(labels["label"], chunk)
        labels["label"] = labels["label"].map(self._meant(labels["label"].unique()))
        for name in _OTHERS:
            if name not in labels:
                labels[name] = ""
        labels["split"] = labels["split"].map(_side)
        self._check_fields(labels, [n for n in (*KEYS, ACCESSION_NUMBER) if n in labels])
        if ACCESSION_NUMBER in labels:
            labels["accession_key"] = self._accession_keys(labels[ACCESSION_NUMBER])
        keys = [name for name in KEYS if name in labels]
        if "path" in labels:
            labels["path"] = _plain_paths(labels["path"])
        labels = labels[[*keys, "label", *_OTHERS]]
        self._count(labels, keys)
        self._parts.append(labels)

    def frame(self) -> pd.DataFrame:
        """Return all rows that were added, as `read_frame` returns them; to be called once.

        Raises:
            LabelError: No row was added, or none has a label.
        """
        if not self._rows:
            raise LabelError(f"{self._file} has no rows")
        labels = pd.concat(self._parts)
        if "label" in self._chosen.places and not self._from_flags:
            self.flags = {}
        self._parts.clear()
        for name in ("label", *_OTHERS):
            labels[name] = labels[name].mask(labels[name] == "").astype("category")
        if labels["label"].isna().all():
            raise LabelError(f"{self._file}: none of its {self._rows:,} rows has a label")
        return labels

    @property
    def unused(self) -> tuple[str, ...]:
        """Texts of `class_map` that no label has so far."""
        return tuple(self._unused.values())

    def _accession_keys(self, numbers: pd.Series) -> pd.Series:
        secret = patient_secret()
        if secret is None:
            raise LabelError(
                f"{self._file} names images by accession number, and the patient secret cannot be "
                "read; set XDG_CONFIG_HOME to where it is, or choose another column with --by"
            )
        return numbers.map(lambda number: accession_key(number, secret) or "").astype("string")

    def _meant(self, texts: Iterable[str]) -> dict[str, str]:
        meant = {}
        for text in filter(None, texts):
            key = folded(text)
            self._unused.pop(key, None)
            meant[text] = self._exact.get(text) or self._folded.get(key, text)
        return meant | {"": ""}

    def _class_beside_flags(self, labels: pd.Series, chunk: pd.DataFrame) -> pd.Series:
        """Fill empty labels by the flags of their rows, in rows with exactly one flag.

        Raises:
            LabelError: A label and the flag of its row name different classes.
        """
        flags = self._set_flags(chunk)
        one = flags.notna().all(axis=1) & ((flags == 1).sum(axis=1) == 1)
        flagged = (flags == 1).idxmax(axis=1).where(one, "").astype("string")
        names = {_same_class(name): name for name in self.flags}
        meant = self._meant(labels.unique())
        named = labels.map({text: names.get(_same_class(meant[text]), "") for text in meant})
        wrong = one & (named != "") & (named != flagged)
        if wrong.any():
            raise LabelError(
                f"{self._file}, {self._unit} {wrong.idxmax()}: the label and the columns of "
                "classes contradict each other; correct them, or remove those that are wrong"
            )
        self._from_flags |= bool((one & (labels == "")).any())
        return labels.mask(labels == "", flagged)

    def _set_flags(self, chunk: pd.DataFrame) -> pd.DataFrame:
        """Return a column per class: 1, 0, -1 for a blank field, NaN for a text that is no flag."""
        texts = pd.DataFrame({name: chunk[place] for name, place in self.flags.items()})
        return texts.apply(lambda column: column.str.casefold().map(_FLAG_WORDS).astype(float))

    def _class_by_flags(self, chunk: pd.DataFrame) -> pd.Series:
        """Return for each row the name of the one column of flags that is set, "" if all are blank.

        Raises:
            LabelError: Several are set, or none and not all are blank, or a field is no flag.
        """
        flags = self._set_flags(chunk)
        if flags.isna().to_numpy().any():
            flags = self._without_others(flags)
        count = (flags == 1).sum(axis=1)
        wrong = (count > 1) | ((count == 0) & (flags == 0).any(axis=1))
        if wrong.any():
            row = wrong.idxmax()
            raise LabelError(
                f"{self._file}, {self._unit} {row}: {count[row]} of the {len(self.flags)} columns "
                "of classes are set, where one is expected"
            )
        return (flags == 1).idxmax(axis=1).where(count == 1, "")

    def _without_others(self, flags: pd.DataFrame) -> pd.DataFrame:
        """Leave out columns that hold something else than flags, if only that can tell them."""
        if self._chosen.are_classes or self._rows:
            row = flags.isna().any(axis=1).idxmax()
            raise LabelError(
                f"{self._file}, {self._unit} {row}: a column of a class holds neither 0 or 1, nor "
                "yes or no, nor x or nothing; name the column of the class with --label-column"
            )
        flags = flags.loc[:, flags.notna().all()]
        self.flags = {name: self.flags[name] for name in flags}
        if len(self.flags) < 2:
            raise LabelError(
                f"{self._file}: no column names the class; name one with --label-column"
            )
        return flags

    def _check_lengths(self, chunk: pd.DataFrame) -> None:
        if (long := (chunk.apply(lambda c: c.str.len()) > LONGEST_VALUE).any(axis=1)).any():
            raise LabelError(f"{self._file}, {self._unit} {long.idxmax()}: {TOO_LONG}")

    def _check_fields(self, labels: pd.DataFrame, keys: Sequence[str]) -> None:
        """Refuse the first row whose label has no image, or with a field that cannot be used.

        Raises:
            LabelError: Names the row and what is wrong with it.
        """
        names = " and ".join(keys)
        # NUL is allowed in paths: one that leads to no file is counted as such later.
        texts = labels.drop(columns=["path"], errors="ignore")
        nul = texts.apply(lambda column: column.str.contains("\0", regex=False))
        problems = pd.DataFrame(
            {
                f"it has a label, but {names} is empty": (labels[keys] == "").all(axis=1)
                & (labels["label"] != ""),
                "a field holds a NUL character; write the file again as text": nul.any(axis=1),
                "split is not train, val or test": ~labels["split"].isin(("", *SPLITS)),
            }
        )
        if len(unusable := problems[problems.any(axis=1)]):
            what = unusable.iloc[0].idxmax()
            raise LabelError(f"{self._file}, {self._unit} {unusable.index[0]}: {what}")

    def _count(self, labels: pd.DataFrame, keys: Sequence[str]) -> None:
        """Count the rows and the memory they take.

        Raises:
            LabelError: There are too many classes, or too many rows for `_MOST_BYTES`.
        """
        self._classes.update(labels["label"].unique())
        if len(self._classes) > _MOST_DIFFERENT:
            raise LabelError(
                f"{self._file} has more than {_MOST_DIFFERENT:,} different labels; the column of "
                "labels has to name classes; name another with --label-column"
            )
        for name in ("label", *_OTHERS):
            new = set(labels[name].unique()) - self._texts
            self._texts |= new
            self._left -= sum(_SHARED_BYTES + getsizeof(text) for text in new)
        lengths = sum((labels[key].str.len() for key in keys), start=pd.Series(0, labels.index))
        taken = (lengths + _LABEL_BYTES).cumsum()
        if taken.iloc[-1] > self._left:
            count = self._rows + int((taken <= self._left).sum()) + 1
            raise LabelError(
                f"{self._file} has more labels than fit into {_MOST_BYTES >> 20} MiB, "
                f"{count:,} by then; divide it"
            )
        self._left -= int(taken.iloc[-1])
        self._rows += len(labels)


def _same_class(name: str) -> str:
    return meaning_of(name) or folded(name)


def _side(text: str) -> str:
    return _SPLIT_WORDS.get(text.casefold(), text)


def _plain_paths(paths: pd.Series) -> pd.Series:
    """Return paths without "." and "..", and addresses of files as the paths they stand for."""
    addresses = paths.str.match(_FILE_URI)
    if addresses.any():
        plain = paths[addresses].str.replace(_FILE_URI, "", regex=True).map(unquote)
        paths = paths.mask(addresses, plain)
    irregular = paths.str.contains(_NOT_NORMAL) & (paths != "")
    return (
        paths.mask(irregular, paths[irregular].map(posixpath.normpath))
        if irregular.any()
        else paths
    )


def once_each(
    file: str, unit: str, names: npt.NDArray[np.int64], rows: pd.DataFrame
) -> pd.DataFrame:
    """Keep the first row of each image; raise if rows of one image contradict each other.

    An empty field contradicts nothing, and is filled from a later row of the same image.

    Args:
        file: The file of labels, for messages.
        unit: What the index counts: "line" or "row".
        names: Shape (rows,), a number for the image (or series or study) that each row names.
        rows: The same rows, with the columns `CONSISTENT` as categories; the index is the number of
            the row in its file.

    Returns:
        The rows that are kept, in order.

    Raises:
        LabelError: Two rows of one image have different labels, patients or splits; the message has
            the numbers of up to five rows of the first such image.
    """
    series = pd.Series(names)
    several = series.duplicated(keep=False).to_numpy()
    if not several.any():
        return rows.copy()
    groups = names[several]
    codes = pd.DataFrame({name: rows.loc[several, name].cat.codes for name in CONSISTENT})
    grouped = codes.mask(codes < 0).groupby(groups)
    low, high = grouped.transform("min"), grouped.transform("max")
    if (differ := (low < high).to_numpy()).any():
        raise _contradiction(file, unit, groups, codes.index, differ)
    rows = rows.copy()
    for name in CONSISTENT:
        own = rows[name].cat.codes.to_numpy().copy()
        own[several] = high[name].fillna(-1)
        rows[name] = pd.Categorical.from_codes(own, rows[name].cat.categories)
    return rows[~series.duplicated().to_numpy()]


def _contradiction(
    file: str,
    unit: str,
    groups: npt.NDArray[np.int64],
    numbers: pd.Index,
    differ: npt.NDArray[np.bool_],
) -> LabelError:
    """Name the first rows that differ, each given with its name and whether its columns differ."""
    wrong = differ.any(axis=1)
    own = numbers[groups == groups[wrong.argmax()]]
    listed = ", ".join(map(str, own[:_MOST_SHOWN]))
    what = [name for name, column in zip(CONSISTENT, differ.T, strict=True) if column.any()]
    return LabelError(
        f"{file} contradicts itself in the {' and '.join(what)} of "
        f"{len(np.unique(groups[wrong])):,} images, as in its {unit}s {listed}: correct "
        "them, or remove those that are wrong"
    )
