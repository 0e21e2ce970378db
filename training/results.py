"""Write the results table of a training: val and test scored as by `cxrbatch score`, and truth."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import torch

from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.paths import path_to_text
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.results.labels import LabelledFile
from cxrbatch.results.table import TRUTH_COLUMNS, record_batch, table_schema
from cxrbatch.scoring.archive import ArchiveFile, modified_ns
from cxrbatch.scoring.dataset import score_batches
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.patients import patient_secret
from cxrbatch.scoring.provenance import fingerprint, heatmap_size
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.scoring.shards import ScoredRow
from cxrbatch.scoring.table_writer import write_table
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem


def write_results(
    path: Path,
    files: Mapping[Path, LabelledFile],
    *,
    checkpoint: Path,
    workers: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Score labelled files with a checkpoint into a table with the columns truth and split.

    Args:
        path: The table.
        files: The label of each file, by its absolute path.
        checkpoint: The trained checkpoint.
        workers: Worker processes that read.
        device: Where to compute.
        precision: A resolved precision.

    Raises:
        TableError: The table does not read back.
        OSError: It cannot be written.
    """
    model = load_checkpoint(checkpoint)
    options = ScoringOptions(workers=workers)
    base = Path(os.path.commonpath([file.parent for file in files]))
    secret = patient_secret() or secrets.token_bytes(32)
    reading = ReadingOptions(no_voi=model.card.recipe.no_voi)
    reader = FileReader(os.fsencode(base), model.card.recipe, reading, secret)
    scorer = Predictor(model, batch_size=DEFAULT_BATCH_SIZE, device=device, precision=precision)
    classes = model.card.classes
    cells = heatmap_size(model)
    with ReadingPool(
        reader,
        workers=workers,
        limits=options.limits,
        result_bytes=model.card.recipe.size**2,
    ) as pool:
        entries = [PendingItem(i, _archived(file, base)) for i, file in enumerate(files)]
        rows = list(score_batches(pool.map(entries), scorer))
    names = [path_to_text(entry.item.path) for entry in entries]
    labels = dict(zip(names, files.values(), strict=True))
    table = _with_truth(
        rows, labels, classes=classes, schema=table_schema(classes, heatmap_size=cells)
    )
    made = fingerprint(
        checkpoint=model,
        precision=precision,
        device=describe_device(device),
        archive_root=base,
        patient_secret=secret,
        options={"labelled": True, "follow_links": True},
    )
    write_table(
        path,
        [table],
        within=path.parent,
        schema=table_schema(classes, heatmap_size=cells, labelled=True),
        files=len(files),
        provenance=lambda counts: {**made, "passed_over": {}, **counts.to_provenance()},
    )


def _with_truth(
    rows: Sequence[ScoredRow],
    labels: Mapping[str, LabelledFile],
    *,
    classes: Sequence[str],
    schema: pa.Schema,
) -> pa.Table:
    table = pa.Table.from_batches([record_batch(rows, classes=classes, schema=schema)])
    # Every frame of a file has the file's label.
    of_rows = [labels[row.path] for row, _ in rows]
    for column, values in zip(
        TRUTH_COLUMNS, zip(*((f.label, f.split) for f in of_rows), strict=True), strict=True
    ):
        table = table.append_column(pa.field(column, pa.string()), pa.array(values, pa.string()))
    return table


def _archived(file: Path, base: Path) -> ArchiveFile:
    path = os.fsencode(file.relative_to(base))
    try:
        state = os.stat(file)
    except OSError:
        return ArchiveFile(path, 0)  # gone since it was trained on: its row tells
    return ArchiveFile(path, state.st_size, modified_ns=modified_ns(state))
