"""Heat maps in closed form equal Grad-CAM by autograd, and survive their eight bits."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrbatch.model.batch_scores import quantise
from cxrbatch.model.card import ARCHITECTURES
from cxrbatch.model.fused import class_activation_maps
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.prediction import dequantise

CLASSES = 4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> RadiographResNet:
    """Random weights; batch statistics of noise keep the activations in an ordinary range."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = RadiographResNet(request.param, classes=CLASSES)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(4, 1, 96, 96))
    return model.eval()


def images(size: int) -> Tensor:
    return torch.randn(4, 1, size, size, generator=torch.Generator().manual_seed(size))


def autograd_cam(model: RadiographResNet, inputs: Tensor, target: int) -> Tensor:
    """Grad-CAM as in the paper: gradients averaged over the plane weigh the activations."""
    activations = model.features(inputs)
    logits = model.fc(activations.mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), activations)
    return (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu().detach()


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5 * float(expected.max()) + 1e-9)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("size", [64, 97])
def test_closed_form_is_grad_cam(network: RadiographResNet, size: int) -> None:
    with torch.inference_mode():
        found = network.score(images(size)).heatmaps
    assert found.max() > 0.01
    for target in range(CLASSES):
        assert_close(found[:, target].clone(), autograd_cam(network, images(size), target))


@pytest.mark.parametrize("size", [64, 97])
def test_closed_form_is_captums_grad_cam(network: RadiographResNet, size: int) -> None:
    attr = pytest.importorskip("captum.attr")
    oracle = attr.LayerGradCam(network.forward, network.layer4)
    with torch.inference_mode():
        found = network.score(images(size)).heatmaps
    assert found.max() > 0.01
    for target in range(CLASSES):
        expected = oracle.attribute(images(size), target=target, relu_attributions=True)
        assert_close(found[:, target].clone(), expected[:, 0].detach())


def test_known_maps_of_one_activation() -> None:
    activations = torch.zeros(1, 2, 2, 2)
    activations[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    activations[0, 1, 0, 0] = 10.0
    weight = torch.tensor([[4.0, 0.0], [-4.0, 4.0]])
    maps = class_activation_maps(activations, weight)
    assert maps[0, 0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert maps[0, 1].tolist() == [[9.0, 0.0], [0.0, 0.0]]


def test_maps_sum_to_the_logit_where_nothing_is_negative() -> None:
    activations = torch.rand(3, 5, 4, 4)
    weight = torch.rand(2, 5)
    maps = class_activation_maps(activations, weight)
    torch.testing.assert_close(maps.sum((2, 3)), activations.mean((2, 3)) @ weight.T)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 3.7, 1e6])
def test_quantised_maps_come_back_within_half_a_level(factor: float) -> None:
    maps = torch.rand(3, CLASSES, 5, 7, generator=torch.Generator().manual_seed(1)) * factor
    levels, scale = quantise(maps)
    assert levels.dtype == torch.uint8
    for image in range(3):
        stored = levels[image].numpy().tobytes()
        found = dequantise(stored, scale=float(scale[image]), classes=CLASSES, size=(5, 7))
        assert found.shape == (CLASSES, 5, 7)
        error = np.abs(found - maps[image].numpy()).max()
        assert error <= float(scale[image]) / 510 * (1 + 1e-5)


def test_scale_is_the_largest_value_of_each_image_over_all_classes() -> None:
    maps = torch.zeros(2, 2, 3, 3)
    maps[0, 0, 1, 1], maps[0, 1, 2, 2], maps[1, 1, 0, 0] = 8.0, 4.0, 0.5
    levels, scale = quantise(maps)
    assert scale.tolist() == [8.0, 0.5]
    assert levels[0, 0, 1, 1] == 255
    assert levels[0, 1, 2, 2] == 128  # half of 255, to the even neighbour
    assert levels[1, 1, 0, 0] == 255


def test_maps_without_activation_are_zero_beside_others() -> None:
    maps = torch.zeros(2, 2, 3, 3)
    maps[1] = 1.0
    levels, scale = quantise(maps)
    assert scale.tolist() == [0.0, 1.0]
    assert levels[0].max() == 0
    found = dequantise(levels[0].numpy().tobytes(), scale=0.0, classes=2, size=(3, 3))
    assert not found.any()


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        dequantise(bytes(10), scale=1.0, classes=2, size=(3, 3))
