"""The table of an audit: one row for each film under each treatment."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.files import written_whole

AUDIT_KEY = b"cxrbatch_audit"
"""Name of the JSON object among the metadata of the table's file."""

AUDIT_SCHEMA = "1.0"
PLAUSIBLE, DOUBTED, NO_MASK = "plausible", "doubtful", "none"


class AuditedFilms(NamedTuple):
    """What all treatments of the n films of an audit have in common.

    Attributes:
        rows: Shape (n,), rows in the results table, from 0.
        paths: Path of each film in the archive.
        frames: Shape (n,), number of the frame in the file.
        truth: Name of each true class.
        patients: Shape (n,), numbers, from 0: no ids.
        sources: The collection that each film is from; None where unknown.
        masks: `PLAUSIBLE`, `DOUBTED` or `NO_MASK`, for each film.
        lung_area: Shape (n,), share of the film that is lung; NaN without a mask.
        heat_outside: Shape (n,), share of the predicted class's heat map outside the lungs; NaN
            where unknown.
    """

    rows: npt.NDArray[np.int64]
    paths: Sequence[str]
    frames: npt.NDArray[np.int64]
    truth: Sequence[str]
    patients: npt.NDArray[np.int32]
    sources: Sequence[str | None]
    masks: Sequence[str]
    lung_area: npt.NDArray[np.float64]
    heat_outside: npt.NDArray[np.float64]


def write_audit_table(
    path: Path,
    films: AuditedFilms,
    scores: Mapping[str, npt.NDArray[np.float32]],
    *,
    classes: Sequence[str],
    made: Mapping[str, Any],
) -> None:
    """Write the table of an audit, whole or not at all; an existing file is replaced.

    Args:
        path: The Parquet file.
        films: The films.
        scores: Treatment -> probabilities, shape (n, classes); NaN in the rows that have none,
            which get no row.
        classes: Names of the classes.
        made: How the audit was made, JSON values, for the file's metadata.

    Raises:
        OSError: The file cannot be written.
    """
    parts = [*_parts(films, scores, classes)]
    text = json.dumps({"schema_version": AUDIT_SCHEMA, **made}, sort_keys=True, allow_nan=False)
    table = pa.concat_tables(parts).replace_schema_metadata({AUDIT_KEY: text.encode()})
    with written_whole(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=1 << 16)


def _parts(
    films: AuditedFilms, scores: Mapping[str, npt.NDArray[np.float32]], classes: Sequence[str]
) -> Iterator[pa.Table]:
    shared = {
        "row": pa.array(films.rows + 1),
        "path": pa.array(films.paths, pa.string()),
        "frame": pa.array(films.frames),
        "truth": pa.array(films.truth, pa.string()),
        "patient": pa.array(films.patients),
        "source": pa.array(films.sources, pa.string()),
        "mask": pa.array(films.masks, pa.string()),
        "lung_area": pa.array(films.lung_area, pa.float64(), from_pandas=True),
        "heat_outside": pa.array(films.heat_outside, pa.float64(), from_pandas=True),
    }
    for name, probabilities in scores.items():
        rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
        kept = probabilities[rows]
        predicted = [classes[number] for number in kept.argmax(axis=1)] if len(kept) else []
        chosen = {title: column.take(pa.array(rows)) for title, column in shared.items()}
        yield pa.table(
            {
                **chosen,
                "treatment": pa.array([name] * len(rows), pa.string()),
                "prediction": pa.array(predicted, pa.string()),
                **{f"p_{each}": pa.array(kept[:, i]) for i, each in enumerate(classes)},
            }
        )
