"""The network is torchvision's, but for its stem; a score is one pass and rounds nothing."""

import pytest
import torch
import torchvision

from cxrbatch.model.network import ARCHITECTURES, STRIDE, RadiographResNet


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
