"""A report: everything that the page shows and the JSON file holds, and both files written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrbatch import __version__
from cxrbatch.reading.outcomes import Flag
from cxrbatch.reports.choosing import Choices, choose
from cxrbatch.reports.gallery import AS_SCORED, GalleryImage, PictureSource, gallery_images
from cxrbatch.reports.matching import Copies, find_copies
from cxrbatch.reports.model_checks import ModelChecks, model_checks
from cxrbatch.reports.page import (
    OnStep,
    as_text,
    check_outputs,
    no_steps,
    render,
    warnings_of,
    write_outputs,
)
from cxrbatch.results.analysis import Analysis, Flow, analyse
from cxrbatch.results.counting import as_bits, equal_images
from cxrbatch.results.evaluation import by_class, evaluate_analysis
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.gated import GateFigures, evaluate_gate, strangest
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.results.subgroups import FEW, Subgroups, evaluate_subgroups
from cxrbatch.results.table import Table, open_table
from cxrbatch.results.truth import UNKNOWN

_BINS = 20
_MOST_STRANGE = 12


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the scores of all scored images are distributed, without regard to the truth.

    Attributes:
        predicted: Class name -> number of scored images of which it is the most probable class.
        edges: Edges of the bins of confidence (the largest probability), one more than bins.
        confidence: Number of scored images in each bin.
        flags: Code of each flag that occurs, its meaning, and the number of scored images.
    """

    predicted: Mapping[str, int]
    edges: tuple[float, ...]
    confidence: tuple[int, ...]
    flags: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class ReportValues:
    """All values that the page and the JSON file of a report are made from.

    Attributes:
        provenance: How the table was made.
        card: The checkpoint's card; empty where the table has none.
        classes: Names of the classes.
        truth_source: Where the truth comes from; None without a truth.
        truth_notes: What was done with the labels beside joining them, a sentence each.
        truth_warnings: What to mend in the labels before the figures are believed, a line each.
        flow: Counts from files to images analysed.
        evaluation: None without a truth.
        subgroups: Empty without a truth.
        gate: What the input gate flagged; None of a table without its scores.
        strangest: Flagged images to show, as positions that `shown` has.
        distribution: Of the scores.
        copies: Equal and nearly equal images.
        choices: The images of the gallery, as positions that `shown` has.
        shown: Position among the analysed images -> image, for all of `choices`.
        root: The folder that was scored, "" where the table does not say; None where paths may not
            be shown.
        paths: Row, from 1 -> path, for the rows listed in `copies`; empty where paths may not be
            shown.
    """

    provenance: Mapping[str, Any]
    card: Mapping[str, Any]
    classes: tuple[str, ...]
    truth_source: str | None
    truth_notes: tuple[str, ...]
    truth_warnings: tuple[str, ...]
    flow: Flow
    evaluation: Evaluation | None
    subgroups: tuple[Subgroups, ...]
    gate: GateFigures | None
    strangest: tuple[int, ...]
    distribution: Distribution
    copies: Copies
    choices: Choices
    shown: Mapping[int, GalleryImage]
    root: str | None
    paths: Mapping[int, str]

    @property
    def checks(self) -> ModelChecks:
        """What the model was checked for when it was trained, from its card."""
        return model_checks(self.card)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines that say what is wrong with archive or labels, and what to do about it."""
        return (*self.truth_warnings, *warnings_of(self.flow, self.shown.values()))

    def page(self) -> bytes:
        """Return the HTML page of the report, encoded in UTF-8."""
        return render("report.html", {"report": self, "few": FEW}).encode()

    def figures(self) -> dict[str, Any]:
        """Return the content of the report's JSON file, which has no picture and no warning.

        With `archive_root` and `paths` only where paths may be shown.
        """
        gallery = [
            {"class": name, "kind": title, "images": [self.shown[p].figures() for p in positions]}
            for name, kinds in self.choices.items()
            for title, positions in kinds.items()
        ]
        names = ("checkpoint_sha256", "recipe", "recipe_sha256", "device", "precision", "versions")
        # A table that was edited may hold numbers that JSON has no way to write.
        made = {name: self.provenance.get(name) for name in ("schema_version", *names)}
        return {
            "cxrbatch": __version__,
            "table": {name: as_text(value) for name, value in made.items()},
            "model": as_text(self.card.get("name")),
            "architecture": as_text(self.card.get("architecture")),
            "limits": as_text(self.card.get("limits")),
            "model_checks": asdict(self.checks),
            "classes": list(self.classes),
            "truth": self.truth_source,
            "truth_notes": list(self.truth_notes),
            "flow": asdict(self.flow),
            "evaluation": None if self.evaluation is None else asdict(self.evaluation),
            "subgroups": [asdict(group) for group in self.subgroups],
            "gate": None if self.gate is None else asdict(self.gate),
            "distribution": asdict(self.distribution),
            "copies": asdict(self.copies),
            "gallery": gallery,
            **({"archive_root": self.root, "paths": self.paths} if self.root is not None else {}),
        }


def write_report(
    table: Path,
    output: Path,
    *,
    figures: Path | None = None,
    labels: Path | None = None,
    label_options: LabelOptions = AS_USUAL,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    prevalence: Mapping[str, float] | None = None,
    source: PictureSource = AS_SCORED,
    overwrite: bool = False,
    on_step: OnStep = no_steps,
) -> ReportValues:
    """Make the report of a results table, and write it to an HTML file and a JSON file.

    Args:
        table: The results table.
        output: The HTML page to write.
        figures: A JSON file to write the same figures to, or None.
        labels: A file of labels; None to use the table's column truth, else class-named folders.
        label_options: How labels are read and joined.
        keep_copies: Whether all of several equal images are analysed.
        keep_flagged: Whether images flagged as lateral or as no chest are analysed.
        prevalence: Class name -> prevalence for which predictive values are stated too.
        source: Where the pictures are, and whether paths may be shown.
        overwrite: Whether existing outputs are replaced.
        on_step: Called with the name of each step before it begins.

    Returns:
        The values that both files were made from.

    Raises:
        UsageError: An output cannot be written to, see `check_outputs`, or `prevalence` is no
            mapping of texts.
        TableError: The table cannot be used.
        LabelError: The labels cannot be used, or `prevalence` names no class, one twice, or a share
            outside (0, 1).
        CxrbatchError: No process can be started.
        OSError: An output cannot be written.
    """
    check_outputs([output, figures], [table, labels], overwrite=overwrite)
    values = make_report(
        table,
        labels=labels,
        label_options=label_options,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
        prevalence=prevalence,
        source=source,
        on_step=on_step,
    )
    write_outputs(values.page(), output, values.figures(), figures)
    return values


def make_report(
    path: Path,
    *,
    labels: Path | None = None,
    label_options: LabelOptions = AS_USUAL,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    prevalence: Mapping[str, float] | None = None,
    source: PictureSource = AS_SCORED,
    on_step: OnStep = no_steps,
) -> ReportValues:
    """Calculate all values of a report, and read its pictures; write nothing.

    Args:
        path: The results table.
        labels: A file of labels; None to use the table's column truth, else class-named folders.
        label_options: How labels are read and joined.
        keep_copies: Whether all of several equal images are analysed.
        keep_flagged: Whether images flagged as lateral or as no chest are analysed.
        prevalence: Class name -> prevalence for which predictive values are stated too.
        source: Where the pictures are, and whether paths may be shown.
        on_step: Called with the name of each step before it begins.

    Raises:
        TableError: The table cannot be used.
        LabelError: The labels cannot be used, or `prevalence` names no class, one twice, or a share
            outside (0, 1).
        UsageError: `prevalence` is no mapping of texts.
        CxrbatchError: No process can be started.
    """
    on_step("reading the table")
    table = open_table(path)
    by_class(prevalence or {}, table.classes)
    on_step("joining the truth")
    analysis = analyse(
        table,
        labels,
        label_options=label_options,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
    )
    scores, chosen, truth = analysis.scores, analysis.chosen, analysis.true_classes()
    evaluation, subgroups = None, tuple[Subgroups, ...]()
    if analysis.truth is not None:
        on_step("evaluating")
        evaluation = evaluate_analysis(analysis, prevalence=prevalence)
        on_step("evaluating subgroups")
        subgroups = evaluate_subgroups(analysis)
    gate, foreign = evaluate_gate(analysis), strangest(analysis, most=_MOST_STRANGE)
    on_step("looking for copies")
    hashes = analysis.results.read(["dhash"])["dhash"].iloc[scores.rows]
    equal = equal_images([analysis.facts])
    copies = find_copies(
        equal,
        analysis.facts.pictures,
        as_bits(hashes),
        logits=scores.logits,
        rows=scores.rows,
        truth=truth,
        predicted=scores.predicted,
        classes=table.classes,
    )
    choices = choose(
        scores.predicted[chosen],
        analysis.probabilities,
        None if analysis.truth is None else truth[chosen],
        equal[chosen],
        classes=table.classes,
    )
    on_step("reading the pictures")
    return ReportValues(
        provenance=table.provenance,
        card=analysis.card,
        classes=table.classes,
        truth_source=None if analysis.truth is None else analysis.truth.source,
        truth_notes=() if analysis.truth is None else analysis.truth.notes,
        truth_warnings=() if analysis.truth is None else analysis.truth.warnings,
        flow=analysis.flow,
        evaluation=evaluation,
        subgroups=subgroups,
        gate=gate,
        strangest=tuple(foreign.tolist()),
        distribution=_distribution(table, analysis),
        copies=copies,
        choices=choices,
        shown=_shown(table, analysis, choices, foreign.tolist(), source),
        root=str(table.provenance.get("archive_root", "")) if source.show_paths else None,
        paths=_paths_of_copies(table, copies) if source.show_paths else {},
    )


def _distribution(table: Table, analysis: Analysis) -> Distribution:
    scores = analysis.scores
    counts = np.bincount(scores.predicted, minlength=len(table.classes))
    confidence = scores.probabilities.max(axis=1, initial=0.0)
    bins, edges = np.histogram(confidence, bins=_BINS, range=(0.0, 1.0))
    lists = analysis.results.read(["image_flags"])["image_flags"].iloc[scores.rows]
    flags = lists.explode().value_counts()
    return Distribution(
        predicted=dict(zip(table.classes, counts.tolist(), strict=True)),
        edges=tuple(edges.tolist()),
        confidence=tuple(bins.tolist()),
        flags=tuple((f.value, f.meaning, int(flags[f.value])) for f in Flag if f.value in flags),
    )


def _shown(
    table: Table,
    analysis: Analysis,
    choices: Choices,
    strange: Sequence[int],
    source: PictureSource,
) -> dict[int, GalleryImage]:
    """The images of the galleries by their position among the analysed images."""
    chosen = {p for kinds in choices.values() for own in kinds.values() for p in own}
    positions = sorted(chosen | set(strange))
    at = analysis.chosen[np.array(positions, np.int64)]
    scores, truth = analysis.scores, analysis.true_classes()[at].tolist()
    predicted = scores.predicted[at]
    images = gallery_images(
        table,
        scores.rows[at].tolist(),
        predicted.tolist(),
        scores.probabilities[at, predicted].astype(float).tolist(),
        [None if number == UNKNOWN else table.classes[number] for number in truth],
        source,
    )
    return dict(zip(positions, images, strict=True))


def _paths_of_copies(table: Table, copies: Copies) -> dict[int, str]:
    listed = (*copies.listed, *copies.near_listed)
    rows = sorted({row - 1 for group in listed for row in group.rows})
    paths = table.take(rows, ["path"])["path"].to_pylist()
    return {row + 1: path for row, path in zip(rows, paths, strict=True)}
