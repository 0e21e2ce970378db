"""A table of two rows, what it is made of, and the error of one that is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import TableError
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import (
    PROVENANCE_KEY,
    SCHEMA_VERSION,
    ImageScores,
    Row,
    facts_of,
    record_batch,
    table_schema,
)
from cxrbatch.results.table import open_table

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia")
SIZE = 2
PROVENANCE: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "classes": list(CLASSES),
    "heatmap_size": SIZE,
    "recipe": "abc",
}

# The table of design.md, in its order.
DOCUMENTED = [
    *("path", "frame", "file_size", "file_modified_ns", "format"),
    *("outcome", "detail"),
    "prediction",
    *("p_Normal", "p_COVID-19", "p_Viral Pneumonia"),
    *("logit_Normal", "logit_COVID-19", "logit_Viral Pneumonia"),
    *("heatmaps", "heatmap_scale"),
    *("image_hash", "dhash"),
    *("image_flags", "ood_score", "ood_kind"),
    *("sop_instance_uid", "series_instance_uid", "study_instance_uid"),
    *("patient_key", "accession_key"),
    *("modality", "body_part", "view_position", "laterality", "patient_sex", "patient_age_bin"),
    *("manufacturer", "model_name", "photometric", "transfer_syntax", "presentation_intent"),
    *("rows", "columns", "bits_stored", "voi_source"),
]


def scored_row() -> tuple[Row, ImageScores]:
    facts = HeaderFacts(
        modality="DX",
        rows=2500,
        columns=2048,
        bits_stored=12,
        patient_id="SECRET",
        accession_number="SECRET-2",
        voi_source="lut",
    )
    row = Row(
        path="a/b\\xff.dcm",
        frame=3,
        file_size=2**40,
        file_modified_ns=2**60,
        format="dicom",
        outcome="scored",
        detail="",
        image_hash="0f" * 16,
        dhash="f" * 16,
        image_flags=("lateral", "lossy"),
        patient_key="k1",
        accession_key="k2",
        facts=facts_of(facts),
    )
    scores = ImageScores(
        logits=np.array([-1.5, 3.25, 0.1], np.float32),
        probabilities=np.array([0.1, 0.7, 0.2], np.float32),
        heatmaps=bytes(range(12)),
        heatmap_scale=0.5,
    )
    return row, scores


def unscored_row() -> Row:
    return Row(
        path="notes.txt",
        frame=0,
        file_size=0,
        file_modified_ns=0,
        format="other",
        outcome="not_an_image",
        detail="the file is empty",
        image_hash=None,
        dhash=None,
        image_flags=(),
        patient_key=None,
        accession_key=None,
        facts=facts_of(HeaderFacts()),
    )


def write(path: Path, *, provenance: object = PROVENANCE, schema: pa.Schema | None = None) -> Path:
    """Write a table of two rows; `provenance` as JSON, or as it is where it is bytes."""
    full = table_schema(CLASSES, heatmap_size=SIZE)
    batch = record_batch([scored_row(), (unscored_row(), None)], classes=CLASSES, schema=full)
    table = pa.Table.from_batches([batch], full).select((schema or full).names)
    text = provenance if isinstance(provenance, bytes) else json.dumps(provenance).encode()
    pq.write_table(table.replace_schema_metadata({PROVENANCE_KEY: text}), path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(TableError) as caught:
        open_table(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return str(caught.value)
