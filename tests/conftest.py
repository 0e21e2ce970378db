"""What the tests of several folders share: a tiny checkpoint and makers of small image files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe

PngMaker = Callable[[Path, np.ndarray], Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take most of a test's time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    """A card of three classes at 64 px."""
    return Card(
        name="tiny",
        architecture="resnet18",
        classes=("Normal", "COVID-19", "Viral Pneumonia"),
        recipe=Recipe(size=64),
        normalisation=Normalisation(mean=0.5, std=0.25),
        training={"data": "none: random weights"},
        limits=("Knows nothing.",),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_card: Card) -> Path:
    """A checkpoint of `tiny_card` with seeded random weights; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model = build_model(tiny_card).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, model=model, card=tiny_card)
    return path


@pytest.fixture(scope="session")
def write_png() -> PngMaker:
    """Write grey levels, shape (rows, columns), uint8 or uint16, as a PNG; folders are made."""

    def write(path: Path, grey: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(path, format="PNG")
        return path

    return write
