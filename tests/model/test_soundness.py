"""What is broken is refused, wherever fast kernels would give plausible scores for it."""

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import layers, trained
from refusals import refused
from safetensors.torch import load_file, save

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import ARCHITECTURES, Card, Normalisation
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.fused import FusedResNet
from cxrbatch.model.inference import Backend, Precision
from cxrbatch.model.network import RadiographResNet, import_state_dict
from cxrbatch.model.predictor import Predictor
from cxrbatch.model.soundness import check_images, check_network

CPU = torch.device("cpu")

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: cxrbatch[openvino]",
)


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 64, 64), np.uint8)


@pytest.fixture
def network(model: RadiographResNet) -> RadiographResNet:
    """A copy to break."""
    return deepcopy(model).requires_grad_(False)


def scorer(
    network: RadiographResNet,
    card: Card,
    *,
    precision: Precision = "fp32",
    batch_size: int = 4,
    backend: Backend = "torch",
) -> Predictor:
    checkpoint = Checkpoint.of(network, card)
    return Predictor(
        checkpoint, batch_size=batch_size, device=CPU, precision=precision, backend=backend
    )


# Weights


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("layer2.0.bn1.running_var", -1.0, "a variance that is negative"),
        ("layer2.0.bn1.running_var", -1e-6, "a variance that is negative"),
        ("layer2.0.bn1.running_var", 1e300, "not finite"),  # in the 32 bits of the network
        ("layer3.1.bn2.running_mean", float("nan"), "not finite"),
        ("layer1.0.bn1.weight", 1e30, "no finite scores"),
        ("layer1.0.conv1.weight", -1e30, "no finite scores"),
        ("fc.bias", 1e30, "no finite scores"),
    ],
)
def test_one_bad_value_is_refused_from_both_kinds_of_files(
    tmp_path: Path, tiny_checkpoint: Path, tiny_card: Card, name: str, value: float, reason: str
) -> None:
    tensors = {key: tensor.double() for key, tensor in load_file(tiny_checkpoint).items()}
    tensors[name].view(-1)[5 % tensors[name].numel()] = value
    metadata = {"cxrbatch": tiny_card.to_json()}
    (tmp_path / "m.safetensors").write_bytes(save(tensors, metadata=metadata))
    assert reason in refused(lambda: load_checkpoint(tmp_path / "m.safetensors"))
    torch.save(tensors, tmp_path / "m.pt")
    assert reason in refused(lambda: import_state_dict(tmp_path / "m.pt", card=tiny_card))


@pytest.mark.parametrize("value", [-1.0, float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_that_fold_to_nan_are_refused(
    network: RadiographResNet, dtype: torch.dtype, value: float
) -> None:
    network.bn1.running_var[3] = value
    refused(lambda: FusedResNet(layers(network), device=CPU, dtype=dtype))


def test_folded_weights_that_are_infinite_in_16_bits_are_refused(network: RadiographResNet) -> None:
    network.bn1.weight[3] = 6e4
    network.bn1.running_var[3] = 0.0
    FusedResNet(layers(network), device=CPU, dtype=torch.bfloat16)
    assert "--precision" in refused(
        lambda: FusedResNet(layers(network), device=CPU, dtype=torch.float16)
    )


@needs_openvino
def test_openvino_refuses_them_too(network: RadiographResNet, tiny_card: Card) -> None:
    network.layer1[0].bn1.running_var[3] = -1.0
    refused(lambda: scorer(network, tiny_card, backend="openvino"))


# Networks


@pytest.mark.parametrize("std", [1e-30, 1e-300])
def test_a_normalisation_without_measure_is_refused(network: RadiographResNet, std: float) -> None:
    refused(lambda: check_network(network.state_dict(), Normalisation(0.5, std), source="a test"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("classes", [2, 256])
@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_random_networks_are_sound(
    tiny_card: Card, inputs: np.ndarray, architecture: str, classes: int, factor: float
) -> None:
    torch.manual_seed(8)
    network = RadiographResNet(architecture, classes=classes).eval().requires_grad_(False)
    network.fc.weight *= factor
    card = replace(tiny_card, classes=tuple(f"class {number}" for number in range(classes)))
    check_network(network.state_dict(), card.normalisation, source="a test")
    scorer(network, card, precision="bf16").score(inputs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_networks_whose_batch_norms_do_something_are_sound(
    tiny_card: Card, inputs: np.ndarray, precision: Precision
) -> None:
    scorer(trained("resnet18"), tiny_card, precision=precision).score(inputs)


def test_test_images_have_all_greys_and_stay_the_same() -> None:
    first, second = check_images(64), check_images(64)
    assert np.array_equal(first, second)
    assert first.shape == (2, 64, 64)
    assert all((image.min(), image.max()) == (0, 255) for image in first)


# Scores that are compared


Change = Callable[[RadiographResNet], object]

UNLIKE: dict[str, Change] = {
    "stem": lambda network: network.conv1.weight.mul_(1.5),
    "statistics": lambda network: network.layer4[1].bn2.running_var.fill_(1e-4),
    "head": lambda network: network.fc.weight.copy_(network.fc.weight.flip(0)),
    "not finite": lambda network: network.fc.bias.fill_(float("nan")),
}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("change", UNLIKE)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_unlike_the_checkpoints_are_refused_for_good(
    network: RadiographResNet,
    tiny_card: Card,
    inputs: np.ndarray,
    precision: Precision,
    change: str,
    count: int,
) -> None:
    ready = scorer(network, tiny_card, precision=precision)
    UNLIKE[change](network)  # the plain one; the fused one has weights of its own
    for _ in range(2):
        message = refused(lambda: ready.score(inputs[:count]))
        assert "plain PyTorch" in message


def test_weights_that_need_more_digits_are_refused_in_bf16_alone(
    network: RadiographResNet, tiny_card: Card, inputs: np.ndarray
) -> None:
    """Of a small difference between large weights 8 bits leave nothing."""
    torch.manual_seed(1)
    network.conv1.weight[1::2] = network.conv1.weight[::2]
    first = network.layer1[0]
    first.conv1.weight[:, ::2], first.conv1.weight[:, 1::2] = 300.0, -300.0
    first.conv1.weight += torch.randn_like(first.conv1.weight) * 0.05
    first.bn2.weight.fill_(20.0)
    fine = scorer(network, tiny_card)
    fine.score(inputs)
    coarse = scorer(network, tiny_card, precision="bf16")
    assert "--precision fp32" in refused(lambda: coarse.score(inputs))


def test_the_test_image_changes_no_bit(
    network: RadiographResNet, tiny_card: Card, inputs: np.ndarray
) -> None:
    ready = scorer(network, tiny_card, batch_size=8)
    first, again = ready.score(inputs), ready.score(inputs)
    assert len(first.logits) == len(first.heatmaps) == 4
    for name in ("logits", "probabilities", "heatmaps", "heatmap_scale"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_batches_launched_ahead_wait_for_the_first(
    network: RadiographResNet, tiny_card: Card, inputs: np.ndarray
) -> None:
    ready = scorer(network, tiny_card)
    network.conv1.weight.mul_(1.5)
    with pytest.raises(CheckpointError):
        next(ready.score_all([inputs] * 5))


def test_later_batches_are_not_compared(
    network: RadiographResNet, tiny_card: Card, inputs: np.ndarray
) -> None:
    ready = scorer(network, tiny_card)
    ready.score(inputs)
    network.conv1.weight.mul_(1.5)
    ready.score(inputs)


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvinos_scores_are_compared(
    network: RadiographResNet, tiny_card: Card, inputs: np.ndarray, precision: Precision
) -> None:
    scorer(network, tiny_card, precision=precision, backend="openvino").score(inputs)
    ready = scorer(network, tiny_card, precision=precision, backend="openvino")
    network.conv1.weight.mul_(1.5)
    refused(lambda: ready.score(inputs))
