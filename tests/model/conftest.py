"""Puts this folder's helpers within reach of its tests, and gives them a network."""

import sys
from pathlib import Path

import pytest

from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.network import RadiographResNet, model_of

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> RadiographResNet:
    checkpoint = load_checkpoint(tiny_checkpoint)
    return model_of(checkpoint.tensors, checkpoint.card.architecture)
