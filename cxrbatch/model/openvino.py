"""The network by OpenVINO on a CPU: in float32, in bfloat16, or with convolutions of 8 bits.

Its graph is built from the same folded convolutions as `fused.FusedResNet`; the head and the heat
maps stay PyTorch's, in float32. Quantised are a convolution's weights, scaled by the largest of
each output channel, and its input, scaled by the tensor's largest value in all but one in a
hundred images.

Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference",
arXiv:1806.08342, section 3.
"""

import sys
from collections.abc import Iterable
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.model.fused import Block, Convolution, Layers, Scores, fold, score_features

# OpenVINO tells its makers that it was imported wherever it finds this package.
sys.modules.setdefault("openvino_telemetry", cast(Any, None))

import openvino  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

Ranges = npt.NDArray[np.float32]
"""Shape (tensors, 2): start and end of the range of values of each tensor to quantise."""

_Node: TypeAlias = openvino.Node | openvino.Output
_Levels: TypeAlias = np.float32 | npt.NDArray[np.float32]

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_LEVELS = 256
_SMALLEST = np.float32(1e-6)
_ODD = 1  # per cent


class OpenVinoResNet:
    """A ResNet that OpenVINO computes on the CPU, for batches of one fixed shape."""

    def __init__(
        self,
        layers: Layers,
        *,
        batch_size: int,
        size: int,
        precision: str,
        ranges: Ranges | None = None,
        lanes: int = 1,
    ) -> None:
        """Build and compile the network, for as many threads as PyTorch computes with.

        Args:
            layers: The network, in float32; it is left as it is.
            batch_size: Images per forward pass.
            size: Edge of an image, px.
            precision: "fp32", "bf16" or "int8": what convolutions compute in.
            ranges: For int8, the result of `activation_ranges`; None for the other precisions.
            lanes: Batches that may be computed at once; they share the threads.

        Raises:
            CheckpointError: A weight is not finite once its batch norm is folded in.
        """
        graph = _Graph(layers, (batch_size, 1, size, size), ranges=ranges)
        compiled = _compiled([graph.features], graph.images, hint=_HINTS[precision], streams=lanes)
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(lanes):
            self._idle.put(compiled.create_infer_request())
        head = (layers.weight.detach(), layers.bias.detach())
        self._weight, self._bias = (values.to("cpu", copy=True) for values in head)

    def features(self, images: Tensor) -> Tensor:
        """Compute the last convolutional layer's activations; wait while all lanes are busy.

        Args:
            images: Shape (batch_size, 1, size, size), float32, normalised.

        Returns:
            Shape (batch_size, k, h, w), float32; h and w are size / 32, rounded up.
        """
        request = self._idle.get()
        try:
            return torch.from_numpy(request.infer([images.numpy()])[0])
        finally:
            self._idle.put(request)

    def score(self, images: Tensor) -> Scores:
        """Compute logits and heat maps; wait while all lanes are busy.

        Args:
            images: Shape (batch_size, 1, size, size), float32, normalised.

        Returns:
            Logits, shape (batch_size, classes), and heat maps, shape (batch_size, classes, h, w),
            not negative; both float32.
        """
        return score_features(self.features(images), self._weight, self._bias)


def activation_ranges(layers: Layers, batches: Iterable[Tensor]) -> Ranges:
    """Find the range of values of each convolution's input, to quantise the inputs to 8 bits.

    The smallest and the largest value are taken of each image. A range begins at the 1st
    percentile of the images' smallest values and ends at the 99th of their largest.

    Args:
        layers: The network, in float32.
        batches: Normalised images, each of shape (n, 1, size, size); one batch at least.

    Returns:
        Start and end of each tensor's range, shape (tensors, 2), in the order in which the network
        computes the tensors.
    """
    results: list[list[npt.NDArray[np.float32]]] = []
    request = None
    for images in batches:
        if request is None:
            graph = _Graph(layers, (-1, *images.shape[1:]))
            compiled = _compiled(graph.extremes(), graph.images, hint="f32", streams=1)
            request = compiled.create_infer_request()
        results.append(list(request.infer([images.numpy()]).values()))
    extremes = [np.concatenate(of_tensor) for of_tensor in zip(*results, strict=True)]
    # An image that is odd does not make the steps of all others coarse.
    low = [np.percentile(smallest, _ODD) for smallest in extremes[::2]]
    high = [np.percentile(largest, 100 - _ODD) for largest in extremes[1::2]]
    return np.stack([low, high], axis=1).astype(np.float32)


class _Graph:
    """OpenVINO's graph of a network.

    Attributes:
        images: Its input.
        features: Its output, the last convolutional layer's activations.
    """

    def __init__(
        self, layers: Layers, shape: tuple[int, ...], *, ranges: Ranges | None = None
    ) -> None:
        self._ranges = ranges
        self._given: list[_Node] = []
        self.images = ops.parameter(list(shape), openvino.Type.f32)
        x = ops.relu(self._convolved(self._rounded(self.images), layers.stem))
        # As `fused.pool_stem` does.
        x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
        for block in layers.blocks:
            x = self._block(self._rounded(x), block)
        self.features = x

    def extremes(self) -> list[_Node]:
        """Return nodes of the smallest and the largest value in each image, tensor by tensor."""
        reduced = (ops.reduce_min, ops.reduce_max)
        return [reduce(x, [1, 2, 3]) for x in self._given for reduce in reduced]

    def _block(self, x: _Node, block: Block) -> _Node:
        shortcut = x if block.shortcut is None else self._convolved(x, block.shortcut)
        *first, last = block.convolutions
        for convolution in first:
            x = self._rounded(ops.relu(self._convolved(x, convolution)))
        return ops.relu(ops.add(self._convolved(x, last), shortcut))

    def _convolved(self, x: _Node, convolution: Convolution) -> _Node:
        weight, bias = (values.cpu().numpy() for values in fold(convolution))
        kernel = ops.constant(weight)
        if self._ranges is not None:
            largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True).clip(min=_SMALLEST)
            # One level fewer, so that the rest lie evenly about 0.
            kernel = _in_levels(kernel, -largest, largest, levels=_LEVELS - 1)
        stride, padding, dilation = [convolution.stride] * 2, [convolution.padding] * 2, [1, 1]
        y = ops.convolution(x, kernel, stride, padding, padding, dilation)
        return ops.add(y, ops.constant(bias[:, None, None]))

    def _rounded(self, x: _Node) -> _Node:
        """Record a convolution's input, in order; round it to 8 bits where ranges are given."""
        self._given.append(x)
        if self._ranges is None:
            return x
        low, high = self._ranges[len(self._given) - 1]
        if low >= 0:
            return _in_levels(x, np.float32(0), max(high, _SMALLEST), levels=_LEVELS)
        largest = max(-low, high)
        # 0 is one of the levels: two's complement has one more of them below it than above.
        return _in_levels(x, -largest, largest * np.float32(127 / 128), levels=_LEVELS)


def _in_levels(x: _Node, low: _Levels, high: _Levels, *, levels: int) -> _Node:
    limits = [ops.constant(np.float32(limit)) for limit in (low, high, low, high)]
    return ops.fake_quantize(x, *limits, levels)


def _compiled(
    outputs: list[_Node], images: _Node, *, hint: str, streams: int
) -> openvino.CompiledModel:
    """Compile a graph for `streams` requests at once, which share the threads."""
    model = openvino.Model(outputs, [images], "")
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": streams,
        # The processes that read files share the cores.
        "ENABLE_CPU_PINNING": False,
    }
    return _core().compile_model(model, "CPU", settings)


@cache
def _core() -> openvino.Core:
    """Return the process's one core.

    A core replaces the signal stack of the thread that it first works in, and at its end puts back
    the earlier one. Where that belonged to a core freed before, the next signal ends the process.
    """
    return openvino.Core()
