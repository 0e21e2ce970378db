"""A comparison of two tables on the same images: the second is measured against the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import LabelError, TableError
from cxrbatch.files import shown
from cxrbatch.reports.gallery import AS_SCORED, GalleryImage, PictureSource, gallery_images
from cxrbatch.reports.page import OnStep, as_text, check_outputs, no_steps, render, write_outputs
from cxrbatch.results.analysis import Positions, analyse, card_of, model_name, read_scores
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.frames import Results
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.results.statistics.calculation import Comparison, compare_scores, evaluate_scores
from cxrbatch.results.statistics.intervals import Classes, Estimate, Groups, Probabilities
from cxrbatch.results.table import Table, open_table
from cxrbatch.results.truth import patients_of

_KEYS = (("path", "frame"), ("sop_instance_uid", "frame"), ("image_hash",))
# What decides which input an image becomes.
_INPUT_OPTIONS = ("recipe", "fast_decode")
_MOST_FLIPS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images that both tables have scores of, and whose truth is known.

    Attributes:
        key: The columns by which they were joined.
        classes: In the order of the first table.
        names: Names of the two models.
        truth_source: Where the truth comes from.
        truth_notes: What was done with the labels beside joining them, a sentence each.
        side: "test" if only that side of the labels' split is compared, else None.
        not_held_out: Images analysed of the first table that are on a side train or val.
        truth: Shape (n,), class indices.
        groups: Shape (n,), the number of each image's patient.
        rows: Of each table, shape (n,), row numbers from 0.
        probabilities: Of each table, shape (n, classes), both in the order of `classes`.
        unpaired: Images analysed of the first table that the second has no score of; and scored
            images of the second table that are not among those analysed.
    """

    key: tuple[str, ...]
    classes: tuple[str, ...]
    names: tuple[str, str]
    truth_source: str
    truth_notes: tuple[str, ...]
    side: str | None
    not_held_out: int
    truth: Classes
    groups: Groups
    rows: tuple[Positions, Positions]
    probabilities: tuple[Probabilities, Probabilities]
    unpaired: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Flips:
    """Images of one kind among those whose predictions differ between the two tables.

    Attributes:
        title: The kind: which of the two tables is right, or that both are wrong.
        count: Number of these images.
        shown: Up to 4 images with the largest two probabilities, as first and second scored them.
    """

    title: str
    count: int
    shown: tuple[tuple[GalleryImage, GalleryImage], ...]


@dataclass(frozen=True, slots=True)
class ComparisonValues:
    """All values that the page and the JSON file of a comparison are made from.

    Attributes:
        provenance: How each table was made.
        pairs: The images that are compared.
        evaluations: Of each table on these images.
        differences: Second - first: its first model is that of the second table.
        flips: Images with different predictions, by who is right.
    """

    provenance: tuple[Mapping[str, Any], Mapping[str, Any]]
    pairs: Pairs
    evaluations: tuple[Evaluation, Evaluation]
    differences: Comparison
    flips: tuple[Flips, ...]

    @property
    def loss(self) -> float | None:
        """First - second in balanced accuracy or in macro AUC, whichever is larger.

        Negative where the second is higher in both; None where neither is defined.
        """
        values = self.differences.balanced_accuracy.value, self.differences.macro_auc.value
        return max((-value for value in values if value is not None), default=None)

    def page(self) -> bytes:
        """Return the HTML page of the comparison, encoded in UTF-8."""
        return render("compare.html", {"compared": self}).encode()

    def figures(self) -> dict[str, Any]:
        """Return the content of the comparison's JSON file: all values but the pictures."""
        names = ("checkpoint_sha256", "recipe_sha256", "device", "precision")
        return {
            "tables": [
                {"model": model, **{name: as_text(made.get(name)) for name in names}}
                for model, made in zip(self.pairs.names, self.provenance, strict=True)
            ],
            "classes": list(self.pairs.classes),
            "joined_by": list(self.pairs.key),
            "truth": self.pairs.truth_source,
            "truth_notes": list(self.pairs.truth_notes),
            "side": self.pairs.side,
            "not_held_out": self.pairs.not_held_out,
            "images": len(self.pairs.truth),
            "unpaired": list(self.pairs.unpaired),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "differences": _differences(self.differences),
            "flips": {flips.title: flips.count for flips in self.flips},
            "loss": self.loss,
        }


def write_comparison(
    first: Path,
    second: Path,
    *,
    output: Path | None = None,
    figures: Path | None = None,
    labels: Path | None = None,
    label_options: LabelOptions = AS_USUAL,
    source: PictureSource = AS_SCORED,
    overwrite: bool = False,
    on_step: OnStep = no_steps,
) -> ComparisonValues:
    """Compare two results tables on the same images, and write HTML and JSON files if asked to.

    Args:
        first: The table that the other is measured against.
        second: The other one.
        output: The HTML page to write, or None.
        figures: A JSON file to write the same figures to, or None.
        labels: A file of labels; None to use the first table's column truth, or its folders.
        label_options: How labels are read and joined.
        source: Where the pictures are, and whether paths may be shown.
        overwrite: Whether existing outputs are replaced.
        on_step: Called with the name of each step before it begins.

    Raises:
        UsageError: An output exists, is an input, or is the other output.
        TableError: A table cannot be used, or they do not fit together.
        LabelError: The labels cannot be used, or there are none.
        CxrbatchError: No process can be started.
        OSError: An output cannot be written.
    """
    check_outputs([output, figures], [first, second, labels], overwrite=overwrite)
    on_step("reading the tables")
    tables = open_table(first), open_table(second)
    pairs = pair_up(*tables, labels, label_options)
    on_step("evaluating each")
    one, other = pairs.probabilities
    evaluations = (
        evaluate_scores(pairs.truth, one, pairs.groups, classes=pairs.classes),
        evaluate_scores(pairs.truth, other, pairs.groups, classes=pairs.classes),
    )
    on_step("comparing")
    differences = compare_scores(pairs.truth, other, one, pairs.groups)
    on_step("reading the pictures")
    flips = _flips(tables, pairs, source)
    made = tables[0].provenance, tables[1].provenance
    values = ComparisonValues(made, pairs, evaluations, differences, flips)
    write_outputs(values.page() if output else b"", output, values.figures(), figures)
    return values


def pair_up(
    first: Table, second: Table, labels: Path | None = None, options: LabelOptions = AS_USUAL
) -> Pairs:
    """Join two tables image by image, and find the truth by the labels and rows of the first table.

    The key is path and frame; where no image has both in both tables, SOP Instance UID and frame;
    then the hash of the network's input, which two recipes do not share. Where both tables were
    made with one recipe, an image whose hash differs in the second table is another picture and
    is not paired. Images of the first table that `analyse` does not choose are left out.

    Raises:
        TableError: A table is damaged, or they have other classes or no image in common.
        LabelError: There is no truth, or the labels cannot be used.
    """
    if set(first.classes) != set(second.classes):
        names, others = (", ".join(map(shown, table.classes)) for table in (first, second))
        raise TableError(
            f"{first.path} has the classes {names}, {second.path} {others}; only models of the "
            "same classes can be compared"
        )
    analysis = analyse(first, labels, label_options=options)
    other = Results(second)
    other_scores = read_scores(other)
    if analysis.truth is None:
        raise LabelError(f"nothing tells the truth about the images of {first.path}; give --labels")
    if not len(analysis.chosen):
        raise LabelError(f"no scored image of {first.path} has a truth; give other --labels")
    key, places = _joined((analysis.results, other), (analysis.rows, other_scores.rows))
    paired = np.flatnonzero(places >= 0)
    places, rows = places[paired], analysis.rows[paired]
    order = [second.classes.index(name) for name in first.classes]
    return Pairs(
        key=key,
        classes=first.classes,
        names=(model_name(analysis.card), model_name(card_of(other))),
        truth_source=analysis.truth.source,
        truth_notes=analysis.truth.notes,
        side=analysis.flow.side,
        not_held_out=analysis.flow.not_held_out,
        truth=analysis.true_classes()[analysis.chosen][paired],
        groups=patients_of(analysis.results, analysis.truth, rows),
        rows=(rows, other_scores.rows[places]),
        probabilities=(
            analysis.probabilities[paired],
            other_scores.probabilities[places][:, order],
        ),
        unpaired=(
            len(analysis.chosen) - len(paired),
            len(other_scores.rows) - len(np.unique(places)),
        ),
    )


def _joined(
    results: tuple[Results, Results], rows: tuple[Positions, Positions]
) -> tuple[tuple[str, ...], Positions]:
    """The key that joins them, and for each row of the first its place in `rows[1]`, or -1."""
    for key in _KEYS:
        first, second = (_names(of, own, key) for of, own in zip(results, rows, strict=True))
        once = second[second.notna() & ~second.duplicated()]
        found = pd.Index(once).get_indexer(first)
        places = np.where(found >= 0, np.append(once.index, -1)[found], -1)
        places = np.where(_same_pictures(results, rows, places), places, -1)
        if (places >= 0).any():
            return key, places.astype(np.int64)
    raise TableError(
        f"{results[0].name} and {results[1].name} have no image in common: neither by path, nor by "
        "SOP Instance UID, nor by image hash"
    )


def _same_pictures(
    results: tuple[Results, Results], rows: tuple[Positions, Positions], places: Positions
) -> npt.NDArray[np.bool_]:
    """Whether joined images have one hash, or were made into inputs in two ways."""
    made = [[of.provenance.get(name) for name in _INPUT_OPTIONS] for of in results]
    if made[0] != made[1]:
        return np.ones(len(places), np.bool_)
    key = ("image_hash",)
    first, second = (_names(of, own, key) for of, own in zip(results, rows, strict=True))
    other = second.reindex(places).reset_index(drop=True)
    return np.asarray((first == other).fillna(True), np.bool_)


def _names(results: Results, rows: Positions, key: Sequence[str]) -> pd.Series:
    """One text per row, null where a part of it is unknown."""
    columns = results.read(key).iloc[rows].reset_index(drop=True)
    parts = [columns[name].astype("string") for name in key]
    return parts[0] if len(parts) == 1 else parts[0].str.cat(parts[1:], sep="\n")


def _flips(tables: tuple[Table, Table], pairs: Pairs, source: PictureSource) -> tuple[Flips, ...]:
    predicted = [p.argmax(axis=1) for p in pairs.probabilities]
    right = [classes == pairs.truth for classes in predicted]
    flipped = predicted[0] != predicted[1]
    kinds = {
        "Only the second is right": flipped & right[1],
        "Only the first is right": flipped & right[0],
        "Both are wrong, in different ways": flipped & ~right[0] & ~right[1],
    }
    certainty = pairs.probabilities[0].max(axis=1) + pairs.probabilities[1].max(axis=1)
    chosen = {
        title: np.flatnonzero(of)[np.argsort(-certainty[of], kind="stable")[:_MOST_FLIPS_SHOWN]]
        for title, of in kinds.items()
    }
    positions = np.unique(np.concatenate([*chosen.values()]))
    first, second = (_images(tables[i], pairs, i, positions, source) for i in (0, 1))
    return tuple(
        Flips(title, int(of.sum()), tuple((first[p], second[p]) for p in chosen[title]))
        for title, of in kinds.items()
    )


def _images(
    table: Table, pairs: Pairs, number: int, positions: Positions, source: PictureSource
) -> dict[int, GalleryImage]:
    """The images at some positions, as the table of this number scores them."""
    probabilities = pairs.probabilities[number][positions]
    names = [pairs.classes[c] for c in probabilities.argmax(axis=1)]
    images = gallery_images(
        table,
        pairs.rows[number][positions].tolist(),
        [table.classes.index(name) for name in names],
        probabilities.max(axis=1, initial=0.0).astype(float).tolist(),
        [pairs.classes[c] for c in pairs.truth[positions]],
        source,
    )
    return dict(zip(positions.tolist(), images, strict=True))


def _differences(found: Comparison) -> dict[str, Any]:
    def estimate(value: Estimate) -> dict[str, Any]:
        low, high = value.interval or (None, None)
        return {"value": value.value, "low": low, "high": high, "why": value.reason}

    return {
        "second_only_right": found.first_only,
        "first_only_right": found.second_only,
        "mcnemar_p": found.mcnemar_p,
        "accuracy": estimate(found.accuracy),
        "balanced_accuracy": estimate(found.balanced_accuracy),
        "macro_auc": estimate(found.macro_auc),
        "auc": [estimate(value) for value in found.auc],
        "delong": [
            None if c is None else {"low": c.interval.low, "high": c.interval.high, "p": c.p}
            for c in found.delong
        ],
    }
