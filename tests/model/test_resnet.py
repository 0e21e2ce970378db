"""The network is torchvision's, but for its stem; the scoring form knows its names and shapes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from networks import layers, trained

from cxrbatch.model.card import ARCHITECTURES, Normalisation
from cxrbatch.model.fused import STRIDE, FusedResNet
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.soundness import expected_shapes, score_plainly


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_torchvisions_network_on_a_folded_stem(architecture: str) -> None:
    """The same weights give torchvision's logits for the grey image given three times."""
    torch.manual_seed(1)
    reference = getattr(torchvision.models, architecture)(num_classes=3).eval()
    model = RadiographResNet(architecture, classes=3).eval()
    state = reference.state_dict()
    state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True)
    model.load_state_dict(state)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = reference(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_and_shapes_of_tensors_are_torchvisions(architecture: str) -> None:
    state = RadiographResNet(architecture, classes=3).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if "num_b" not in name}
    assert expected_shapes(architecture, classes=3) == shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_scoring_form_gives_torchvisions_scores(architecture: str) -> None:
    model = trained(architecture)
    images = np.random.default_rng(5).integers(0, 256, (4, 96, 96), np.uint8)
    given = (torch.from_numpy(images)[:, None] / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = model(given)
        fused = FusedResNet(layers(model), device=torch.device("cpu"), dtype=torch.float32)
        scores = fused.score(given.to(memory_format=torch.channels_last))
    plain = score_plainly(layers(model), images, Normalisation(mean=0.5, std=0.25))
    limit = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(scores.logits, expected, rtol=0, atol=limit)
    torch.testing.assert_close(plain.logits, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_score_gives_the_logits_of_forward_and_a_map_per_class(architecture: str) -> None:
    model = RadiographResNet(architecture, classes=5).eval()
    images = torch.rand(2, 1, 2 * STRIDE, 3 * STRIDE)
    with torch.inference_mode():
        scores = model.score(images)
        torch.testing.assert_close(scores.logits, model(images))
    assert scores.logits.shape == (2, 5)
    assert scores.heatmaps.shape == (2, 5, 2, 3)
    assert scores.heatmaps.min() >= 0


def test_head_stays_in_float32_under_autocast() -> None:
    model = RadiographResNet("resnet18", classes=3).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.features(torch.rand(1, 1, 64, 64)).dtype == torch.bfloat16
        scores = model.score(torch.rand(1, 1, 64, 64))
    assert scores.logits.dtype == scores.heatmaps.dtype == torch.float32
    assert (scores.logits != scores.logits.bfloat16().float()).any()


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(KeyError):
        RadiographResNet("resnet1001", classes=2)


def test_the_first_score_on_a_cpu_imports_no_torchvision(tiny_checkpoint: Path) -> None:
    code = (
        "import sys, numpy; from cxrbatch.model.predictor import load_model; "
        "found = load_model(sys.argv[1], device='cpu').predict(numpy.zeros((64, 64))); "
        "sys.exit(len(found.logits) != 3 or 'torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_checkpoint], check=False)
    assert done.returncode == 0
