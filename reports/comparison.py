"""A comparison of two tables on the same images: the second is measured against the first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxrbatch.reports.gallery import AS_SCORED, GalleryImage, PictureSource, gallery_images
from cxrbatch.reports.matching import Pairs, pair_up
from cxrbatch.reports.page import (
    OnStep,
    as_text,
    check_outputs,
    no_steps,
    render,
    warnings_of,
    write_outputs,
)
from cxrbatch.results.counting import Positions
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.results.statistics.calculation import (
    Comparison,
    compare_scores,
    evaluate_scores,
    headline_of,
)
from cxrbatch.results.statistics.intervals import Estimate
from cxrbatch.results.table import Table, open_table

_MOST_FLIPS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Flips:
    """Images of one kind among those whose predictions differ between the two tables.

    Attributes:
        title: The kind: which of the two tables is right, or that both are wrong.
        count: Number of these images.
        shown: Up to 4 images, those with the largest sum of the probabilities of what first and
            second predict, as first and second scored them.
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
    def warnings(self) -> tuple[str, ...]:
        """Lines that say what is wrong with archive or labels, and what to do about it."""
        images = [image for flips in self.flips for pair in flips.shown for image in pair]
        return (*self.pairs.truth_warnings, *warnings_of(self.pairs.counts, images))

    @property
    def loss(self) -> float | None:
        """First minus second, in balanced accuracy or in macro AUC: the larger difference.

        Negative where the second is higher in all that are defined; None where neither is defined.
        """
        values = self.differences.balanced_accuracy.value, self.differences.macro_auc.value
        return max((-value for value in values if value is not None), default=None)

    def page(self) -> bytes:
        """Return the HTML page of the comparison, encoded in UTF-8."""
        return render("compare.html", {"compared": self}).encode()

    def figures(self) -> dict[str, Any]:
        """Return the content of the comparison's JSON file, without images shown and warnings."""
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
            "images": self.pairs.counts.analysed,
            "unpaired": list(self.pairs.unpaired),
            "flow": asdict(self.pairs.counts),
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
    keep_copies: bool = False,
    keep_flagged: bool = False,
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
        keep_copies: Whether all of several equal images are compared.
        keep_flagged: Whether images flagged as lateral or as no chest are compared.
        source: Where the pictures are, and whether paths may be shown.
        overwrite: Whether existing outputs are replaced.
        on_step: Called with the name of each step before it begins.

    Returns:
        The values that both files are made from.

    Raises:
        UsageError: An output cannot be written to, see `check_outputs`.
        TableError: A table cannot be used, or they do not fit together.
        LabelError: The labels cannot be used, there is no truth, or no image is left to compare.
        CxrbatchError: No process can be started.
        OSError: An output cannot be written.
    """
    check_outputs([output, figures], [first, second, labels], overwrite=overwrite)
    on_step("reading the tables")
    tables = open_table(first), open_table(second)
    pairs = pair_up(
        *tables,
        labels,
        label_options=label_options,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
    )
    on_step("evaluating each")
    evaluations = _evaluation(pairs, 0), _evaluation(pairs, 1)
    on_step("comparing")
    compared = pairs.compared
    one, other = compared.probabilities
    differences = compare_scores(compared.truth, other, one, compared.groups)
    on_step("reading the pictures")
    flips = _flips(tables, pairs, source)
    made = tables[0].provenance, tables[1].provenance
    values = ComparisonValues(made, pairs, evaluations, differences, flips)
    write_outputs(values.page() if output else b"", output, values.figures(), figures)
    return values


def _evaluation(pairs: Pairs, number: int) -> Evaluation:
    """The figures of one of the tables on the compared images, and its headline on all images."""
    scores, whole = (
        (of.truth, of.probabilities[number], of.groups) for of in (pairs.compared, pairs.all_images)
    )
    evaluation = evaluate_scores(*scores, classes=pairs.classes)
    if len(pairs.all_images.truth) == len(pairs.compared.truth):
        return evaluation
    headline = headline_of(*whole, classes=pairs.classes, side=pairs.counts.side)
    return replace(evaluation, all_images=headline)


def _flips(tables: tuple[Table, Table], pairs: Pairs, source: PictureSource) -> tuple[Flips, ...]:
    compared = pairs.compared
    predicted = [p.argmax(axis=1) for p in compared.probabilities]
    right = [classes == compared.truth for classes in predicted]
    flipped = predicted[0] != predicted[1]
    kinds = {
        "Only the second is right": flipped & right[1],
        "Only the first is right": flipped & right[0],
        "Both are wrong, in different ways": flipped & ~right[0] & ~right[1],
    }
    certainty = sum(p.max(axis=1) for p in compared.probabilities)
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
    probabilities = pairs.compared.probabilities[number][positions]
    names = [pairs.classes[c] for c in probabilities.argmax(axis=1)]
    images = gallery_images(
        table,
        pairs.compared.rows[number][positions].tolist(),
        [table.classes.index(name) for name in names],
        probabilities.max(axis=1, initial=0.0).astype(float).tolist(),
        [pairs.classes[c] for c in pairs.compared.truth[positions]],
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
