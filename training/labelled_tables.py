"""The results table of a training: labelled files, scored by the checkpoints that were trained."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cxrbatch.files import path_to_text
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.columns import FOLD_COLUMN, TRUTH_COLUMNS, record_batch, table_schema
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.patient_keys import patient_secret
from cxrbatch.results.table import schema_of
from cxrbatch.scoring.archive import ArchiveFile, modified_ns
from cxrbatch.scoring.dataset import score_batches
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.plan import heatmap_size, make_fingerprint
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.scoring.table_writer import ScoredRow, write_table
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem

_Files = Sequence[tuple[LabelledFile, ArchiveFile]]

_OUT_OF_FOLD = (
    "Each row of the table is scored by the one of {count} checkpoints that learned nothing from "
    "its image; temperature and thresholds are in their own cards."
)


@dataclass(frozen=True, slots=True)
class FoldNumbers:
    """Which of several checkpoints scores each file of a table.

    Attributes:
        name: Name of all checkpoints together, for the card in the table.
        numbers: For each file, in their order, the number of its checkpoint, from 1.
    """

    name: str
    numbers: Sequence[int]


def write_results(
    path: Path,
    files: _Files,
    *,
    root: Path,
    checkpoints: Sequence[Path],
    folds: FoldNumbers | None = None,
    workers: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Score labelled files with checkpoints, and write the scores to a results table.

    The table is that of `cxrbatch score` with two more columns, truth and split: the label and the
    subset of the row's file. With `folds` it also has a column fold: the number of the checkpoint
    that scored the row. Every frame of a file has a row; a file without an image has one that
    says why. The paths of the rows are those of the labels; absolute ones below `root` become
    relative to it.

    Args:
        path: The table to write; an existing one is replaced.
        files: The label, with its split, of each file, and the file, with an absolute path; at
            least one for each checkpoint.
        root: The folder that the paths of labels are relative to, absolute; the table's archive.
        checkpoints: Files of the trained checkpoints: one, or with `folds` one for each number.
        folds: Which checkpoint scores each file; None if there is only one.
        workers: Worker processes that read.
        device: The device that computes.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        CheckpointError: A checkpoint cannot be used.
        TableError: The table does not read back.
        OSError: The table cannot be written.
        CxrbatchError: A score is not finite, a batch does not fit into memory, or no process can be
            started.
    """
    scorer = _Scorer(root, workers, device, precision, patient_secret() or secrets.token_bytes(32))
    numbers = [1] * len(files) if folds is None else folds.numbers
    models, tables = [], []
    for number, checkpoint in enumerate(checkpoints, 1):
        model = load_checkpoint(checkpoint)
        own = [pair for pair, fold in zip(files, numbers, strict=True) if fold == number]
        tables.append(scorer.table(model, own, fold=None if folds is None else number))
        models.append(replace(model, tensors={}))  # of twenty networks one alone is in memory
    made = scorer.provenance(_together(models, folds))
    if folds is not None:
        made["checkpoints"] = [model.sha256 for model in models]
    write_table(
        path,
        [_in_order(pa.concat_tables(tables), files, root)],
        within=path.parent,
        schema=schema_of(made),
        files=len(files),
        provenance=lambda counts: {**made, "passed_over": {}, **counts.to_provenance()},
    )


def _together(models: Sequence[Checkpoint], folds: FoldNumbers | None) -> Checkpoint:
    """Return what a table names as its checkpoint: the only one, or a stand-in for several."""
    if folds is None:
        return models[0]
    joined = sha256("".join(model.sha256 for model in models).encode()).hexdigest()
    card = models[0].card
    common = Card(
        folds.name,
        card.architecture,
        card.classes,
        card.recipe,
        card.normalisation,
        limits=(*card.limits, _OUT_OF_FOLD.format(count=len(models))),
    )
    return replace(models[0], card=common, sha256=joined)


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Reads and scores labelled files; see `write_results`."""

    root: Path
    workers: int
    device: torch.device
    precision: Precision
    secret: bytes

    def table(self, model: Checkpoint, files: _Files, *, fold: int | None) -> pa.Table:
        rows = self._rows(model, files)
        labels = {path_to_text(file.path, file.member): label for label, file in files}
        table = _with_truth(rows, labels, root=self.root, model=model)
        if fold is None:
            return table
        numbers = pa.array(np.full(len(table), fold, np.int32))
        return table.append_column(pa.field(FOLD_COLUMN, pa.int32()), numbers)

    def _rows(self, model: Checkpoint, files: _Files) -> list[ScoredRow]:
        options, recipe = ScoringOptions(workers=self.workers), model.card.recipe
        reader = FileReader(b"", recipe, options.reading(recipe), self.secret)
        scorer = Predictor(
            model, batch_size=DEFAULT_BATCH_SIZE, device=self.device, precision=self.precision
        )
        with ReadingPool(
            reader, workers=self.workers, limits=options.limits, result_bytes=recipe.size**2
        ) as pool:
            entries = [PendingItem(i, _as_now(file)) for i, (_, file) in enumerate(files)]
            return list(score_batches(pool.map(entries), scorer))

    def provenance(self, model: Checkpoint) -> dict[str, Any]:
        return make_fingerprint(
            checkpoint=model,
            precision=self.precision,
            device=describe_device(self.device),
            archive_root=self.root,
            patient_secret=self.secret,
            options={"labelled": True, "follow_links": True},
        )


def _with_truth(
    rows: Sequence[ScoredRow],
    labels: Mapping[str, LabelledFile],
    *,
    root: Path,
    model: Checkpoint,
) -> pa.Table:
    """Make the table; `labels` has the label of each file by its absolute path, as in `rows`."""
    classes = model.card.classes
    schema = table_schema(classes, heatmap_size=heatmap_size(model))
    # Every frame of a file has the file's label.
    of_rows = [labels[row.path] for row, _ in rows]
    renamed = [
        (row._replace(path=_inside(label.path, root)), scores)
        for label, (row, scores) in zip(of_rows, rows, strict=True)
    ]
    table = pa.Table.from_batches([record_batch(renamed, classes=classes, schema=schema)])
    for column, values in zip(
        TRUTH_COLUMNS, zip(*((f.label, f.split) for f in of_rows), strict=True), strict=True
    ):
        table = table.append_column(pa.field(column, pa.string()), pa.array(values, pa.string()))
    return table


def _in_order(table: pa.Table, files: _Files, root: Path) -> pa.Table:
    """Sort rows as the files are; those of one file keep their order."""
    places = {_inside(label.path, root): place for place, (label, _) in enumerate(files)}
    order = np.argsort([places[path] for path in table["path"].to_pylist()], kind="stable")
    return table.take(pa.array(order))


def _inside(path: str, root: Path) -> str:
    return path.removeprefix(f"{path_to_text(os.fsencode(root)).rstrip('/')}/")


def _as_now(file: ArchiveFile) -> ArchiveFile:
    """Take size and time of a file anew; a member keeps those of its listing."""
    try:
        state = os.stat(file.path)
    except OSError:
        return file  # gone since it was trained on: its row tells
    if file.member is not None:
        return file
    return replace(file, size=state.st_size, modified_ns=modified_ns(state))
