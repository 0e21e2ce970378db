"""By OpenVINO a network gives what it gives by PyTorch; in 8 bits nearly, and nobody is told."""

import importlib.util
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import layers, trained
from torch import Tensor, nn

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model import inference
from cxrbatch.model.batch_scores import quantise
from cxrbatch.model.card import ARCHITECTURES
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.fused import Convolution, FusedResNet, fold
from cxrbatch.model.inference import choose_device, choose_precision, describe_device
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.predictor import Predictor

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: cxrbatch[openvino]",
)

CPU = torch.device("cpu")


def images(count: int) -> Tensor:
    torch.manual_seed(7)
    return torch.randn(count, 1, 64, 64)


@needs_openvino
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp32_is_pytorchs(architecture: str) -> None:
    from cxrbatch.model.openvino import OpenVinoResNet

    model, given = trained(architecture), images(4)
    plain = FusedResNet(layers(model), device=CPU, dtype=torch.float32)
    other = OpenVinoResNet(layers(model), batch_size=4, size=64, precision="fp32")
    with torch.inference_mode():
        features, want = plain.features(given), plain.score(given)
        near(other.features(given), features)
        have = other.score(given)
    near(have.logits, want.logits)
    levels = quantise(have.heatmaps).levels.int() - quantise(want.heatmaps).levels.int()
    assert levels.abs().max() <= 1
    assert levels.count_nonzero() < 0.01 * levels.numel()


def near(have: Tensor, want: Tensor) -> None:
    """As near as folding is to the network itself."""
    torch.testing.assert_close(have, want, rtol=0, atol=2e-5 * float(want.abs().max()))


@needs_openvino
@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_int8_is_what_pytorch_simulates(architecture: str) -> None:
    from cxrbatch.model.openvino import OpenVinoResNet, activation_ranges

    model, given = trained(architecture), images(16)
    ranges = activation_ranges(layers(model), [given[:9], given[9:]])
    other = OpenVinoResNet(layers(model), batch_size=16, size=64, precision="int8", ranges=ranges)
    with torch.inference_mode():
        exact = model.features(given)
        want = simulated(model, ranges).features(given)
        have = other.features(given)
    error, others = ((features - exact).norm() / exact.norm() for features in (want, have))
    assert 0.9 * error < others < 1.1 * error
    assert (have - want).norm() < (want - exact).norm()


def simulated(model: RadiographResNet, ranges: np.ndarray) -> RadiographResNet:
    """The network with PyTorch's own rounding of weights and of what convolutions are given."""
    model, limits = deepcopy(model), iter(ranges.tolist())
    quantise_weight(model.conv1, model.bn1)
    quantise_input(model.conv1, next(limits))
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    for block in (block for stage in stages for block in stage):
        quantise_input(block, next(limits))
        if block.downsample is not None:
            quantise_weight(*block.downsample)
        for number in (1, 2, 3):
            if convolution := getattr(block, f"conv{number}", None):
                quantise_weight(convolution, getattr(block, f"bn{number}"))
                if number > 1:
                    quantise_input(convolution, next(limits))
    assert next(limits, None) is None
    return model


def quantise_weight(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    folded = fold(Convolution(convolution.weight, *statistics, stride=1))
    scale = folded.weight.abs().amax((1, 2, 3)) / 127
    zero = torch.zeros(len(scale), dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(folded.weight, scale, zero, 0, -127, 127)
    convolution.weight.data = rounded
    norm.running_mean, norm.running_var = torch.zeros_like(scale), torch.ones_like(scale)
    norm.weight.data, norm.bias.data, norm.eps = torch.ones_like(scale), folded.bias, 0.0


def quantise_input(module: nn.Module, limits: tuple[float, float]) -> None:
    low, high = limits
    lowest, highest = (0, 255) if low >= 0 else (-128, 127)
    scale = high / 255 if low >= 0 else max(-low, high) / 128
    module.register_forward_pre_hook(
        lambda _, given: torch.fake_quantize_per_tensor_affine(given[0], scale, 0, lowest, highest)
    )


@needs_openvino
def test_a_tensor_that_is_always_0_stays_0() -> None:
    from cxrbatch.model.openvino import OpenVinoResNet, activation_ranges

    model, given = trained("resnet18"), images(2)
    model.conv1.weight.data.zero_()
    model.bn1.bias.data.fill_(-1.0)
    ranges = activation_ranges(layers(model), [given])
    assert ranges[1].tolist() == [0.0, 0.0]
    network = OpenVinoResNet(layers(model), batch_size=2, size=64, precision="int8", ranges=ranges)
    with torch.inference_mode():
        assert network.features(given).isfinite().all()


@needs_openvino
def test_nothing_is_sent_and_nothing_written(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-P", "-c", _WATCHED]
    done = subprocess.run(
        command, env={**environment, "HOME": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout == b"[]\n"
    assert not list(tmp_path.iterdir())


_WATCHED = """
import sys
seen = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and seen.append(event))
from cxrbatch.model.openvino import OpenVinoResNet
from cxrbatch.model.fused import layers_of
from cxrbatch.model.network import RadiographResNet
model = RadiographResNet("resnet18", classes=2)
OpenVinoResNet(layers_of(model.state_dict()), batch_size=1, size=32, precision="fp32")
print([event for event in seen if event != "socket.__new__"])
"""


_FREED_IN_ORDER = """
import signal
from cxrbatch.model.openvino import OpenVinoResNet
from cxrbatch.model.fused import layers_of
from cxrbatch.model.network import RadiographResNet

model = RadiographResNet("resnet18", classes=4).eval()
given = layers_of(model.state_dict())
first, second = (OpenVinoResNet(given, batch_size=1, size=64, precision="fp32") for _ in range(2))
del first
del second
signal.signal(signal.SIGINT, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


@needs_openvino
def test_a_signal_is_heard_after_networks_were_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FREED_IN_ORDER], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n", "")


@needs_openvino
def test_it_computes_on_the_cpu_and_says_so() -> None:
    assert choose_device("auto", "openvino") == choose_device("cpu", "openvino") == CPU
    assert describe_device(CPU, "openvino") == f"{describe_device(CPU)}, by OpenVINO"
    with pytest.raises(UsageError, match="computes on a CPU, not on 'cuda'"):
        choose_device("cuda", "openvino")


@needs_openvino
def test_a_batch_that_does_not_fit_is_one_line(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(CxrbatchError, match="not enough memory for 200000000 images"):
        Predictor(
            checkpoint, batch_size=200_000_000, device=CPU, precision="fp32", backend="openvino"
        )


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pip install 'cxrbatch\[openvino\]'"):
        choose_device("auto", "openvino")


def test_int8_is_openvinos_alone() -> None:
    assert choose_precision("int8", CPU, "openvino") == "int8"
    assert choose_precision("auto", CPU, "openvino") == choose_precision("auto", CPU)
    with pytest.raises(UsageError, match="int8 needs --backend openvino"):
        choose_precision("int8", CPU)


def test_bf16_that_would_be_fp32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_has_native_bf16", lambda device: False)
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(UsageError, match="does not compute in bf16"):
        choose_precision("bf16", CPU, "openvino")
