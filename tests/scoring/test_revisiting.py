"""From a row back to its image: what was scored, or a reason, and nothing else."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.model.preprocessing import Recipe, image_hash
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_radiographs
from cxrbatch.scoring.revisiting import CHANGED, MISSING, NO_IMAGE, Origin, revisit

RECIPE = Recipe(size=32)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """An archive with a PNG, a note, a zip that holds both, and a PNG outside of it."""
    archive = tmp_path / "archive"
    archive.mkdir()
    grey = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    for place in (archive / "a.png", tmp_path / "secret.png"):
        Image.fromarray(grey).save(place)
    (archive / "note").write_text("a note")
    with zipfile.ZipFile(archive / "z.zip", "w") as container:
        container.write(archive / "a.png", "in/a.png")
    return Origin(os.fsencode(archive), RECIPE, ReadingOptions())


def hash_of(path: Path) -> str:
    (reading,) = read_radiographs(path)
    assert reading.image is not None
    return image_hash(RECIPE.prepare(reading.image))


@pytest.mark.parametrize("path", ["a.png", "z.zip!/in/a.png"])
def test_the_image_is_found_again(origin: Origin, tmp_path: Path, path: str) -> None:
    hashed = hash_of(tmp_path / "archive/a.png")
    for known in (hashed, None):
        reading = revisit(origin, path, 0, known)
        assert isinstance(reading, Reading)
        assert reading.image is not None


def test_another_image_is_not_taken_for_it(origin: Origin) -> None:
    assert revisit(origin, "a.png", 0, "0" * 32) == CHANGED
    assert revisit(origin, "note", 0, "0" * 32) == CHANGED
    assert revisit(origin, "note", 0, None) == NO_IMAGE


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.png", "{top}/secret.png", "x/../../secret.png", "./a.png", "a.png/", "", "."),
        *("a.png!/b", "z.zip!/absent", "absent.png", "\\", "\\x", "..", "a.png\\x00"),
    ],
)
def test_an_edited_path_leads_nowhere(origin: Origin, tmp_path: Path, path: str) -> None:
    assert revisit(origin, path.replace("{top}", str(tmp_path)), 0, None) == MISSING


def test_a_frame_that_is_not_there(origin: Origin) -> None:
    assert revisit(origin, "a.png", 1, None) == MISSING
