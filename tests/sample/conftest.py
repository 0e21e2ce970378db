"""One sample archive for all tests of this folder, with the drawings that went into it."""

from __future__ import annotations

import pytest

from cxrbatch.sample.archive import SampleSummary, write_sample
from cxrbatch.sample.plan import Picture
from cxrbatch.sample.projection import Plane


@pytest.fixture(scope="session")
def drawings() -> dict[Picture, Plane]:
    """What was drawn for `written`; filled while it is written."""
    return {}


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, drawings: dict[Picture, Plane]
) -> SampleSummary:
    draw = Picture.draw

    def remembered(picture: Picture) -> Plane:
        if picture not in drawings:
            drawings[picture] = draw(picture)
        return drawings[picture]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Picture, "draw", remembered)
        return write_sample(tmp_path_factory.mktemp("sample") / "archive")
