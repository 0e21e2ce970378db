"""Parquet files that claim or become gigabytes: read in bounded memory, or refused by the limit."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import LabelError, TableError
from cxrbatch.results import bounded, label_checks, pages
from cxrbatch.results.bounded import BoundedParquet, open_bounded
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.label_lists import labels_in
from cxrbatch.results.pages import ColumnChunk, TooLarge, check_footer, read_pages
from cxrbatch.results.table import Table, open_table

CLASSES = ("Normal", "COVID-19")
ROWS = 24_000
BIG = "x" * (1 << 20)
MB = 1 << 20


@contextmanager
def counted() -> Iterator[pa.MemoryPool]:
    """Counts what Arrow allocates within a block."""
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(usual)


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    with counted() as counting:
        yield counting


def shared(value: str, rows: int = ROWS) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array([value]))


def write_forged(path: Path, changed: dict[str, pa.Array], rows: int = ROWS) -> Path:
    """A table of a few kB: its texts are stored once, however many rows name them."""
    schema = table_schema(CLASSES, heatmap_size=2)
    columns = [changed.get(field.name, pa.nulls(rows, field.type)) for field in schema]
    made = {"schema_version": SCHEMA_VERSION, "classes": list(CLASSES), "heatmap_size": 2}
    table = pa.table(columns, schema.names)
    with pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({PROVENANCE_KEY.decode(): json.dumps(made)})
    assert path.stat().st_size < 100_000
    return path


def flags(value: str) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1, dtype=np.int32)), shared(value))


@pytest.mark.parametrize("column", ["path", "prediction", "patient_key", "image_flags"])
def test_a_text_times_rows_is_refused_before_it_is_expanded(
    tmp_path: Path, pool: pa.MemoryPool, column: str
) -> None:
    values = flags(BIG) if column == "image_flags" else shared(BIG)
    table = open_table(write_forged(tmp_path / "t", {column: values}))
    for read in (table.read, lambda names: table.take([0, ROWS - 1], names)):
        with pytest.raises(TableError, match=r"expands to more than \d+ MiB, more than a table of"):
            read([column])
    with pytest.raises(TableError, match=r"expands to more than \d+ MiB"):
        list(table.row_groups())
    assert pool.max_memory() < 400 * MB


def test_large_rows_come_in_parts(tmp_path: Path, pool: pa.MemoryPool) -> None:
    path = write_forged(
        tmp_path / "t", {"path": shared("p" * 8000), "image_flags": flags("f" * 1000)}
    )
    parts = []
    for part in open_table(path).row_groups():
        assert part.nbytes < 70 * MB
        assert part.column_names == table_schema(CLASSES, heatmap_size=2).names
        parts.append((len(part), set(part["path"].to_pylist()), part["image_flags"][-1].as_py()))
    assert sum(rows for rows, _, _ in parts) == ROWS
    assert {*parts[0][1], *parts[-1][1]} == {"p" * 8000}
    assert all(last == ["f" * 1000] for _, _, last in parts)
    assert len(parts) > 2
    assert pool.max_memory() < 200 * MB


def test_more_rows_than_a_file_can_hold_are_refused(tmp_path: Path) -> None:
    write_forged(tmp_path / "t", {}, 500_000)
    with pytest.raises(TableError, match=r"has 500,000 rows in [\d,]+ bytes, more than a table"):
        open_table(tmp_path / "t")


def test_a_long_description_is_refused(tmp_path: Path) -> None:
    metadata = {PROVENANCE_KEY: b"[" * (5 * MB)}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), tmp_path / "t")
    with pytest.raises(TableError, match="tells more than 4 MiB of its making"):
        open_table(tmp_path / "t")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "PLAIN", "DELTA_BYTE_ARRAY"])
def test_headers_add_up_to_what_the_writer_says(
    tmp_path: Path, version: str, codec: str, encoding: str
) -> None:
    texts = pa.array([f"name {number % 700}" if number % 9 else None for number in range(5000)])
    own = {} if encoding == "RLE_DICTIONARY" else {"column_encoding": {"a": encoding}}
    pq.write_table(
        pa.table({"a": texts}),
        tmp_path / "f",
        compression=codec,
        data_page_version=version,
        data_page_size=2000,
        use_dictionary=not own,
        **own,
    )
    column = pq.read_metadata(tmp_path / "f").row_group(0).column(0)
    start = column.dictionary_page_offset if not own else column.data_page_offset
    chunk = ColumnChunk(start, start + column.total_compressed_size, column.num_values)
    with (tmp_path / "f").open("rb") as file:
        found = list(read_pages(file.fileno(), chunk))
    assert sum(page.values for page in found if not page.is_dictionary) == 5000
    assert sum(page.is_dictionary for page in found) == (not own)
    # Headers count there too.
    told = column.total_uncompressed_size
    assert sum(page.size for page in found) <= told <= sum(page.size + 150 for page in found)


MIXED = [f"{number:040d}" for number in range(30_000)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"path": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"data_page_version": "2.0", "row_group_size": 7000},
        {"dictionary_pagesize_limit": 1000},
    ],
    ids=["mixed", "plain", "delta", "delta length", "pages v2", "small dictionary"],
)
def test_labels_read_alike_however_they_are_stored(
    tmp_path: Path, options: dict[str, object]
) -> None:
    labels = ["A", "B"] * (len(MIXED) // 2)
    pq.write_table(pa.table({"path": MIXED, "label": labels}), tmp_path / "l", **options)
    assert [(item.path, item.label) for item in labels_in(tmp_path / "l")] == [
        *zip(MIXED, labels, strict=True)
    ]


def test_a_long_label_times_rows_is_refused_with_its_row(
    tmp_path: Path, pool: pa.MemoryPool
) -> None:
    rows = 2_000_000
    pq.write_table(
        pa.table({"path": shared("a", rows), "label": shared(BIG, rows)}), tmp_path / "l"
    )
    with pytest.raises(LabelError, match="row 1: a field is longer than 65536 characters"):
        labels_in(tmp_path / "l")
    assert pool.max_memory() < 100 * MB


def test_a_shared_name_times_rows_is_copied_for_few_rows_at_a_time(
    tmp_path: Path, pool: pa.MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_checks, "_MOST_BYTES", 16 << 20)
    rows = 200_000
    columns = {"path": shared("x" * 60_000, rows), "label": shared("A", rows)}
    pq.write_table(pa.table(columns), tmp_path / "l")
    with pytest.raises(LabelError, match="more labels than fit into 16 MiB, 279 by then"):
        labels_in(tmp_path / "l")
    assert pool.max_memory() < 100 * MB


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_labels_count_by_the_memory_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(label_checks, "_MOST_BYTES", 1 << 20)
    names = [f"{number:0100d}" for number in range(4000)]
    if form == "csv":
        text = "".join(f"{name},A\n" for name in names)
        (tmp_path / "l").write_text(f"path,label\n{text}")
    else:
        pq.write_table(pa.table({"path": names, "label": ["A"] * 4000}), tmp_path / "l")
    with pytest.raises(LabelError, match=r"more labels than fit into 1 MiB, 3,004 by then; divide"):
        labels_in(tmp_path / "l")


def test_a_page_that_expands_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pa.array(["x" * 100] * 100_000)
    options = {"use_dictionary": False, "compression": "zstd", "data_page_size": 1 << 30}
    pq.write_table(pa.table({"path": texts}), tmp_path / "f", **options)
    monkeypatch.setattr(bounded, "_PAGE_BYTES", MB)
    with counted() as pool, open_bounded(tmp_path / "f") as file:
        with pytest.raises(TooLarge, match="has pages that expand to more than 1 MiB"):
            list(file.batches(["path"]))
        assert pool.max_memory() < MB


def footer_of(folder: Path, content: bytes) -> Path:
    length = len(content).to_bytes(4, "little")
    (folder / "f").write_bytes(b"PAR1" + content + length + b"PAR1")
    return folder / "f"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (bytes([0x49, 0xFC, *[0xFF] * 5, 0x01]), TooLarge),  # a list of 2 billion structures
        (bytes([0x1C] * 5000), ValueError),  # structures inside of each other
        (bytes([0x19] * 5000), ValueError),  # lists inside of each other
        (bytes([0x1B, *[0x01, 0xBB] * 5000]), ValueError),  # maps inside of each other
        (bytes([0x18, 0xFF, 0xFF, 0xFF, 0x7F]), ValueError),  # a text beyond the end
        (bytes([0x16] + [0xFF] * 12), ValueError),  # a number without end
        (b"\x1f", ValueError),  # a type that there is not
        (b"\x15", ValueError),
    ],
)
def test_footers_that_claim_too_much_are_refused(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    with footer_of(tmp_path, content).open("rb") as file, pytest.raises(error):
        check_footer(file.fileno())


def test_a_footer_is_counted_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({f"c{n}": [1] for n in range(30)}), tmp_path / "f")
    with (tmp_path / "f").open("rb") as file:
        BoundedParquet(file)
        monkeypatch.setattr(pages, "_MOST_ENTRIES", 100)
        with pytest.raises(TooLarge, match="has more than 100 entries in its footer"):
            BoundedParquet(file)


def test_texts_too_long_for_a_reader_of_many_rows_are_refused(tmp_path: Path) -> None:
    def table(value: str) -> Table:
        return open_table(write_forged(tmp_path / "t", {"manufacturer": shared(value)}))

    table("x" * 65_000).check_texts()
    with pytest.raises(TableError, match="texts of more than 64 KiB in 'manufacturer'"):
        table("x" * 66_000).check_texts()
