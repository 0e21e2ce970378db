"""The data contract: names and types of a results table's columns, and how rows are written.

A table has one row per file, or per frame of a multi-frame file. Keys of `patient_keys` stand for
the patient and the study of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.reading.outcomes import Flag
from cxrbatch.reading.readings import HeaderFacts

SCHEMA_VERSION = "2.3"
PROVENANCE_KEY = b"cxrbatch"

_INTEGERS = frozenset({"rows", "columns", "bits_stored"})
# A field without a repr never enters a table: of ids there are keyed hashes.
FACTS = tuple(f.name for f in fields(HeaderFacts) if f.repr)

Facts: TypeAlias = tuple[str | int | None, ...]
"""Header values that a table may hold, in the order of `FACTS`; None where the header lacks one."""

TRUTH_COLUMNS = ("truth", "split")
"""Further columns of a table that was made with labels: text, null where unknown."""
FOLD_COLUMN = "fold"
"""A further column of a table that several checkpoints scored: the number of a row's, from 1."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image by a model of c classes.

    Attributes:
        logits: Shape (c,), float32.
        probabilities: Shape (c,), float32.
        heatmaps: c * h * w bytes: one map of h rows and w columns per class, one after another.
        heatmap_scale: A cell of a heat map has the value byte * `heatmap_scale` / 255.
        ood_score: How unlike those of training the image is, in [0, 100]; None without a gate.
        ood_kind: What the gate takes a foreign image for; None where it does not say.
        is_foreign: Whether the image gets the flag `out_of_distribution`.
        is_withheld: Whether the table gets null for everything but what the gate says.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: bytes
    heatmap_scale: float
    ood_score: float | None = None
    ood_kind: str | None = None
    is_foreign: bool = False
    is_withheld: bool = False


class Row(NamedTuple):
    """The values of one row of a results table without its scores: one file, or one frame of it.

    A tuple, as millions of rows travel between processes.

    Attributes:
        path: Relative to the archive's root, see `cxrbatch.files`.
        frame: Number of the frame in the file, from 0.
        file_size: In bytes.
        file_modified_ns: Modification time of the file, nanoseconds since 1970: what an archive
            says of its copy, not a date of the patient's.
        format: "dicom", "png", "jpeg" or "other".
        outcome: An outcome code: "scored", or why the image has no score.
        detail: One line for a person; empty if there is nothing to add.
        image_hash: Hash of the model's input; None without an image.
        dhash: 64-bit difference hash as 16 hexadecimal digits; None without an image.
        image_flags: Codes of remarks on the image.
        patient_key: Keyed hash of the patient id; None where there is none.
        accession_key: Keyed hash of the accession number; None where there is none.
        facts: Header values, as `facts_of` returns them.
    """

    path: str
    frame: int
    file_size: int
    file_modified_ns: int
    format: str
    outcome: str
    detail: str
    image_hash: str | None
    dhash: str | None
    image_flags: tuple[str, ...]
    patient_key: str | None
    accession_key: str | None
    facts: Facts


def facts_of(header: HeaderFacts) -> Facts:
    """Return the header values that a table may hold, in the order of `FACTS`.

    The patient's id, its issuer and the accession number are left out.
    """
    return cast(Facts, _facts_of(header))


_facts_of = attrgetter(*FACTS)


def table_schema(classes: Sequence[str], *, heatmap_size: int, labelled: bool = False) -> pa.Schema:
    """Return the Arrow schema of a results table: the names and types of its columns, in order.

    Args:
        classes: Class names in the order of the logits; each has a column for its probability
            (`p_<class>`) and one for its logit (`logit_<class>`).
        heatmap_size: Height and width of one heat map in cells.
        labelled: Whether the columns `TRUTH_COLUMNS` are added at the end.

    Raises:
        ValueError: `heatmap_size` is not a positive whole number.
    """
    if type(heatmap_size) is not int or heatmap_size < 1:
        raise ValueError("a heat map has a whole number of cells")
    heatmaps = len(classes) * heatmap_size**2
    columns = [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("file_size", pa.int64()),
        ("file_modified_ns", pa.int64()),
        ("format", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("prediction", pa.string()),
        *((f"p_{name}", pa.float32()) for name in classes),
        *((f"logit_{name}", pa.float32()) for name in classes),
        ("heatmaps", pa.binary(heatmaps)),
        ("heatmap_scale", pa.float32()),
        ("image_hash", pa.string()),
        ("dhash", pa.string()),
        ("image_flags", pa.list_(pa.string())),
        ("ood_score", pa.float32()),
        ("ood_kind", pa.string()),
        ("patient_key", pa.string()),
        ("accession_key", pa.string()),
        *((name, pa.int32() if name in _INTEGERS else pa.string()) for name in FACTS),
        *((name, pa.string()) for name in (TRUTH_COLUMNS if labelled else ())),
    ]
    return pa.schema(columns)


def record_batch(
    scored: Sequence[tuple[Row, ImageScores | None]], *, classes: Sequence[str], schema: pa.Schema
) -> pa.RecordBatch:
    """Convert rows and their scores to an Arrow record batch.

    Args:
        scored: Pairs of a row and its scores; None instead of the scores if the row was not
            scored: its columns of scores are then null.
        classes: Class names in the order of the logits.
        schema: As `table_schema` returns it without the columns `TRUTH_COLUMNS`.

    Returns:
        The columns of `schema`, one row per entry of `scored`. `prediction` is the most probable
        class, the first of several equal ones.
    """
    rows = [row for row, _ in scored]
    gated = [scores for _, scores in scored]
    shown = [None if s is None or s.is_withheld else s for s in gated]
    columns: dict[str, list[Any]] = {
        **{name: [row[place] for row in rows] for place, name in enumerate(Row._fields)},
        **{name: [row.facts[place] for row in rows] for place, name in enumerate(FACTS)},
        **_score_columns(shown, classes),
        "ood_score": [s and s.ood_score for s in gated],
        "ood_kind": [s and s.ood_kind for s in gated],
        "image_flags": [
            (*row.image_flags, Flag.OUT_OF_DISTRIBUTION.value)
            if s and s.is_foreign
            else row.image_flags
            for row, s in scored
        ],
    }
    arrays = [column_of(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _score_columns(
    scores: Sequence[ImageScores | None], classes: Sequence[str]
) -> dict[str, list[Any]]:
    # Lists: one by one, Python's numbers are several times as fast as numpy's.
    nothing = [None] * len(classes)
    probabilities = [nothing if s is None else s.probabilities.tolist() for s in scores]
    logits = [nothing if s is None else s.logits.tolist() for s in scores]
    return {
        "prediction": [None if p is nothing else classes[p.index(max(p))] for p in probabilities],
        **{f"p_{name}": [p[i] for p in probabilities] for i, name in enumerate(classes)},
        **{f"logit_{name}": [values[i] for values in logits] for i, name in enumerate(classes)},
        "heatmaps": [s and s.heatmaps for s in scores],
        "heatmap_scale": [s and s.heatmap_scale for s in scores],
    }


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert the values of one column to an Arrow array of type `kind`; None becomes null.

    Args:
        values: Numbers, texts, bytes of the type's length, or lists of texts, as `kind` asks.
        kind: A number type, string, binary of a fixed length, or list of string.

    Raises:
        OverflowError: A whole number is out of the range of an integer type.
        UnicodeEncodeError: A text has no UTF-8.
        ValueError: Bytes are not of the type's length.
    """
    # Not by `pyarrow.array`, which imports pandas: 0.4 s, as long as scoring some dozen images.
    nulls = values.count(None)
    if nulls == len(values):
        return pa.nulls(nulls, kind)
    validity = _validity(values) if nulls else None
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        content = [_offsets(encoded), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_fixed_size_binary(kind):
        nothing = bytes(kind.byte_width)
        cells = [nothing if value is None else value for value in values]
        if any(len(cell) != kind.byte_width for cell in cells):
            raise ValueError(f"bytes are not {kind.byte_width} long")
        content = [pa.py_buffer(b"".join(cells))]
    elif pa.types.is_list(kind):
        lists = [value or () for value in values]
        inner = column_of(list(chain.from_iterable(lists)), kind.value_type)
        buffers = [validity, _offsets(lists)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    else:
        numbers = [0 if value is None else value for value in values]
        content = [pa.py_buffer(np.array(numbers, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), [validity, *content])


def _offsets(values: Sequence[Sequence[Any]]) -> pa.Buffer:
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=ends[1:])
    return pa.py_buffer(ends)


def _validity(values: Sequence[Any]) -> pa.Buffer:
    is_there = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(is_there, bitorder="little"))
