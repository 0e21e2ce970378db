"""The libraries that the product is made of are used where its main commands run."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cxrbatch import cli

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia")


def nearest_room() -> str:
    """Return the folder of the nearest caller that is a module of cxrbatch, such as `scoring`."""
    frame = sys._getframe(1)
    while frame is not None:
        package, _, rest = frame.f_globals.get("__name__", "").partition(".")
        if package == "cxrbatch" and rest:
            return rest.partition(".")[0]
        frame = frame.f_back
    return ""


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Collect (part, room of cxrbatch that uses it) while commands run in this process."""
    found: set[tuple[str, str]] = set()

    def watch(part: str, owner: type, name: str) -> None:
        original: Callable[..., object] = getattr(owner, name)

        def recorded(*args: object, **kwargs: object) -> object:
            found.add((part, nearest_room()))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    watch("DataLoader", DataLoader, "__iter__")
    watch("torchvision.models", torchvision.models.ResNet, "__init__")
    watch("transforms.v2", v2.Transform, "forward")
    watch("pandas", pd.DataFrame, "__init__")
    return found


@pytest.fixture
def films(tmp_path: Path, write_png: Callable[[Path, np.ndarray], Path]) -> Path:
    """A folder of class folders, twelve different small images of each class."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        for number in range(12):
            write_png(
                tmp_path / "films" / name / f"{number}.png",
                rng.integers(0, 256, (48, 48), np.uint8),
            )
    return tmp_path / "films"


def test_the_parts_are_used_where_score_report_and_train_run(
    films: Path, tiny_checkpoint: Path, tmp_path: Path, uses: set[tuple[str, str]]
) -> None:
    table, model = str(tmp_path / "r.parquet"), str(tmp_path / "m.safetensors")
    score = ["score", str(films), "-o", table, "--checkpoint", str(tiny_checkpoint)]
    assert cli.main([*score, "--workers", "0"]) == 0
    assert ("DataLoader", "scoring") in uses
    assert cli.main(["report", table, "-o", str(tmp_path / "r.html")]) == 0
    assert {room for part, room in uses if part == "pandas"} & {"results", "reports"}
    train = ["train", str(films), "-o", model, "--size", "32", "--epochs", "1", "--workers", "0"]
    assert cli.main(train) == 0
    assert {("DataLoader", "training"), ("transforms.v2", "training")} <= uses
    assert any(part == "torchvision.models" for part, _ in uses)
