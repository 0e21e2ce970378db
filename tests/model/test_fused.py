"""Folded for inference, a network gives what it gave: by oneDNN's kernels and without them."""

from collections.abc import Callable

import pytest
import torch
from networks import layers, trained

from cxrbatch.model import fused
from cxrbatch.model.card import ARCHITECTURES
from cxrbatch.model.fused import FusedResNet, pool_positive, pool_stem

CPU = torch.device("cpu")


@pytest.fixture(params=["onednn", "plain"])
def use(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take one kind of kernels; skips where they do not exist."""

    def take(dtype: torch.dtype) -> None:
        if request.param == "onednn" and not fused._has_onednn(CPU, dtype):
            pytest.skip(f"oneDNN does not compute in {dtype} here")
        monkeypatch.setattr(fused, "_has_onednn", lambda device, dtype: request.param == "onednn")

    return take


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_changes_nothing_but_rounding(architecture: str, use: Callable[..., None]) -> None:
    use(torch.float32)
    model = trained(architecture)
    images = torch.randn(4, 1, 96, 64)
    with torch.inference_mode():
        expected = model.score(images)
        found = FusedResNet(layers(model), device=CPU, dtype=torch.float32).score(images)
    for name in ("logits", "heatmaps"):
        want, have = getattr(expected, name), getattr(found, name)
        torch.testing.assert_close(have, want, rtol=0, atol=2e-5 * float(want.abs().max()))


def test_bf16_is_as_near_as_autocasts(use: Callable[..., None]) -> None:
    """The error is no more than twice that of PyTorch's own mixed precision."""
    use(torch.bfloat16)
    model = trained("resnet18")
    images = torch.randn(16, 1, 64, 64)
    with torch.inference_mode():
        exact = model.score(images).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = model.score(images).logits
        found = FusedResNet(layers(model), device=CPU, dtype=torch.bfloat16).score(images).logits
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert (found - exact).square().mean() < 4 * (autocast - exact).square().mean()


def test_the_network_is_left_as_it_is() -> None:
    model = trained("resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FusedResNet(layers(model), device=CPU, dtype=torch.bfloat16).score(torch.randn(1, 1, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2), (7, 8), (80, 80), (113, 112)])
def test_maxima_of_what_is_not_negative_are_pytorchs(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(3, 64, *shape).relu().to(dtype)
    x[0] = 0
    x[1].flatten()[::7] = torch.inf
    found = pool_positive(x.to(memory_format=torch.channels_last))
    assert torch.equal(found, pool_stem(x))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_score_of_what_is_no_number_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # The difference of infinities has its sign bit set, and would be less than all as an integer.
    monkeypatch.setattr(fused, "_has_onednn", lambda device, dtype: False)
    model = trained("resnet18")
    stem = model.conv1.weight.data
    stem[0] = 0
    stem[0, 0, 3, 3:5] = torch.tensor([3e38, -3e38])
    model.bn1.weight.data[0] = model.bn1.running_var[0] = 1  # or the weights would be infinite
    images = torch.full((1, 1, 64, 64), 0.1)
    images[..., 32, 32:34] = 2.0
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode():
            found = FusedResNet(layers(model), device=CPU, dtype=dtype).score(images)
        assert not found.logits.isfinite().any()
