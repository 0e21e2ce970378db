"""One sample archive for all tests of this folder, with the drawings that went into it."""

from __future__ import annotations

import pytest

from cxrbatch.sample.archive_writer import Drawing, SampleSummary, write_sample
from cxrbatch.sample.projection import Plane


@pytest.fixture(scope="session")
def drawings() -> dict[Drawing, Plane]:
    """What was drawn for `written`; filled while it is written."""
    return {}


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, drawings: dict[Drawing, Plane]
) -> SampleSummary:
    draw = Drawing.draw

    def remembered(drawing: Drawing) -> Plane:
        if drawing not in drawings:
            drawings[drawing] = draw(drawing)
        return drawings[drawing]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "draw", remembered)
        return write_sample(tmp_path_factory.mktemp("sample") / "archive")
