"""A report of a table of a million rows: seconds, peak memory and the size of the page.

The rows are drawn at random: four classes, five images a patient, a few copies. The archive is not
there, so that the gallery has no pictures. A table of a hundredth of the rows is the comparison.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema

_CLASSES = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
_CELLS = 5
_ROW_GROUP = 65_536


def write_table(path: Path, rows: int, *, seed: int) -> None:
    """Write a labelled table, row group by row group."""
    rng = np.random.default_rng(seed)
    schema = table_schema(_CLASSES, heatmap_size=_CELLS, labelled=True)
    made = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(_CLASSES),
        "heatmap_size": _CELLS,
        "labelled": True,
        "archive_root": str(path.parent / "none"),
    }
    schema = schema.with_metadata({PROVENANCE_KEY: json.dumps(made).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, _ROW_GROUP):
            writer.write_table(_rows(rng, start, min(_ROW_GROUP, rows - start), schema))


def _rows(rng: np.random.Generator, start: int, n: int, schema: pa.Schema) -> pa.Table:
    truth = rng.integers(0, len(_CLASSES), n)
    logits = rng.normal(size=(n, len(_CLASSES))).astype(np.float32)
    logits[np.arange(n), truth] += 2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    numbers = np.arange(start, start + n)
    pictures = np.where(rng.random(n) < 0.01, numbers // 2, numbers)
    names = np.array(_CLASSES)
    columns: dict[str, object] = {
        "path": [f"{number // 1000:05d}/{number:09d}.dcm" for number in numbers],
        "frame": np.zeros(n, np.int32),
        "file_size": np.full(n, 1000),
        "format": rng.choice(["dicom", "png"], n),
        "outcome": ["scored"] * n,
        "prediction": names[p.argmax(axis=1)],
        "heatmaps": pa.array([bytes(schema.field("heatmaps").type.byte_width)] * n),
        "image_hash": [f"{picture:032x}" for picture in pictures],
        "dhash": [f"{picture * 0x9E3779B97F4A7C15 % 2**64:016x}" for picture in pictures.tolist()],
        "image_flags": [[]] * n,
        "patient_key": [f"{number // 5:032x}" for number in numbers],
        "patient_sex": rng.choice(["F", "M"], n),
        "patient_age_bin": rng.choice([f"{10 * d}-{10 * d + 9}" for d in range(9)], n),
        "view_position": rng.choice(["PA", "AP"], n),
        "manufacturer": rng.choice([f"maker {i}" for i in range(12)], n),
        "photometric": rng.choice(["MONOCHROME1", "MONOCHROME2"], n),
        "truth": names[truth],
        **{f"p_{name}": p[:, i] for i, name in enumerate(_CLASSES)},
        **{f"logit_{name}": logits[:, i] for i, name in enumerate(_CLASSES)},
    }
    arrays = [
        pa.nulls(n, field.type)
        if field.name not in columns
        else pa.array(columns[field.name]).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def report(table: Path) -> tuple[float, float, int]:
    """Make a report: seconds, peak memory of the process in bytes, bytes of the page."""
    page = table.with_suffix(".html")
    words = ["report", str(table), "-o", str(page), "--json", str(table.with_suffix(".json"))]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-P", "-m", "cxrbatch", *words], check=True)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return seconds, peak, page.stat().st_size


def main() -> None:
    """Report on a small and a large table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = []
        for rows in (max(1, options.rows // 100), options.rows):
            table = Path(name) / f"{rows}.parquet"
            write_table(table, rows, seed=options.seed)
            figures.append(report(table))
            seconds, peak, size = figures[-1]
            print(
                f"{rows:,} rows: {seconds:.1f} s, peak {peak / 1e9:.2f} GB, "
                f"page {size / 1e6:.2f} MB",
                flush=True,
            )
    print(f"{figures[1][0] / figures[0][0]:.1f} times the seconds for 100 times the rows")


if __name__ == "__main__":
    main()
