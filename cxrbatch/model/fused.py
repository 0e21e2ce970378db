"""The ResNet as it scores, built from a checkpoint's tensors, with heat maps in the same pass.

The architecture is torchvision's (`network.py`). This form needs no torchvision, whose import takes
1.5 s, and scores a batch of ResNet-18 in 0.87 of its time (bf16, one CPU thread; 0.89 in fp32). A
batch norm is a scale and a shift per channel, which the convolution before it can do as well; and
oneDNN's convolutions add the shortcut and apply ReLU while values are still in a register.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, max_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cxrbatch.errors import CheckpointError

STRIDE = 32
"""Input pixels per heat map cell along each axis."""

EPSILON = 1e-5
"""What torchvision's batch norms add to a variance."""

_onednn = torch.ops.mkldnn


class Convolution(NamedTuple):
    """A convolution without bias, and the batch norm that follows it.

    `weight` has the shape (outputs, inputs, size, size). The batch norm's running `mean` and
    `variance`, its weight `scale` and its bias `shift` have the shape (outputs,).
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor
    scale: Tensor
    shift: Tensor
    stride: int

    @property
    def padding(self) -> int:
        """Rows and columns of zeros added at each side: half the kernel's size, rounded down."""
        return int(self.weight.shape[-1] // 2)


class Block(NamedTuple):
    """A residual block: convolutions one after the other, and a shortcut round them.

    The shortcut is a convolution of the block's input, or the input itself where `shortcut` is
    None. It is added before the last ReLU.
    """

    convolutions: tuple[Convolution, ...]
    shortcut: Convolution | None


class Layers(NamedTuple):
    """A ResNet's tensors in the order in which they are used.

    Attributes:
        stem: The first convolution.
        blocks: The residual blocks.
        weight: Weight of the head (the linear layer to the classes), shape (classes, k).
        bias: Bias of the head, shape (classes,).
    """

    stem: Convolution
    blocks: tuple[Block, ...]
    weight: Tensor
    bias: Tensor


def layers_of(tensors: Mapping[str, Tensor]) -> Layers:
    """Group a torchvision ResNet's whole state dict into stem, residual blocks and head.

    Blocks are in the order of computing. Nothing is copied; tensors of no layer are ignored. Check
    with `soundness.check_tensors` first: a missing tensor gives KeyError or another network.
    """

    def convolution(name: str, norm: str, *, stride: int = 1) -> Convolution:
        values = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (tensors[f"{norm}.{value}"] for value in values)
        return Convolution(tensors[f"{name}.weight"], mean, variance, scale, shift, stride)

    def block(name: str) -> Block:
        # Stages 2 to 4 halve the image in their first block, where it has 3 x 3 pixels.
        stride = 2 if name.endswith(".0.") and not name.startswith("layer1") else 1
        places = [place for place in (1, 2, 3) if f"{name}conv{place}.weight" in tensors]
        halving = len(places) - 1
        convolutions = (
            convolution(f"{name}conv{n}", f"{name}bn{n}", stride=stride if n == halving else 1)
            for n in places
        )
        has_shortcut = f"{name}downsample.0.weight" in tensors
        shortcut = (f"{name}downsample.0", f"{name}downsample.1")
        return Block(
            tuple(convolutions), convolution(*shortcut, stride=stride) if has_shortcut else None
        )

    matches = (re.fullmatch(r"(layer\d\.\d\.)conv1\.weight", name) for name in tensors)
    names = sorted(match[1] for match in matches if match)
    blocks = tuple(block(name) for name in names)
    stem = convolution("conv1", "bn1", stride=2)
    return Layers(stem, blocks, tensors["fc.weight"], tensors["fc.bias"])


class Scores(NamedTuple):
    """What one forward pass gives for a batch of n images and c classes.

    Attributes:
        logits: Shape (n, c), float32.
        heatmaps: Shape (n, c, h, w), float32, not negative; 7 x 7 for 224 px.
        features: Shape (n, k), float32: what the head sees, the mean of each activation.
    """

    logits: Tensor
    heatmaps: Tensor
    features: Tensor


def score_features(activations: Tensor, weight: Tensor, bias: Tensor) -> Scores:
    """Compute logits, heat maps (by `class_activation_maps`) and features from activations.

    All is computed in float32: rounding to bfloat16 would make different logits equal.

    Args:
        activations: Shape (n, k, h, w).
        weight: Weight of the head, shape (classes, k), float32.
        bias: Bias of the head, shape (classes,), float32.
    """
    with torch.autocast(activations.device.type, enabled=False):
        activations = activations.float()
        features = activations.mean((2, 3))
        maps = class_activation_maps(activations, weight)
        return Scores(linear(features, weight, bias), maps, features)


def class_activation_maps(activations: Tensor, weight: Tensor) -> Tensor:
    """Compute the heat map of every class: Grad-CAM in closed form.

    The activations are summed with the class's weights, negative sums set to 0, and all divided
    by h * w.

    Args:
        activations: Output of the last convolutional layer, shape (n, k, h, w).
        weight: Weight of the linear head, shape (classes, k).

    Returns:
        Shape (n, classes, h, w), not negative.
    """
    height, width = activations.shape[-2:]
    return conv2d(activations, weight[:, :, None, None]).relu() / (height * width)


class FusedResNet:
    """A ResNet for inference on one device, at one precision, without separate batch norms."""

    def __init__(self, layers: Layers, *, device: torch.device, dtype: torch.dtype) -> None:
        """Fold the batch norms into the convolutions; `layers` is left as it is.

        Args:
            layers: The network, in float32.
            device: The device that will compute.
            dtype: What convolutions compute in; the head stays in float32.

        Raises:
            CheckpointError: A folded weight is not finite in `dtype`.
        """
        kind = _OnednnConvolution if _has_onednn(device, dtype) else _FusedConvolution

        def fuse(convolution: Convolution) -> _FusedConvolution:
            return kind(convolution, device=device, dtype=dtype)

        self._dtype = dtype
        # oneDNN's ReLU turns NaN into 0, so that its results are all numbers.
        self._pool = pool_positive if kind is _OnednnConvolution else pool_stem
        self._stem = fuse(layers.stem)
        self._blocks = [
            ([fuse(c) for c in block.convolutions], block.shortcut and fuse(block.shortcut))
            for block in layers.blocks
        ]
        head = (layers.weight.detach(), layers.bias.detach())
        self._weight, self._bias = (values.to(device, copy=True) for values in head)

    def features(self, images: Tensor) -> Tensor:
        """Compute the last convolutional layer's activations.

        Args:
            images: Shape (n, 1, size, size), normalised, channels last.

        Returns:
            Shape (n, k, h, w); h and w are size / 32, rounded up.
        """
        x = self._pool(self._stem.relu(images.to(self._dtype)))
        for (*first, last), shortcut in self._blocks:
            added = x if shortcut is None else shortcut(x)
            for convolution in first:
                x = convolution.relu(x)
            x = last.add_relu(x, added)
        return x

    def score(self, images: Tensor) -> Scores:
        """Compute the scores of images of shape (n, 1, size, size), normalised, channels last."""
        return score_features(self.features(images), self._weight, self._bias)


class Folded(NamedTuple):
    """Weight and bias of a convolution with its batch norm multiplied in.

    Attributes:
        weight: Shape (outputs, inputs, rows, columns).
        bias: Shape (outputs,).
    """

    weight: Tensor
    bias: Tensor


def fold(
    convolution: Convolution,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Folded:
    """Multiply a batch norm into the weights of the convolution before it.

    Computed in float64, so that each weight is rounded once; `convolution` is left as it is.

    Args:
        convolution: The convolution and its batch norm, whose running statistics count.
        device: The device that the weights are copied to; None for the one where they are.
        dtype: What they are rounded to.

    Raises:
        CheckpointError: A weight is not finite in `dtype`: damaged, or too large.
    """
    weight, mean, variance, scale, shift = (values.detach().double() for values in convolution[:5])
    pair = fuse_conv_bn_weights(weight, None, mean, variance, EPSILON, scale, shift)
    weight, bias = (values.detach().to(device, dtype) for values in pair)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise CheckpointError(
            f"the checkpoint's weights with their batch norms are not finite in {dtype}: damaged, "
            "or too large; try --precision fp32, or another checkpoint"
        )
    return Folded(weight, bias)


def pool_stem(x: Tensor) -> Tensor:
    """Max-pool by 3 x 3 windows with stride 2 and padding 1: h and w are halved, rounded up."""
    return max_pool2d(x, kernel_size=3, stride=2, padding=1)


def pool_positive(x: Tensor) -> Tensor:
    """Max-pool as `pool_stem` (3 x 3, stride 2, padding 1): half of its time in bf16.

    Floats are compared as integers, unchecked. Same type; h and w are halved, rounded up.

    Args:
        x: Shape (n, channels, h, w), channels last, 16- or 32-bit floats, neither negative nor NaN.
    """
    bits = x.view(torch.int16 if x.element_size() == 2 else torch.int32).permute(0, 2, 3, 1)
    rows = _largest_of_three(bits)
    both = _largest_of_three(rows.transpose(1, 2)).transpose(1, 2)
    return both.permute(0, 3, 1, 2).view(x.dtype)


def _largest_of_three(x: Tensor) -> Tensor:
    """Return the maximum of every second entry of axis 1 and its two neighbours."""
    pairs = x.shape[1] // 2
    largest = torch.empty_like(x[:, ::2])
    torch.maximum(x[:, : 2 * pairs : 2], x[:, 1::2], out=largest[:, :pairs])
    largest[:, pairs:] = x[:, 2 * pairs :]
    later = largest[:, 1:]
    torch.maximum(later, x[:, 1:-1:2], out=later)
    return largest


class _FusedConvolution:
    """A folded convolution by PyTorch; in and out have shape (n, channels, h, w), channels last."""

    def __init__(
        self, convolution: Convolution, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        weight, self._bias = fold(convolution, device=device, dtype=dtype)
        self._weight = weight.to(memory_format=torch.channels_last)
        self._stride, self._padding = (convolution.stride,) * 2, (convolution.padding,) * 2

    def __call__(self, x: Tensor) -> Tensor:
        return conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def relu(self, x: Tensor) -> Tensor:
        return self(x).relu_()

    def add_relu(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """ReLU of the sum with `shortcut`, which may be overwritten."""
        return self(x).add_(shortcut).relu_()


class _OnednnConvolution(_FusedConvolution):
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
    images = torch.zeros(1, 16, 2, 2, dtype=dtype).to(memory_format=torch.channels_last)
    zeros, ones = torch.zeros(16), torch.ones(16)
    convolution = Convolution(torch.ones(16, 16, 1, 1), zeros, ones, ones, zeros, stride=1)
    try:
        with torch.inference_mode():
            tried = _OnednnConvolution(convolution, device=device, dtype=dtype)
            tried.add_relu(tried.relu(images), tried(images))
    except (RuntimeError, AttributeError, TypeError):
        return False
    return True
