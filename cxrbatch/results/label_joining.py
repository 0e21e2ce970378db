"""Joins labels with the rows of a results table: by path, UID or hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.files import listed, shown
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.frames import Results, names_of_rows, positions
from cxrbatch.results.label_checks import CONSISTENT, once_each
from cxrbatch.results.label_files import LabelOptions, LoadedLabels, load
from cxrbatch.results.label_names import JOINS
from cxrbatch.results.merging import Task, make_task
from cxrbatch.results.patient_keys import patient_secret, secret_id

GROUPS = ("series", "study", "accession")
"""Joins whose label is that of several images."""

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """Labels joined with the rows of a table.

    Attributes:
        loaded: The labels as they were read.
        table: The path of the results table, for messages.
        classes: Names of the classes that the labels tell apart.
        by: What joined them, a key of `JOINS`.
        matches: What was tried, a key of `JOINS` -> number of rows with a label that name a row of
            the table by it.
        labels: One row per image, series or study that is named, with label, patient and split; the
            index is the number of the row in the file. Rows without a label are left out.
        label_of_row: Shape (rows of the table,): position in `labels`, or -1.
        unlabelled: Number of rows of the file without a label.
        unnamed: Number of rows with a label and nothing, or a placeholder, for what joins them.
        repeated: Number of rows with a label that name what an earlier one names.
        numbers: Label as written -> index of its class in `classes`, or -1.
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
            LabelError: For unknown classes the message has the numbers of up to five rows in the
                file of labels, as that file counts them (lines of CSV, else rows, from 1), and no
                text of them.
        """
        _refuse(self.loaded, *self.unknown(), self.classes)
        if not self.matched:
            raise LabelError(
                f"none of the {len(self.labels):,} labels in {self.loaded} names a row of "
                f"{self.table} by {' or '.join(self.matches)}; {self.loaded.columns_read()}; "
                f"{self.remedy(*self.matches)}"
            )

    def remedy(self, *tried: str) -> str:
        """Return what to do where labels name no row by these keys of `JOINS`."""
        if tried == ("accession",):
            return (
                "accession numbers are compared as text, with zeros in front, and the table has "
                "only keyed hashes of them; write them as the header of the files has them"
            )
        return "write it as the table has it, or name another column with --path-column or --by"

    def unmatched(self) -> str:
        """Return which rows of the file, up to five, name no row of the table: "lines 2, 3 …"."""
        lost = np.setdiff1d(np.arange(len(self.labels)), self.label_of_row)
        return _rows(self.loaded, self.labels.index[lost])

    def unknown(self) -> tuple[int, str]:
        """Return how many different labels name no class, and up to five rows: "lines 2, 9"."""
        return _unknown(self.loaded, self.labels["label"], self.numbers)

    def losses(self) -> Iterator[str]:
        """Yield how many labels name no row, if any, and the encoding of CSV that is not UTF-8."""
        if lost := len(self.labels) - self.matched:
            yield f"{lost:,} of {len(self.labels):,} name no row of the table"
        if self.loaded.form.startswith("CSV") and "UTF-8" not in self.loaded.form:
            yield f"read as {self.loaded.form}"

    def warnings(self, scored: npt.NDArray[np.bool_]) -> Iterator[str]:
        """Yield a line where under half of the labels and of the scored rows are joined.

        Args:
            scored: Shape (rows of the table,): whether the row has scores.
        """
        named, of = int((self.label_of_row >= 0)[scored].sum()), int(scored.sum())
        labels = len(self.labels) + self.unnamed
        if 2 * self.matched < labels and 2 * named < of:
            yield (
                f"only {self.matched:,} of {labels:,} labels name a row of the table, and only "
                f"{named:,} of {of:,} scored images have a label; --check-labels shows how they "
                "are read and joined"
            )

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
            yield (
                f"rows whose {self.by.replace('_', ' ')} is blank or a placeholder, which are not "
                f"used: {self.unnamed:,}"
            )
        if self.repeated:
            yield f"rows that repeat an earlier row, which count once: {self.repeated:,}"
        if unused := self.loaded.unused:
            yield f"texts that are given a class, and that no label has: {listed(unused)}"


def check_label_texts(loaded: LoadedLabels, task: Task) -> None:
    """Raise an error if a label names no class, before there is a table to join the labels with.

    Args:
        loaded: The labels.
        task: The classes that they tell apart.

    Raises:
        LabelError: As `JoinedLabels.check` raises it for unknown classes.
    """
    labels = loaded.frame["label"].dropna()
    numbers = task.numbers(labels.cat.categories)
    _refuse(loaded, *_unknown(loaded, labels, numbers), task.classes)


def _unknown(
    loaded: LoadedLabels, labels: pd.Series, numbers: Mapping[str, int]
) -> tuple[int, str]:
    """Count the different labels without a class, and name up to five of their rows."""
    unknown = labels.isin([label for label, number in numbers.items() if number < 0])
    firsts = labels[unknown].drop_duplicates()
    return len(firsts), _rows(loaded, firsts.index)


def _rows(loaded: LoadedLabels, numbers: pd.Index) -> str:
    more = " …" if len(numbers) > _MOST_SHOWN else ""
    unit = loaded.unit + ("s" if len(numbers) != 1 else "")
    return f"{unit} {', '.join(map(str, numbers[:_MOST_SHOWN]))}{more}"


def _refuse(loaded: LoadedLabels, count: int, rows: str, classes: tuple[str, ...]) -> None:
    if count:
        raise LabelError(
            f"{loaded}: labels name no class of the model, {count:,} different texts, as in "
            f"{rows}; the classes are {listed(classes)}; say which is meant with --map "
            "TEXT=CLASS, or remove those rows"
        )


def join(results: Results, loaded: LoadedLabels, by: str | None, task: Task) -> JoinedLabels:
    """Find the label of each row of a table, by what is given or else by what joins most labels.

    Labels that name no class or no row are kept: `JoinedLabels.check` refuses them.

    Args:
        results: The table.
        loaded: The labels.
        by: A key of `JOINS` whose column the labels have; None to try those of which they have it,
            until one joins all. Of two that join equally many, the earlier one in `JOINS` is taken.
        task: The classes that the labels tell apart.

    Raises:
        LabelError: Two labels of one image contradict each other; or only accession numbers are to
            be tried, and the table has no keys of theirs under the user's patient secret.
        TableError: The table is damaged.
    """
    known = loaded.frame[loaded.frame["label"].notna()]
    matches: dict[str, int] = {}
    best: tuple[str, pa.Array, pa.Array] | None = None
    for one in _to_try(results, loaded, by):
        names, rows = names_of_rows(results, one, known[JOINS[one]])
        matches[one] = int(np.count_nonzero(positions(names, rows) >= 0))
        if best is None or matches[one] > matches[best[0]]:
            best = one, names, rows
        if matches[one] == len(known):
            break
    assert best is not None
    by, names, rows = best
    given = np.asarray(pc.not_equal(names, ""))
    names = names.filter(pa.array(given))
    numbers = task.numbers(known["label"].cat.categories)
    codes = np.asarray(names.dictionary_encode().indices, np.int64)
    fields = _by_class(known.loc[given, list(CONSISTENT)], numbers)
    labels = once_each(loaded.name, loaded.unit, codes, fields)
    is_first = ~pd.Series(codes).duplicated()
    labels["label"] = known.loc[given, "label"][is_first.array]
    return JoinedLabels(
        loaded=loaded,
        table=results.name,
        classes=task.classes,
        by=by,
        matches=matches,
        labels=labels,
        label_of_row=positions(rows, names.filter(pa.array(is_first))),
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
                f"secret than this user's: score again with this secret, or name images in "
                f"{loaded.name} by another column, see --by"
            )
    return tried


def describe_labels(
    table: Path, labels: Path, options: LabelOptions, *, merge: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield how labels are read and joined with a table, as lines of a title and a text.

    No text of a row is among them, only numbers of rows and names of columns and classes.

    Args:
        table: The results table.
        labels: The file of labels.
        options: How labels are read and joined.
        merge: Whether a text of a label may stand for several classes.

    Raises:
        LabelError: The labels cannot be read or joined, see `join`; or after all lines, they fail
            `JoinedLabels.check`.
        UsageError: The map of the options cannot be used, see `make_task`.
        TableError: The table cannot be used.
    """
    results = Results(table)
    task = make_task(results.classes, options.class_map, merge=merge)
    loaded = load(labels, replace(options, class_map=task.texts), task.names)
    yield "labels", f"{loaded.name}: {loaded.form}"
    yield "columns", f"{loaded.columns_read()}; {len(loaded.header)} in all"
    yield "rows", f"{len(loaded.frame):,}"
    joined = join(results, loaded, options.by, task)
    labels_of_class = joined.labels["label"].map(joined.numbers).value_counts()
    tried = ", ".join(f"{by} {count:,}" for by, count in joined.matches.items())
    yield "joined", f"{joined.matched:,} of {len(joined.labels):,} labels by {joined.by} ({tried})"
    for note in joined.notes():
        yield "", note
    if joined.matched < len(joined.labels):
        yield (
            "not joined",
            f"{joined.unmatched()}: no row of the table has their {joined.by}; "
            f"{joined.remedy(joined.by)}",
        )
    count, rows = joined.unknown()
    if count:
        yield "no class", f"different texts: {count:,}, as in {rows}; say with --map TEXT=CLASS"
    classes = (f"{shown(n)} {labels_of_class.get(k, 0):,}" for k, n in enumerate(task.classes))
    yield "classes", ", ".join(classes)
    scored = scored_rows(results)
    named = joined.label_of_row >= 0
    yield (
        "images",
        f"{int((named & scored).sum()):,} of {int(scored.sum()):,} scored images have a label, and "
        f"{int((named & ~scored).sum()):,} rows without a score",
    )
    joined.check()


def scored_rows(results: Results) -> npt.NDArray[np.bool_]:
    """Return for each row of a table whether it was scored, shape (rows,).

    Raises:
        TableError: The table is damaged.
    """
    is_scored = results.read(["outcome"])["outcome"] == Outcome.SCORED.value
    return np.asarray(is_scored, np.bool_)


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
