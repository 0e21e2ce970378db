"""From a row back to its image: what was scored, or a reason, and nothing else."""

import gzip
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.model.preprocessing import Recipe, image_hash
from cxrbatch.reading.outcomes import Flag
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_radiographs
from cxrbatch.results.table import Table, open_table
from cxrbatch.scoring.file_reader import CHANGED, MISSING, Origin, revisit

RECIPE = Recipe(size=32)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """An archive with a PNG, also in a zip and in gzip, a note, and a PNG outside of it."""
    archive = tmp_path / "archive"
    archive.mkdir()
    grey = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    for place in (archive / "a.png", tmp_path / "secret.png"):
        Image.fromarray(grey).save(place)
    (archive / "note").write_text("a note")
    with zipfile.ZipFile(archive / "z.zip", "w") as container:
        container.write(archive / "a.png", "in/a.png")
    (archive / "a.png.gz").write_bytes(gzip.compress((archive / "a.png").read_bytes()))
    return Origin(os.fsencode(archive), RECIPE, ReadingOptions())


def hash_of(path: Path) -> str:
    (reading,) = read_radiographs(path)
    assert reading.image is not None
    return image_hash(RECIPE.prepare(reading.image))


@pytest.mark.parametrize("path", ["a.png", "z.zip!/in/a.png", "a.png.gz!/a.png"])
def test_the_image_is_found_again(origin: Origin, tmp_path: Path, path: str) -> None:
    reading = revisit(origin, path, 0, hash_of(tmp_path / "archive/a.png"))
    assert isinstance(reading, Reading)
    assert reading.image is not None


def test_of_members_of_one_name_the_one_that_was_scored_is_found(
    origin: Origin, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.new("L", (40, 50), 7).save(other)
    with (
        zipfile.ZipFile(tmp_path / "archive/z.zip", "a") as container,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        container.write(other, "in/a.png")
    for film in (tmp_path / "archive/a.png", other):
        assert isinstance(revisit(origin, "z.zip!/in/a.png", 0, hash_of(film)), Reading)
    assert revisit(origin, "z.zip!/in/a.png", 0, "0" * 32) == CHANGED


def test_a_member_is_found_without_listing_all(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = hash_of(tmp_path / "archive/a.png")
    monkeypatch.setattr("cxrbatch.reading.containers.zip.read_entries", None)
    assert isinstance(revisit(origin, "z.zip!/in/a.png", 0, hashed), Reading)


def test_another_image_is_not_taken_for_it(origin: Origin) -> None:
    for path in ("a.png", "note"):
        for hashed in ("0" * 32, ""):
            assert revisit(origin, path, 0, hashed) == CHANGED


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.png", "{top}/secret.png", "x/../../secret.png", "./a.png", "a.png/", "", "."),
        *("a.png!/b", "z.zip!/absent", "absent.png", "\\", "\\x", "..", "a.png\\x00"),
        *("../archive/a.png", "{top}/archive/a.png", "/a.png", "//a.png", "in//a.png"),
    ],
)
def test_an_edited_path_leads_nowhere(origin: Origin, tmp_path: Path, path: str) -> None:
    hashed = hash_of(tmp_path / "secret.png")
    assert revisit(origin, path.replace("{top}", str(tmp_path)), 0, hashed) == MISSING


def test_a_link_leads_out_of_the_archive_only_where_the_run_followed_links(
    origin: Origin, tmp_path: Path
) -> None:
    archive, hashed = tmp_path / "archive", hash_of(tmp_path / "secret.png")
    (archive / "file.png").symlink_to(tmp_path / "secret.png")
    (archive / "folder").symlink_to(tmp_path)
    (archive / "inside.png").symlink_to("a.png")
    (tmp_path / "named").symlink_to(archive)
    for path in ("file.png", "folder/secret.png"):
        assert revisit(origin, path, 0, hashed) == MISSING
        assert isinstance(revisit(replace(origin, follow_links=True), path, 0, hashed), Reading)
    by_link = replace(origin, root=os.fsencode(tmp_path / "named"))
    for found in (revisit(origin, "inside.png", 0, hashed), revisit(by_link, "a.png", 0, hashed)):
        assert isinstance(found, Reading)


def test_a_frame_that_is_not_there(origin: Origin, tmp_path: Path) -> None:
    assert revisit(origin, "a.png", 1, hash_of(tmp_path / "archive/a.png")) == MISSING


def test_a_film_that_was_decoded_at_a_reduced_size_is_found_again(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "archive").mkdir()
    grey = np.random.default_rng(1).integers(0, 256, (600, 550), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "archive" / "film.jpg")
    found = []
    for options in ([], ["--fast-decode"]):
        output = tmp_path / f"{len(options)}.parquet"
        words = ["score", str(tmp_path / "archive"), "-o", str(output), "--workers", "0"]
        assert main([*words, "--checkpoint", str(tiny_checkpoint), *options]) == 0
        table = open_table(output)
        (row,) = table.read(["path", "frame", "image_hash", "image_flags"]).to_pylist()
        assert (Flag.REDUCED_DECODING.value in row["image_flags"]) is bool(options)
        origin = Origin.of(table)
        assert origin is not None
        reading = revisit(origin, row["path"], row["frame"], row["image_hash"])
        assert isinstance(reading, Reading)
        found.append(reading)
    plain, fast = found
    assert plain.image is not None
    assert fast.image is not None
    assert plain.image.shape == (600, 550)
    assert fast.image.shape == (150, 138)
    assert replace(fast, image=None, flags=plain.flags) == replace(plain, image=None)


@pytest.mark.parametrize(
    "edit",
    [
        *({"archive_root": root} for root in ("", ".", "archive", "../x", None, 3, [], "\\x")),
        *({"recipe": recipe} for recipe in (None, [], {}, {**RECIPE.to_card(), "size": 1})),
        *({"max_pixels": limit} for limit in (1e999, "x", None)),
    ],
)
def test_an_origin_without_sense_is_none(edit: dict[str, object]) -> None:
    told = {"archive_root": "/archive", "recipe": RECIPE.to_card()}
    assert Origin.of(Table(Path("t"), ("a",), told, 0, 0)) is not None
    assert Origin.of(Table(Path("t"), ("a",), {**told, **edit}, 0, 0)) is None
