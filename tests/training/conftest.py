"""Puts this folder's short runs and readers within reach."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Children import what was installed: the folder that the tests are called in has a `cxrbatch` of
# its own, which is not all of it.
os.environ["PYTHONSAFEPATH"] = "1"

PngMaker = Callable[[Path, np.ndarray], Path]


@pytest.fixture(scope="session")
def level_archive(tmp_path_factory: pytest.TempPathFactory, write_png: PngMaker) -> Path:
    """Two class folders of twenty pictures each, dark and bright; not to be changed."""
    root = tmp_path_factory.mktemp("train") / "archive"
    rng = np.random.default_rng(0)
    for label, level in (("dark lung", 60), ("white lung", 180)):
        for i in range(20):
            grey = level + rng.integers(-30, 31, (32, 32))
            write_png(root / label / f"{i:02}.png", grey.astype(np.uint8))
    return root
