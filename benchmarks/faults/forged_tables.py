"""Forged tables: each says of itself what a real table says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from raw_parquet import (
    DICTIONARY,
    I64,
    RawColumn,
    RawPage,
    differences,
    levels,
    lying,
    nulls,
    plain_texts,
    raw_file,
    repeated,
    texts,
    varint,
)

from cxrbatch.results.columns import PROVENANCE_KEY

_MB = 1 << 20

Forged = Iterator[tuple[str, Callable[[Path], object]]]
"""What is forged, and what writes it."""


def _shared(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


class Forger:
    """Writes tables that say of themselves what a real table says."""

    def __init__(self, real: Path) -> None:
        """Learn from a real table what it says of itself."""
        table = pq.read_table(real)
        self.schema = table.schema
        metadata = pq.read_metadata(real).metadata
        # Of other files than the archive has, so that who goes on with the table reads its rows.
        made = {"manifest_sha256": "0" * 64}
        self.made: dict[str, Any] = json.loads(metadata[PROVENANCE_KEY]) | made
        self.classes = self.made["classes"]

    def columns(self, rows: int) -> dict[str, pa.Array]:
        """Rows that are scored and agree with each other."""
        numbers = np.arange(rows)
        p = {f"p_{name}": np.full(rows, float(i == 0)) for i, name in enumerate(self.classes)}
        given: dict[str, Any] = {
            # Before all names of the archive, so that who goes on with the table reads every row.
            "path": [f"!{number:09d}.png" for number in numbers],
            "frame": np.zeros(rows, np.int32),
            "file_size": np.full(rows, 1000),
            "file_modified_ns": np.full(rows, 10**18),
            "outcome": _shared("scored", rows),
            "format": _shared("png", rows),
            "prediction": _shared(self.classes[0], rows),
            "image_hash": _shared("0" * 32, rows),
            "dhash": _shared("0" * 16, rows),
            "heatmap_scale": np.ones(rows, np.float32),
            **p,
            **{name.replace("p_", "logit_", 1): value for name, value in p.items()},
        }
        return {
            field.name: self._column(given[field.name], field.type)
            if field.name in given
            else pa.nulls(rows, field.type)
            for field in self.schema
        }

    def _column(self, values: object, kind: pa.DataType) -> pa.Array:
        is_shared = isinstance(values, pa.DictionaryArray)
        return values if is_shared else pa.array(values).cast(kind)

    def write(
        self,
        path: Path,
        rows: int = 24_000,
        *,
        changed: dict[str, Any] | None = None,
        groups: int = 1,
        told: dict[str, Any] | None = None,
        text: bytes | None = None,
        **options: object,
    ) -> None:
        """Write a table with some columns of another making."""
        made = (
            text or json.dumps({**self.made, **self._sums(rows * groups), **(told or {})}).encode()
        )
        table = pa.table(self.columns(rows) | (changed or {}))
        written = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30} | options
        with pq.ParquetWriter(path, table.schema, store_schema=False, **written) as writer:
            for _ in range(groups):
                writer.write_table(table, row_group_size=1 << 30)
            writer.add_key_value_metadata({PROVENANCE_KEY.decode(): made.decode()})

    def _sums(self, rows: int) -> dict[str, Any]:
        return {"files": rows, "rows": rows, "outcomes": {"scored": rows}}

    def raw(
        self,
        path: Path,
        special: dict[str, list[RawPage]],
        rows: int,
        *,
        claims: dict[int, object] | None = None,
        groups: int = 1,
    ) -> None:
        """Write a table byte by byte; columns that are not special are null."""
        columns = []
        for field in self.schema:
            element, inside = _ELEMENTS.get(str(field.type), {1: 6, 3: 1, 6: 0}), []
            pages = special.get(field.name, nulls(rows))
            if pa.types.is_fixed_size_binary(field.type):
                element = {1: 7, 2: field.type.byte_width, 3: 1}
            elif pa.types.is_list(field.type):
                element = {3: 1, 5: 1, 6: 3}
                inside = [{3: 2, 4: b"list", 5: 1}, {1: 6, 3: 1, 4: b"element", 6: 0}]
                pages = special.get(field.name, nulls(rows, of_lists=True))
            columns.append(RawColumn(field.name, pages, element, inside))
        made = json.dumps(self.made | self._sums(rows)).encode()
        path.write_bytes(
            raw_file(columns, rows, metadata={PROVENANCE_KEY: made}, claims=claims, groups=groups)
        )


_ELEMENTS: dict[str, dict[int, object]] = {
    "int32": {1: 1, 3: 1},
    "int64": {1: 2, 3: 1},
    "float": {1: 4, 3: 1},
}


_TEXTS = (
    *("path", "outcome", "prediction", "detail", "image_hash", "patient_key", "manufacturer"),
    *("patient_sex", "view_position", "sop_instance_uid", "format"),
)


def forged_tables(forger: Forger) -> Forged:
    """Every table that is forged."""
    big = "x" * _MB
    write, raw = forger.write, forger.raw
    for name in _TEXTS:
        yield (
            f"1 MB in every row of {name}",
            lambda p, n=name: write(p, changed={n: _shared(big, 24_000)}),
        )
    yield (
        "1 MB in every row of all texts",
        lambda p: write(p, changed={name: _shared(big, 24_000) for name in _TEXTS}),
    )
    yield (
        "60 kB in every row of path, a million rows",
        lambda p: write(p, 1_000_000, changed={"path": _shared(big[:60_000], 1_000_000)}),
    )
    flags = pa.ListArray.from_arrays(
        pa.array(np.arange(24_001, dtype=np.int32)), _shared("x" * _MB, 24_000)
    )
    yield "1 MB in every flag", lambda p: write(p, changed={"image_flags": flags})
    many = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 10_000 * 1001, 10_000, dtype=np.int32)),
        _shared("lateral", 10_000_000),
    )
    yield "10,000 flags a row", lambda p: write(p, 1000, changed={"image_flags": many})
    yield "5 GB of plain texts", lambda p: raw(p, {"path": plain_texts(5000)}, 5000)
    yield "20 million null rows", lambda p: raw(p, {}, 20_000_000)
    yield "2 billion null rows", lambda p: raw(p, {}, 2_000_000_000)
    yield "1.5 million equal rows", lambda p: write(p, 1_500_000, changed=_equal_paths(1_500_000))
    yield "100,000 equal rows", lambda p: write(p, 100_000, changed=_equal_paths(100_000))
    yield (
        "further frames alone",
        lambda p: write(p, 100_000, changed={"frame": pa.array(np.ones(100_000, np.int32))}),
    )
    yield (
        "a page of 2 GB that is there",
        lambda p: raw(
            p, {"path": [RawPage(levels(1) + texts([bytes(2_000_000_000)]), 1, codec="zstd")]}, 1
        ),
    )
    yield (
        "1.5 GB in a page of prediction",
        lambda p: raw(
            p,
            {"prediction": [RawPage(levels(1) + texts([bytes(1_500_000_000)]), 1, codec="zstd")]},
            1,
        ),
    )
    for what, claims in {
        "a page that claims 2 GB": {2: (1 << 31) - 1},
        "a page that claims less than it is": {2: 1},
        "a page that claims a negative size": {2: -5},
        "a page that claims 2 billion values": {5: {1: (1 << 31) - 1, 2: 0, 3: 3, 4: 3}},
        "a page of negative values": {5: {1: -7, 2: 0, 3: 3, 4: 3}},
        "a page header of 10 MB": {5: {1: 10, 2: 0, 3: 3, 4: 3, 5: {1: bytes(10_000_000)}}},
        "a page stored beyond the end": {3: 1 << 30},
    }.items():
        yield what, lambda p, c=claims: raw(p, {"path": lying(c)}, 10)
    dictionary = RawPage(
        texts([b"a"]), 1, kind=DICTIONARY, claims={7: {1: (1 << 31) - 1, 2: 0}}, codec="zstd"
    )
    named = repeated(b"a", 10)[1]
    yield (
        "a dictionary that claims 2 billion texts",
        lambda p: raw(p, {"path": [dictionary, named]}, 10),
    )
    empties = RawPage(bytes(4 * 60_000_000), 60_000_000, kind=DICTIONARY, codec="zstd")
    yield "a dictionary of 60 million empty texts", lambda p: raw(p, {"path": [empties, named]}, 10)
    yield (
        "two texts of 200 MB by their difference",
        lambda p: raw(p, {"path": [differences(200_000_000)]}, 2),
    )
    yield (
        "pages by difference, 5 MB a page",
        lambda p: raw(p, {"path": [differences(5_000_000)] * 500}, 1000),
    )
    yield "a footer of 40 MB", lambda p: write(p, 10, told={"x": "y" * 40_000_000})
    yield "a description of 20 MB", lambda p: write(p, 10, told={"x": [{}] * 5_000_000})
    yield "a description nested deep", lambda p: write(p, 10, text=b"[" * 3_000_000)
    yield "a million classes", lambda p: write(p, 10, told={"classes": ["a"] * 1_000_000})
    yield (
        "heat maps of a million cells",
        lambda p: write(
            p,
            1000,
            changed={"heatmaps": pa.nulls(1000, pa.binary(3_000_000))},
            told={"heatmap_size": 1000},
        ),
    )
    yield (
        "200 row groups of the same bytes",
        lambda p: raw(p, {"path": repeated(b"x" * _MB, 500)}, 500, groups=200),
    )
    yield (
        "a million columns without a name",
        lambda p: raw(p, {}, 10, claims={4: [{1: [{}] * 999_999, 2: I64(0), 3: I64(0)}] * 8}),
    )
    yield "a footer nested deep", lambda p: raw(p, {}, 10, claims={9: _nested(300)})
    all_of_them = 40_000_000
    one_row = varint(2) + b"\0" + varint((all_of_them - 1) << 1) + b"\1"
    listed = RawPage(
        len(one_row).to_bytes(4, "little") + one_row + levels(all_of_them, 2),
        all_of_them,
        codec="zstd",
    )
    yield "40 million flags in a row", lambda p: raw(p, {"image_flags": [listed]}, 1)
    yield (
        "a million schema elements",
        lambda p: raw(
            p, {}, 10, claims={2: [{4: b"s", 5: 900_000}, *([{1: 6, 3: 1, 4: b"c"}] * 900_000)]}
        ),
    )
    yield (
        "schema groups nested deep",
        lambda p: raw(
            p,
            {},
            10,
            claims={2: [*([{3: 1, 4: b"g", 5: 1}] * 4000), *([{1: 6, 3: 1, 4: b"c"}] * 1)]},
        ),
    )
    yield "rows that the footer makes up", lambda p: raw(p, {}, 10, claims={3: I64(1 << 40)})
    yield "no parts and no files", lambda p: write(p, 10, told={"files": None, "part": "x/y"})


def _nested(depth: int) -> dict[int, object]:
    found: dict[int, object] = {}
    for _ in range(depth):
        found = {1: found}
    return found


def _equal_paths(rows: int) -> dict[str, Any]:
    return {"path": _shared("a.png", rows)}
