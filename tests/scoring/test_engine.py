"""An archive becomes a table: a row per file, whatever the workers and the order on disk."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from listeners import Silent
from PIL import Image

from cxrbatch.errors import TableError, UsageError
from cxrbatch.results.table import open_table
from cxrbatch.scoring import table_writer as writing
from cxrbatch.scoring.run import ScoringOptions, Summary
from cxrbatch.scoring.score import score_archive

IMAGES = 41


def write_archive(folder: Path, order: Sequence[int]) -> None:
    """Write images and foreign files; `order` is the order in which they come to the disk."""
    folder.mkdir()
    for index in order:
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 60), dtype=np.uint8)
        (folder / f"{index % 3}").mkdir(exist_ok=True)
        if index % 10 == 9:
            (folder / f"{index % 3}" / f"note{index:03d}").write_bytes(b"not an image")
        else:
            Image.fromarray(pixels).save(folder / f"{index % 3}" / f"film{index:03d}", "PNG")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives") / "archive"
    write_archive(folder, range(IMAGES))
    return folder


def score(
    archive: Path,
    output: Path,
    checkpoint: Path,
    *,
    workers: int = 0,
    batch_size: int = 16,
    overwrite: bool = False,
) -> Summary:
    options = ScoringOptions(workers=workers, batch_size=batch_size, precision="fp32", device="cpu")
    return score_archive(
        archive,
        output,
        checkpoint=checkpoint,
        options=options,
        overwrite=overwrite,
        progress=Silent(),
    )


def predictions(table: Path) -> dict[str, list[object]]:
    opened = open_table(table)
    columns = ["path", "outcome", "prediction", "image_hash", "heatmaps", "heatmap_scale"]
    columns += [f"{kind}_{name}" for kind in ("p", "logit") for name in opened.classes]
    read: dict[str, list[object]] = opened.read(columns).to_pydict()
    return read


def test_every_file_has_one_row_in_the_walks_order(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    summary = score(archive, tmp_path / "r.parquet", tiny_checkpoint)
    rows = predictions(tmp_path / "r.parquet")
    counts = summary.counts
    assert counts.files == counts.rows == len(rows["path"]) == IMAGES
    assert counts.outcomes == {"scored": 37, "not_an_image": 4}
    assert sum(counts.predictions.values()) == 37
    expected = sorted(
        os.path.relpath(os.path.join(folder, name), archive)
        for folder, _, names in os.walk(archive)
        for name in names
    )
    assert rows["path"] == expected
    assert summary.failures == 0


def test_unscored_rows_have_no_numbers(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    score(archive, tmp_path / "r.parquet", tiny_checkpoint)
    for row in pq.read_table(tmp_path / "r.parquet").to_pylist():
        scored = row["outcome"] == "scored"
        for name in ("prediction", "p_Normal", "logit_Normal", "heatmaps", "image_hash", "dhash"):
            assert (row[name] is not None) is scored


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(
    workers: int, archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    score(archive, tmp_path / "none.parquet", tiny_checkpoint, workers=0)
    score(archive, tmp_path / "some.parquet", tiny_checkpoint, workers=workers)
    assert predictions(tmp_path / "none.parquet") == predictions(tmp_path / "some.parquet")


def test_order_on_disk_changes_nothing(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    write_archive(tmp_path / "other", list(reversed(range(IMAGES))))
    score(archive, tmp_path / "one.parquet", tiny_checkpoint)
    score(tmp_path / "other", tmp_path / "two.parquet", tiny_checkpoint)
    assert predictions(tmp_path / "one.parquet") == predictions(tmp_path / "two.parquet")


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_moves_the_last_bits_only(
    batch_size: int, archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tables = []
    for size in (32, batch_size):
        score(archive, tmp_path / f"{size}.parquet", tiny_checkpoint, batch_size=size)
        tables.append(predictions(tmp_path / f"{size}.parquet"))
    assert tables[0]["prediction"] == tables[1]["prediction"]
    for name in ("p_Normal", "p_COVID-19"):
        pairs = zip(tables[0][name], tables[1][name], strict=True)
        values = np.array([pair for pair in pairs if pair[0] is not None], dtype=np.float64)
        assert np.abs(values[:, 0] - values[:, 1]).max() <= 1e-6


def test_equal_pictures_have_equal_hashes_and_scores(tiny_checkpoint: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    pixels = np.random.default_rng(5).integers(0, 256, (100, 90), dtype=np.uint8)
    Image.fromarray(pixels).save(archive / "a", "PNG", compress_level=0)
    Image.fromarray(pixels).save(archive / "b", "PNG", compress_level=9)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(archive / "c", "PNG")
    score(archive, tmp_path / "r.parquet", tiny_checkpoint)
    rows = predictions(tmp_path / "r.parquet")
    assert len(set(rows["image_hash"])) == 1
    assert len(set(rows["p_Normal"])) == 1


def test_provenance_tells_how_the_table_was_made(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    os.link(archive / "0" / "film000", tmp_path / "film")
    summary = score(tmp_path, tmp_path / "r.parquet", tiny_checkpoint)
    provenance = open_table(tmp_path / "r.parquet").provenance
    assert (
        provenance["passed_over"] == summary.passed_over == {"fifo": 1, "link": 1, "own_output": 1}
    )
    assert provenance["outcomes"] == {"scored": 1}
    assert provenance["files"] == provenance["rows"] == 1
    assert provenance["archive_root"] == str(tmp_path)
    assert provenance["precision"] == "fp32"
    assert len(provenance["checkpoint_sha256"]) == 64
    assert provenance["recipe"]["size"] == 64


@pytest.mark.parametrize("name", ["folder", "missing/r.parquet", "there.parquet"])
def test_outputs_that_cannot_be_are_refused(
    name: str, archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.parquet").write_text("precious")
    with pytest.raises(UsageError):
        score(archive, tmp_path / name, tiny_checkpoint)
    assert (tmp_path / "there.parquet").read_text() == "precious"


def test_overwrite_replaces_only_at_the_end(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "r.parquet"
    output.write_text("precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.pq.ParquetWriter, "add_key_value_metadata", full)
    with pytest.raises(TableError, match="No space left"):
        score(archive, output, tiny_checkpoint, overwrite=True)
    assert output.read_text() == "precious"
    monkeypatch.undo()
    score(archive, output, tiny_checkpoint, overwrite=True)
    assert open_table(output).rows == IMAGES
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_empty_archive_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with pytest.raises(UsageError, match="no files"):
        score(tmp_path / "archive", tmp_path / "r.parquet", tiny_checkpoint)
    assert not (tmp_path / "r.parquet").exists()


def test_row_groups_have_one_number_of_rows(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.scoring.table_writer._RECORD_BATCH", 4)
    monkeypatch.setattr("cxrbatch.scoring.table_writer._ROW_GROUP", 8)
    score(archive, tmp_path / "r.parquet", tiny_checkpoint)
    with pq.ParquetFile(tmp_path / "r.parquet") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [8, 8, 8, 8, 8, 1]
