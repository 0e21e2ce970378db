"""Cross-validation: a network for each fold of the images, tested on that fold."""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrbatch.errors import UsageError
from cxrbatch.files import writing, written_whole
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint, file_sha256, read_card
from cxrbatch.results.evaluation import evaluate
from cxrbatch.results.frames import load_results
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training import states
from cxrbatch.training.config import write_config
from cxrbatch.training.dataset import TrainingData, divide_inputs
from cxrbatch.training.doubts import find_doubts, write_doubted_pictures, write_doubts
from cxrbatch.training.duplicates import near_duplicates
from cxrbatch.training.fitting import card_figures, check_texts
from cxrbatch.training.fold_split import Folds, check_folds, divide_folds
from cxrbatch.training.labelled_images import CollectedImages
from cxrbatch.training.labelled_tables import FoldNumbers, write_results
from cxrbatch.training.model_evaluation import CardFigures
from cxrbatch.training.outputs import FoldsResult, TrainingResult
from cxrbatch.training.pipeline import Start, TrainingRun
from cxrbatch.training.run_files import RunFiles
from cxrbatch.training.split import join_patients


def cross_validate(run: TrainingRun) -> TrainingResult:
    """Train a network for each fold, and score every image with the one that did not see its group.

    Each fold is a training of `run` of its own: its side test is the fold, and the other images are
    divided into train and val. With `run.check_only` only the labels are checked.

    Args:
        run: The training; `run.files.folds` is the number of folds, 2 to 20.

    Returns:
        The paths of the files written, the card of the first fold, the files without an image and,
        as `folds`, the figures.

    Raises:
        UsageError, LabelError, CheckpointError, CxrbatchError: In the cases that
            `TrainingRun.execute` lists; LabelError also if a class has fewer patients than there
            are folds, and UsageError if the checkpoint of a finished fold was changed.
    """
    count = len(run.files.parts)
    check_texts(_name(run, count), run.limits)
    if run.drop_leaks:
        raise UsageError("--drop-leaks is for a split that is given, and --folds makes its own")
    if run.check_only:
        run.collector.show(partial(check_folds, count=count))
        return run.result(None, ())
    with run.opened() as (opened, start):
        with start.group.first_alone():
            validation = _CrossValidation.prepared(opened, start, count)
        return validation.execute()


def _name(run: TrainingRun, number: int) -> str:
    return f"{run.name}, fold {number} of {run.files.folds}"


@dataclass(frozen=True, slots=True)
class _CrossValidation:
    """A cross-validation whose images are read and divided."""

    run: TrainingRun
    start: Start
    images: CollectedImages
    folds: Folds
    data: tuple[TrainingData, ...]
    fingerprint: states.Fingerprint
    finished: list[str] = field(default_factory=list)
    """SHA-256 of the checkpoint of each fold that is done."""

    @classmethod
    def prepared(cls, run: TrainingRun, start: Start, count: int) -> "_CrossValidation":
        images = _read(run, start, count)
        files, inputs = images.labels.files, images.inputs
        pairs = near_duplicates(inputs.values, readable=inputs.readable)
        joined = join_patients(files, inputs.patients)
        folds = divide_folds(joined, pairs, count=count, seed=run.options.seed)
        run.console.say(*folds.lines)
        run.tell_head(start.initial, images.classes)
        data = tuple(divide_inputs(inputs, s, classes=images.classes) for s in folds.splits)
        fingerprint = _fingerprint(run, start, data)
        validation = cls(run, start, images, folds, data, fingerprint)
        state = states.read_state(run.files.folder, fingerprint=fingerprint)
        if state is not None:
            validation.finished.extend(state["checkpoints"])
            validation._check_finished()
        elif start.group.leads:
            validation._keep_state()
        return validation

    def execute(self) -> TrainingResult:
        """Train the folds that are left, then score all images."""
        for number in range(len(self.finished) + 1, len(self.data) + 1):
            self._train(number)
        unreadable = self.data[0].unreadable
        if not self.start.group.leads:
            return self.run.result(None, unreadable)
        cards = [read_card(part.output) for part in self.run.files.parts]
        result = replace(self.run.result(cards[0], unreadable), folds=self._finish(cards))
        self.run.clear()
        return result

    def _train(self, number: int) -> None:
        """Train one fold; the first process writes its checkpoint."""
        files = self.run.files.of_fold(number)
        run = replace(self.run, files=files, name=_name(self.run, number))
        run.console.fold(number, len(self.data))
        data, leads = self.data[number - 1], self.start.group.leads
        with states.locked_folder(files.folder) if leads else nullcontext():
            labels = self.images.labels
            further = self.run.collector.read_further(data, labels, leads=leads)
            checkpoint = run.fit_network(data, self.start, further=further, started=self._begin)
            if checkpoint is not None:
                self._write_fold(run, checkpoint, number)

    def _begin(self) -> None:
        """Write options, folds and augmented examples, before the first step of training."""
        write_config(self.run.files.config, self.run.as_config())
        self.folds.write(self.run.files.beside("split.csv"))
        self.run.write_examples(self.data[0])

    def _write_fold(self, run: TrainingRun, checkpoint: Checkpoint, number: int) -> None:
        training = {**checkpoint.card.training, "fold": {"number": number, "of": len(self.data)}}
        card = replace(checkpoint.card, training=training)
        partial_file = run.write_partial(replace(checkpoint, card=card))
        with writing(run.files.output):
            partial_file.replace(run.files.output)
        # From here on the fold is done; until then its own states continue it.
        self.finished.append(file_sha256(run.files.output))
        self._keep_state()
        states.clear_states(run.files.folder)
        run.console.fold_result(training)

    def _keep_state(self) -> None:
        state = {"checkpoints": self.finished}
        folder, epoch = self.run.files.folder, len(self.finished)
        states.write_state(folder, state, epoch=epoch, fingerprint=self.fingerprint)

    def _check_finished(self) -> None:
        for part, known in zip(self.run.files.parts, self.finished, strict=False):
            if not part.output.exists() or file_sha256(part.output) != known:
                raise UsageError(
                    f"{part.output} was changed or removed after its fold was trained; put it "
                    "back, or give --overwrite to start anew"
                )

    def _finish(self, cards: Sequence[Card]) -> FoldsResult:
        """Score all images, evaluate the scores and rank the labels; write the files of these."""
        run, beside = self.run, self.run.files.beside
        parts, table = run.files.parts, beside("results.parquet")
        run.files.clear_folds()  # of a fold that was done when the process was killed
        labelled = [replace(file, split="test") for file in self.folds.files]
        with writing(table):
            write_results(
                table,
                list(zip(labelled, self.images.labels.located, strict=True)),
                root=self.images.labels.root,
                checkpoints=[part.output for part in parts],
                folds=FoldNumbers(f"{run.name}, {len(parts)} folds", self.folds.numbers),
                workers=run.workers,
                device=run.device,
                precision=run.options.precision,
            )
        figures = {
            "folds": len(parts),
            "unreadable": len(self.data[0].unreadable),
            "out_of_fold": self._evaluated(table),
            "spread": spread(self._evaluated_by_fold(table)),
            "by_fold": [_of_fold(*pair) for pair in zip(parts, cards, strict=True)],
            "likely_wrong_labels": self._write_doubts(table),
        }
        summary = beside("folds.json")
        with writing(summary), written_whole(summary) as file:
            file.write(f"{json.dumps(figures, indent=2, ensure_ascii=False)}\n".encode())
        run.console.folds_result(figures, table=table, doubts=beside("doubts.csv"))
        checkpoints = tuple(part.output for part in parts)
        return FoldsResult(checkpoints, figures, summary, beside("doubts.csv"))

    def _evaluated_by_fold(self, table: Path) -> list[CardFigures]:
        rows = load_results(table)
        return [self._evaluated(rows[rows["fold"] == k]) for k in range(1, len(self.data) + 1)]

    def _evaluated(self, table: Path | pd.DataFrame) -> CardFigures:
        """Figures of all rows, copies and flagged images too, with intervals over groups."""
        groups = map(str, self.folds.groups)
        rows = [(f.path, f.label, g) for f, g in zip(self.folds.files, groups, strict=True)]
        labels = pd.DataFrame(rows, columns=["path", "label", "patient"])
        return card_figures(evaluate(table, labels, keep_copies=True, keep_flagged=True))

    def _write_doubts(self, table: Path) -> int:
        """Rank the labels of all images that have scores; return how many are likely wrong."""
        results, classes = load_results(table), self.images.classes
        # The first frame of each file, in the order of the files.
        first = results[results["frame"] == 0]
        rows = np.flatnonzero(first["prediction"].notna())
        labels = np.array([classes.index(self.folds.files[i].label) for i in rows], np.int64)
        probabilities = first[[f"p_{name}" for name in classes]].to_numpy(np.float32)[rows]
        doubts = find_doubts(labels, probabilities)
        shown = {"labels": labels, "probabilities": probabilities, "classes": classes}
        paths = [self.folds.files[i].path for i in rows]
        beside = self.run.files.beside
        write_doubts(beside("doubts.csv"), doubts, paths=paths, **shown)
        images = self.images.inputs.values
        write_doubted_pictures(beside("doubts.png"), doubts, images=images, rows=rows, **shown)
        return int(doubts.likely_wrong.sum())


def _read(run: TrainingRun, start: Start, count: int) -> CollectedImages:
    def check(files: Sequence[LabelledFile]) -> None:
        if any(file.split is not None for file in files):
            run.console.say("the labels have a split, which is ignored: --folds makes its own")
        check_folds(files, count=count)

    return run.collector.read(check, start.teachers, leads=start.group.leads)


def _fingerprint(
    run: TrainingRun, start: Start, data: Sequence[TrainingData]
) -> states.Fingerprint:
    digest = hashlib.sha256()
    for fold in data:
        digest.update(f"{fold.split.sha256}{fold.subsets['test'].sha256()}".encode())
    return {
        **run.fingerprint(start.teachers),
        "classes": list(data[0].classes),
        "initial weights": start.initial.sha256 if start.initial else "random",
        "images, labels or folds": digest.hexdigest(),
    }


def spread(figures: Sequence[CardFigures]) -> dict[str, Any]:
    """Return how the figures of the folds differ.

    Args:
        figures: The figures of each fold's test side.

    Returns:
        "balanced_accuracy", "macro_auc" and, by class, "auc" and "recall"; each a dict of "mean",
        "sd" (sample standard deviation), "min", "max" and "folds", the number of folds where it is
        defined. Without one all but "folds" are None; "sd" also with only one.
    """
    classes = figures[0]["auc"]
    return {
        **{
            name: _spread([f[name] for f in figures]) for name in ("balanced_accuracy", "macro_auc")
        },
        **{
            name: {label: _spread([f[name][label] for f in figures]) for label in classes}
            for name in ("recall", "auc")
        },
    }


def _spread(figures: Sequence[Mapping[str, Any] | None]) -> dict[str, float | None]:
    values = [figure["value"] for figure in figures if figure is not None]
    known = {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
    }
    return {**known, "folds": len(values)}


def _of_fold(files: RunFiles, card: Card) -> dict[str, Any]:
    training = card.training
    return {
        "fold": training["fold"]["number"],
        "checkpoint": files.output.name,
        "sha256": file_sha256(files.output),
        "chosen_epoch": training["chosen_epoch"],
        "images": training["images"],
        "test": training["test"],
    }
