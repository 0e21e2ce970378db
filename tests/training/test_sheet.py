"""The contact sheet shows originals beside what is made of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainees import side

from cxrbatch.errors import CxrbatchError
from cxrbatch.training.outputs import write_contact_sheet


def sheet(path: Path, *, seed: int = 0) -> np.ndarray:
    given = side(6, 3)
    write_contact_sheet(path, given, classes=("dunkel", "明るい"), flip=False, seed=seed, rows=4)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_each_row_begins_with_an_original_and_goes_on_with_others(tmp_path: Path) -> None:
    drawn = sheet(tmp_path / "sheet.png")
    assert drawn.shape == ((32 + 4 + 18) * 4 + 4, (32 + 4) * 6 + 4)
    given = side(6, 3)
    for row in range(4):
        top = row * 54 + 22
        cells = [drawn[top : top + 32, i * 36 + 4 : i * 36 + 36] for i in range(6)]
        found = [
            int(t) for x, t in zip(given.inputs, given.truth, strict=True) if (x == cells[0]).all()
        ]
        assert found == [row % 2]
        assert not any((cells[0] == cell).all() for cell in cells[1:])
        assert drawn[top - 16 : top - 2].max() > 100  # its class is named


def test_a_seed_gives_the_same_sheet(tmp_path: Path) -> None:
    first = sheet(tmp_path / "a.png")
    assert np.array_equal(first, sheet(tmp_path / "b.png"))
    assert not np.array_equal(first, sheet(tmp_path / "c.png", seed=1))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CxrbatchError, match="cannot write"):
        sheet(tmp_path / "none" / "sheet.png")
