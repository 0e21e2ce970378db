"""Joins labels with the rows of a results table: by path, UID or hash."""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import shown
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import patient_secret, secret_file, secret_id
from cxrbatch.results.frames import Results
from cxrbatch.results.label_files import LabelOptions, LoadedLabels, load, once_each
from cxrbatch.results.label_names import JOINS
from cxrbatch.results.labels import find_classes

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
    repeated: int
    numbers: Mapping[str, int]

    @property
    def matched(self) -> int:
        """Number of labels that name at least one row of the table."""
        return len(np.unique(self.label_of_row[self.label_of_row >= 0]))

    def check(self) -> None:
        """Refuse labels that name no class of the table, and labels none of which names a row.

        Raises:
            LabelError: The message has numbers of rows, and no text of them.
        """
        count, rows = self.unknown()
        if count:
            raise LabelError(
                f"{self.loaded}: {count:,} different labels name no class of the model, as in "
                f"{rows}; the classes are {', '.join(map(shown, self.classes))}; say which is "
                "meant with --map TEXT=CLASS, or remove those rows"
            )
        if not self.matched:
            raise LabelError(
                f"none of the {len(self.labels):,} labels in {self.loaded} names a row of "
                f"{self.table} by {' or '.join(self.matches)}; {self.loaded.columns_read()}; write "
                "one as the table has it, or name another with --path-column or --by"
            )

    def unmatched(self) -> str:
        """Return the numbers of the first rows whose label names no row: "lines 2, 3 …"."""
        lost = np.setdiff1d(np.arange(len(self.labels)), self.label_of_row)
        return self._rows(self.labels.index[lost])

    def unknown(self) -> tuple[int, str]:
        """Return how many different labels name no class, and the first row of each of some."""
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
            yield f"{self.unlabelled:,} rows have no label yet and are not used"
        if self.repeated:
            yield f"{self.repeated:,} rows repeat what an earlier row says and count once"


def join(results: Results, loaded: LoadedLabels, by: str | None) -> JoinedLabels:
    """Join labels with rows of a table by what is given, or else by what joins most labels.

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
    frame = loaded.frame
    known = frame[frame["label"].notna()]
    tried = [by] if by is not None else [by for by, column in JOINS.items() if column in frame]
    if "accession" in tried and not _has_our_keys(results):
        tried.remove("accession")
        if not tried:
            raise LabelError(
                f"{results.name} has no accession keys, or they were made under another patient "
                f"secret than {secret_file()}: score again with this secret, or name images in "
                f"{loaded.name} by another column, see --by"
            )
    matches: dict[str, int] = {}
    best: tuple[str, pd.Series, pd.Series] | None = None
    for one in tried:
        names, rows = _NAMES.get(one, _plain)(results, known, JOINS[one])
        matches[one] = int((names.isin(rows) & (names != "")).sum())
        if best is None or matches[one] > matches[best[0]]:
            best = one, names, rows
        if matches[one] == len(known):
            break
    assert best is not None
    by, names, rows = best
    given = names[names != ""]
    numbers = find_classes(known["label"].cat.categories, results.classes)
    once = once_each(loaded, given, _by_class(known.loc[given.index], numbers))
    return JoinedLabels(
        loaded=loaded,
        table=results.name,
        classes=results.classes,
        by=by,
        matches=matches,
        labels=known.loc[once.index].assign(patient=once["patient"], split=once["split"]),
        label_of_row=pd.Index(given[once.index]).get_indexer(rows),
        unlabelled=len(frame) - len(known),
        repeated=len(given) - len(once),
        numbers=numbers,
    )


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
        yield "no class", f"{count:,} different labels, as in {rows}: say with --map TEXT=CLASS"
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


def _plain(results: Results, labels: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    return labels[column], results.read([column])[column]


def _paths(results: Results, labels: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The path of each label, as the table spells it if it has it, and of each row."""
    rows = results.read([column])[column]
    root = str(results.provenance.get("archive_root", "")).rstrip("/")
    names = labels[column].str.removeprefix(f"{root}/")
    found = names.isin(rows)
    lost = ~found & (names != "")
    if lost.any():
        names = names.mask(lost, _respelled(names[lost], rows, is_alone=not found.any()))
    return names, rows


def _respelled(names: pd.Series, rows: pd.Series, *, is_alone: bool) -> pd.Series:
    """Find paths in the table by their `_plain_path`; those that are not found stay as they are.

    Args:
        names: Paths of labels that the table does not have.
        rows: The table's paths.
        is_alone: Whether no path is found. Then the folders in front that all paths of the labels
            share, or all of the table, are left out one by one until a path is found.
    """
    spellings = pd.Series(rows.unique())
    wanted, own = _plain_path(names), _plain_path(spellings)
    for one, other in _without_folders(wanted, own) if is_alone else [(wanted, own)]:
        if (found := one.isin(other)).any():
            is_unique = ~other.duplicated(keep=False)
            spelled = one[found].map(pd.Series(spellings[is_unique].array, other[is_unique]))
            return names.mask(found, spelled.fillna(names[found]))
    return names


def _plain_path(paths: pd.Series) -> pd.Series:
    """Return paths in Unicode's composed form, divided by slashes alone, without a first slash."""
    composed = paths.map(lambda path: unicodedata.normalize("NFC", path))
    return composed.str.replace(r"\\+", "/", regex=True).str.lstrip("/")


def _without_folders(wanted: pd.Series, own: pd.Series) -> Iterator[tuple[pd.Series, pd.Series]]:
    """Yield paths of labels and of a table, either without more and more of its first folders."""
    yield wanted, own
    yield from ((shorter, own) for shorter in _shortened(wanted))
    yield from ((wanted, shorter) for shorter in _shortened(own))


def _shortened(paths: pd.Series) -> Iterator[pd.Series]:
    """Leave out the folders one by one that all paths share."""
    first, last = paths.min().split("/"), paths.max().split("/")
    for one, other in zip(first[:-1], last[:-1], strict=False):
        if one != other:
            return
        paths = paths.str.partition("/")[2]
        yield paths


def _file_names(results: Results, labels: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The file name of each label and row, null in rows whose file is not alone with its name."""
    rows = results.read([column])[column]
    names = _file_name(pd.Series(rows.unique()))
    alone = pd.Series(names.mask(names.duplicated(keep=False)).array, rows.unique())
    return _file_name(labels[column]), rows.map(alone)


def _file_name(paths: pd.Series) -> pd.Series:
    return _plain_path(paths).str.rpartition("/")[2]


_NAMES = {"path": _paths, "name": _file_names}
