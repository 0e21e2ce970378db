"""The network as it scores: batch norms folded, and one kernel per convolution where there is one.

In inference a batch norm is a scale and a shift per channel, which the convolution before it can
do as well. oneDNN's convolutions moreover add the shortcut and apply ReLU to what is still in a
register, instead of reading and writing all activations once more.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cxrbatch.errors import CheckpointError
from cxrbatch.model.network import Block, RadiographResNet, Scores, pool_stem, score_features

_onednn = torch.ops.mkldnn


class FusedResNet:
    """A `RadiographResNet` for inference on one device, at one precision."""

    def __init__(
        self, model: RadiographResNet, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Fold a network, which is left as it is.

        Args:
            model: The network, in float32.
            device: Where it is to compute.
            dtype: What convolutions compute in; the head stays in float32.

        Raises:
            CheckpointError: As for `fold`.
        """
        kind = _OnednnConvolution if _has_onednn(device, dtype) else _Convolution

        def fuse(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> _Convolution:
            return kind(convolution, norm, device=device, dtype=dtype)

        self._dtype = dtype
        # oneDNN's ReLU leaves no NaN, which is no number among the others.
        self._pool = pool_positive if kind is _OnednnConvolution else pool_stem
        self._stem = fuse(model.conv1, model.bn1)
        self._blocks = [_FusedBlock(block, fuse) for block in model.blocks()]
        self._head = nn.Linear(model.fc.in_features, model.fc.out_features, device=device)
        self._head.load_state_dict(model.fc.state_dict())

    def features(self, images: Tensor) -> Tensor:
        """Give the last convolutional layer's activations, as `RadiographResNet.features`."""
        x = self._pool(self._stem.relu(images.to(self._dtype)))
        for block in self._blocks:
            x = block(x)
        return x

    def score(self, images: Tensor) -> Scores:
        """Give logits and heat maps, as `RadiographResNet.score`."""
        return score_features(self.features(images), self._head)


class Folded(NamedTuple):
    """A convolution that does its batch norm's work too.

    Attributes:
        weight: Shape (outputs, inputs, rows, columns).
        bias: Shape (outputs,).
    """

    weight: Tensor
    bias: Tensor


def fold(
    convolution: nn.Conv2d,
    norm: nn.BatchNorm2d,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Folded:
    """Fold a batch norm into the convolution before it; both are left as they are.

    It is folded in float64, so that each weight is rounded once.

    Args:
        convolution: A convolution without bias.
        norm: Its batch norm, whose running statistics count.
        device: Where the weights are to be; None for where they are.
        dtype: What they are rounded to.

    Raises:
        CheckpointError: A weight is not finite in `dtype`: damaged, or too large.
    """
    statistics = (norm.running_mean, norm.running_var)
    mean, variance = (cast(Tensor, values).double() for values in statistics)
    with torch.no_grad():
        pair = fuse_conv_bn_weights(
            convolution.weight.double(),
            None,
            mean,
            variance,
            norm.eps,
            norm.weight.double(),
            norm.bias.double(),
        )
        weight, bias = (values.to(device, dtype) for values in pair)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise CheckpointError(
            f"the checkpoint's weights with their batch norms are not finite in {dtype}: damaged, "
            "or too large; try --precision fp32, or another checkpoint"
        )
    return Folded(weight, bias)


def pool_positive(x: Tensor) -> Tensor:
    """Do `pool_stem`'s work where no value is negative or NaN, in half of its time in bfloat16.

    Such floats are in the order of their bits, and a processor compares more integers at once. Of
    the maximum along two axes one is taken after the other, and none looks for where it was.

    Args:
        x: Shape (n, channels, h, w), channels last, neither negative nor NaN.
    """
    bits = x.view(torch.int16 if x.element_size() == 2 else torch.int32).permute(0, 2, 3, 1)
    rows = _largest_of_three(bits)
    both = _largest_of_three(rows.transpose(1, 2)).transpose(1, 2)
    return both.permute(0, 3, 1, 2).view(x.dtype)


def _largest_of_three(x: Tensor) -> Tensor:
    """Give the maximum of every second entry of axis 1 and its two neighbours."""
    pairs = x.shape[1] // 2
    largest = torch.empty_like(x[:, ::2])
    torch.maximum(x[:, : 2 * pairs : 2], x[:, 1::2], out=largest[:, :pairs])
    largest[:, pairs:] = x[:, 2 * pairs :]
    later = largest[:, 1:]
    torch.maximum(later, x[:, 1:-1:2], out=later)
    return largest


class _FusedBlock:
    def __init__(
        self, block: Block, fuse: Callable[[nn.Conv2d, nn.BatchNorm2d], "_Convolution"]
    ) -> None:
        *first, last = (fuse(*pair) for pair in block.convolutions())
        self._first, self._last = first, last
        self._shortcut = None if block.downsample is None else fuse(*block.downsample)

    def __call__(self, x: Tensor) -> Tensor:
        shortcut = x if self._shortcut is None else self._shortcut(x)
        for convolution in self._first:
            x = convolution.relu(x)
        return self._last.add_relu(x, shortcut)


class _Convolution:
    """A convolution that does its batch norm's work too.

    Its input and output have shape (n, channels, h, w) and are channels last.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        weight, self._bias = fold(convolution, norm, device=device, dtype=dtype)
        self._weight = weight.to(memory_format=torch.channels_last)
        self._stride, self._padding = convolution.stride, convolution.padding

    def __call__(self, x: Tensor) -> Tensor:
        return conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def relu(self, x: Tensor) -> Tensor:
        return self(x).relu_()

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """ReLU of the sum; what `shortcut` holds is lost."""
        return self(x).add_(shortcut).relu_()


class _OnednnConvolution(_Convolution):
    """The same by oneDNN, with weights laid out as its kernel for the input's shape wants."""

    _packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "none")

    def relu(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "relu")

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        add_relu = _onednn._convolution_pointwise_.binary
        return cast(Tensor, add_relu(shortcut, *self._arguments(x), "add", 1.0, "relu", [], ""))

    def _pointwise(self, x: Tensor, then: str) -> Tensor:
        convolved = _onednn._convolution_pointwise(*self._arguments(x), then, [], "")
        return cast(Tensor, convolved)

    def _arguments(self, x: Tensor) -> tuple[Any, ...]:
        stride, padding, dilation, groups = self._stride, self._padding, (1, 1), 1
        if self._packed is None:
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            weight = self._weight.to_mkldnn()
            self._packed = pack(weight, padding, stride, dilation, groups, x.shape)
        return x, self._packed, self._bias, padding, stride, dilation, groups


@cache
def _has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes there, by operators that are PyTorch's own compiler's.

    They are not of its public interface and not on every processor, so they are tried.
    """
    if device.type != "cpu":
        return False
    convolution, norm = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
    images = torch.zeros(1, 16, 2, 2, dtype=dtype).to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            tried = _OnednnConvolution(convolution, norm, device=device, dtype=dtype)
            tried.add_relu(tried.relu(images), tried(images))
    except (RuntimeError, AttributeError, TypeError):
        return False
    return True
