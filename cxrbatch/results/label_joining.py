"""Joins labels with the rows of a results table: by path, UID or hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.files import shown
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import patient_secret, secret_file, secret_id
from cxrbatch.results.frames import Results
from cxrbatch.results.label_checks import CONSISTENT, once_each
from cxrbatch.results.label_files import LabelOptions, LoadedLabels, listed, load
from cxrbatch.results.label_names import JOINS, find_classes

GROUPS = ("series", "study", "accession")
"""Joins whose label is that of several images."""

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """Labels joined with the rows of a table.

    Attributes:
        loaded: The labels as they were read.
        table: The path of the results table, for messages.
        classes: Class names of the table.
        by: What joined them, a key of `JOINS`.
        matches: What was tried, a key of `JOINS` -> number of labels that name a row by it.
        labels: One row per image, series or study that is named, with label, patient and split; the
            index is the number of the row in the file. Rows without a label are left out.
        label_of_row: Shape (rows of the table,): position in `labels`, or -1.
        unlabelled: Number of rows of the file without a label.
        unnamed: Number of rows with a label whose field for `by` is empty.
        repeated: Number of rows that say what an earlier row says.
        numbers: Label as written -> index of its class in the table, or -1.
    """

    loaded: LoadedLabels
    table: str
    classes: tuple[str, ...]
    by: str
    matches: Mapping[str, int]
    labels: pd.DataFrame
    label_of_row: npt.NDArray[np.int64]
    unlabelled: int
    unnamed: int
    repeated: int
    numbers: Mapping[str, int]

    @property
    def matched(self) -> int:
        """Number of labels that name at least one row of the table."""
        return len(np.unique(self.label_of_row[self.label_of_row >= 0]))

    def check(self) -> None:
        """Raise if a label names no class of the table, or if not one label names a row of it.

        Labels that name no row are allowed as long as another one does.

        Raises:
            LabelError: The message has the numbers of such rows in the file of labels, as that file
                counts them (lines of CSV, else rows, from 1), and no text of them.
        """
        count, rows = self.unknown()
        if count:
            raise LabelError(
                f"{self.loaded}: labels name no class of the model, {count:,} different texts, as "
                f"in {rows}; the classes are {listed(self.classes)}; say which is "
                "meant with --map TEXT=CLASS, or remove those rows"
            )
        if not self.matched:
            raise LabelError(
                f"none of the {len(self.labels):,} labels in {self.loaded} names a row of "
                f"{self.table} by {' or '.join(self.matches)}; {self.loaded.columns_read()}; write "
                "one as the table has it, or name another with --path-column or --by"
            )

    def unmatched(self) -> str:
        """Return which rows of the file, up to five, name no row of the table: "lines 2, 3 …"."""
        lost = np.setdiff1d(np.arange(len(self.labels)), self.label_of_row)
        return self._rows(self.labels.index[lost])

    def unknown(self) -> tuple[int, str]:
        """Return how many different labels name no class, and up to five rows: "lines 2, 9"."""
        labels = self.labels["label"]
        unknown = labels.isin([label for label, number in self.numbers.items() if number < 0])
        firsts = labels[unknown].drop_duplicates()
        return len(firsts), self._rows(firsts.index)

    def _rows(self, numbers: pd.Index) -> str:
        more = " …" if len(numbers) > _MOST_SHOWN else ""
        unit = self.loaded.unit + ("s" if len(numbers) != 1 else "")
        return f"{unit} {', '.join(map(str, numbers[:_MOST_SHOWN]))}{more}"

    def notes(self) -> Iterator[str]:
        """Yield what was done with the labels beside joining them, a sentence each."""
        if self.by in GROUPS:
            images = int((self.label_of_row >= 0).sum())
            yield (
                f"one label per {self.by} is given to each of its images: {self.matched:,} labels, "
                f"{images:,} images"
            )
        if self.unlabelled:
            yield f"rows without a label, which are not used: {self.unlabelled:,}"
        if self.unnamed:
            yield f"rows that name no image by {self.by}, which are not used: {self.unnamed:,}"
        if self.repeated:
            yield f"rows that repeat an earlier row, which count once: {self.repeated:,}"
        if unused := self.loaded.unused:
            yield f"texts that are given a class, and that no label has: {listed(unused)}"


def join(results: Results, loaded: LoadedLabels, by: str | None) -> JoinedLabels:
    """Find the label of each row of a table, by what is given or else by what joins most labels.

    Labels that name no class or no row are kept: `JoinedLabels.check` refuses them.

    Args:
        results: The table.
        loaded: The labels.
        by: A key of `JOINS` whose column the labels have; None to try all of which they have it. Of
            two that join equally many labels, the one that is earlier in `JOINS` is taken.

    Raises:
        LabelError: Two labels of one image contradict each other; or only accession numbers name
            images, and the table has no keys of theirs under the user's patient secret.
        TableError: The table is damaged.
    """
    known = loaded.frame[loaded.frame["label"].notna()]
    matches: dict[str, int] = {}
    best: tuple[str, pa.Array, pa.Array] | None = None
    for one in _to_try(results, loaded, by):
        names, rows = _NAMES.get(one, _plain)(results, known[JOINS[one]])
        matches[one] = int(np.count_nonzero(_positions(names, rows) >= 0))
        if best is None or matches[one] > matches[best[0]]:
            best = one, names, rows
        if matches[one] == len(known):
            break
    assert best is not None
    by, names, rows = best
    given = np.asarray(pc.not_equal(names, ""))
    names = names.filter(pa.array(given))
    numbers = find_classes(known["label"].cat.categories, results.classes)
    codes = np.asarray(names.dictionary_encode().indices, np.int64)
    fields = _by_class(known.loc[given, list(CONSISTENT)], numbers)
    labels = once_each(loaded.name, loaded.unit, codes, fields)
    is_first = ~pd.Series(codes).duplicated()
    labels["label"] = known.loc[given, "label"][is_first.array]
    return JoinedLabels(
        loaded=loaded,
        table=results.name,
        classes=results.classes,
        by=by,
        matches=matches,
        labels=labels,
        label_of_row=_positions(rows, names.filter(pa.array(is_first))),
        unlabelled=len(loaded.frame) - len(known),
        unnamed=len(known) - len(names),
        repeated=len(names) - len(labels),
        numbers=numbers,
    )


def _to_try(results: Results, loaded: LoadedLabels, by: str | None) -> list[str]:
    """What may join the labels; accession numbers only if their keys can be compared."""
    tried = [by] if by is not None else [b for b, column in JOINS.items() if column in loaded.frame]
    if "accession" in tried and not _has_our_keys(results):
        tried.remove("accession")
        if not tried:
            raise LabelError(
                f"{results.name} has no accession keys, or they were made under another patient "
                f"secret than {secret_file()}: score again with this secret, or name images in "
                f"{loaded.name} by another column, see --by"
            )
    return tried


def describe_labels(table: Path, labels: Path, options: LabelOptions) -> Iterator[tuple[str, str]]:
    """Yield how labels are read and joined with a table, as lines of a title and a text.

    No text of a row is among them, only numbers of rows and names of columns and classes.

    Args:
        table: The results table.
        labels: The file of labels.
        options: How labels are read and joined.

    Raises:
        LabelError: The labels cannot be read, or contradict each other.
        TableError: The table cannot be used.
    """
    results = Results(table)
    loaded = load(labels, options, results.classes)
    yield "labels", f"{loaded.name}: {loaded.form}"
    yield "columns", f"{loaded.columns_read()}; {len(loaded.header)} in all"
    yield "rows", f"{len(loaded.frame):,}"
    joined = join(results, loaded, options.by)
    labels_of_class = joined.labels["label"].map(joined.numbers).value_counts()
    tried = ", ".join(f"{by} {count:,}" for by, count in joined.matches.items())
    yield "joined", f"{joined.matched:,} of {len(joined.labels):,} labels by {joined.by} ({tried})"
    for note in joined.notes():
        yield "", note
    if joined.matched < len(joined.labels):
        yield (
            "not joined",
            f"{joined.unmatched()}: no row of the table has their {joined.by}; write it as the "
            "table does, or name another column with --path-column or --by",
        )
    count, rows = joined.unknown()
    if count:
        yield "no class", f"different texts: {count:,}, as in {rows}; say with --map TEXT=CLASS"
    classes = (f"{shown(n)} {labels_of_class.get(k, 0):,}" for k, n in enumerate(results.classes))
    yield "classes", ", ".join(classes)
    scored = (results.read(["outcome"])["outcome"] == Outcome.SCORED.value).to_numpy(bool)
    named = joined.label_of_row >= 0
    yield (
        "images",
        f"{int((named & scored).sum()):,} of {int(scored.sum()):,} scored images have a label, and "
        f"{int((named & ~scored).sum()):,} rows without a score",
    )


def _by_class(rows: pd.DataFrame, numbers: Mapping[str, int]) -> pd.DataFrame:
    """Labels that name one class in two ways become equal; those of no class stay as they are."""
    texts = rows["label"].cat.categories
    meant = [text if numbers[text] < 0 else f"class {numbers[text]}" for text in texts]
    codes, classes = pd.factorize(np.array(meant, object))
    return rows.assign(label=pd.Categorical.from_codes(codes[rows["label"].cat.codes], classes))


def _has_our_keys(results: Results) -> bool:
    """Whether the table's accession keys can be compared with those of this user."""
    secret = patient_secret()
    if secret is None or results.provenance.get("patient_secret_id") != secret_id(secret):
        return False
    return bool(results.read(["accession_key"])["accession_key"].notna().any())


def _plain(results: Results, names: pd.Series) -> tuple[pa.Array, pa.Array]:
    """The name of each label and of each row as they are."""
    return _texts(names), _texts(results.read([names.name])[names.name])


def _paths(results: Results, paths: pd.Series) -> tuple[pa.Array, pa.Array]:
    """The path of each label, as the table spells it if it has it, and of each row."""
    rows = _texts(results.read(["path"])["path"])
    root = str(results.provenance.get("archive_root", "")).rstrip("/")
    names = _texts(paths.str.removeprefix(f"{root}/"))
    found = _positions(names, rows) >= 0
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
        places = _positions(one, other)
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


def _positions(texts: pa.Array, among: pa.Array) -> npt.NDArray[np.int64]:
    """The position of each text among others, or -1. By Arrow: pandas makes an object of each."""
    places = pc.index_in(texts, among, skip_nulls=True).fill_null(-1)
    return np.asarray(places).astype(np.int64)


def _texts(texts: pd.Series) -> pa.Array:
    array = pa.array(texts, pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


_NAMES = {"path": _paths, "name": _file_names}
