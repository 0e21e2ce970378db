"""Whether weights are sound, and whether a network scores as plain PyTorch does."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.fused import EPSILON, Convolution, Layers, layers_of, pool_stem

Images = npt.NDArray[np.uint8]

LARGEST_ACTIVATION = 1e18
"""Half of float32's exponents: an image unlike the test images does not reach infinity either.

Random networks stay below 1e5, trained ones below 1e3.
"""

ROUNDING = {"fp32": 1e-5, "fp16": 2.5e-3, "bf16": 2e-2}
"""By precision: how far a logit may be off, as a share of the sum of the products' magnitudes.

Each product is a mean feature times its weight in the head. Measured on trained and on random
ResNet-18, -34 and -50 of 2 to 256 classes: at most 3e-7 in fp32 and 5e-3 in bf16. fp16 has three
bits more than bf16, as has the fp32 of a GPU, which multiplies in TF32. A share, as random
networks have logits of any size.
"""

PROBABILITY = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-2}
"""By precision: how far a probability may be off, however far the logits are.

Measured as above where logits are below 5: at most 2e-6 in fp32 and 2e-3 in bf16.
"""

_DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
_SIZE = 64


def expected_shapes(architecture: str, *, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a single-channel ResNet's tensors by name, but `num_batches_tracked`.

    Args:
        architecture: One of `card.ARCHITECTURES`.
        classes: Number of classes.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def add(convolution: str, norm: str, *, inputs: int, outputs: int, size: int) -> None:
        shapes[f"{convolution}.weight"] = (outputs, inputs, size, size)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (outputs,)

    add("conv1", "bn1", inputs=1, outputs=64, size=7)
    inputs, width = 64, 64
    for stage, depth in enumerate(_DEPTHS[architecture], 1):
        kernels = [(3, width), (3, width)]
        if architecture == "resnet50":
            kernels = [(1, width), (3, width), (1, 4 * width)]
        for block in (f"layer{stage}.{number}" for number in range(depth)):
            first = inputs
            for place, (size, outputs) in enumerate(kernels, 1):
                names = f"{block}.conv{place}", f"{block}.bn{place}"
                add(*names, inputs=inputs, outputs=outputs, size=size)
                inputs = outputs
            if first != inputs:
                names = f"{block}.downsample.0", f"{block}.downsample.1"
                add(*names, inputs=first, outputs=inputs, size=1)
        width *= 2
    return {**shapes, "fc.weight": (classes, inputs), "fc.bias": (classes,)}


def check_tensors(
    tensors: Mapping[str, Tensor],
    *,
    architecture: str,
    classes: int,
    normalisation: Normalisation,
    source: Path,
) -> dict[str, Tensor]:
    """Check that named tensors are the weights of a network that gives finite scores.

    Args:
        tensors: By torchvision's names; `num_batches_tracked` is ignored.
        architecture: One of `card.ARCHITECTURES`.
        classes: Number of classes.
        normalisation: How images are scaled for the network.
        source: The file, for the message.

    Returns:
        Copies of the tensors in float32.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape, not `is_plain`, not finite,
            or holds a negative variance; or `check_network` refuses the network.
    """
    shapes = expected_shapes(architecture, classes=classes)
    given = {name: value for name, value in tensors.items() if "num_batches" not in name}
    checked: dict[str, Tensor] = {}
    problem = None
    for name in sorted(shapes.keys() | given.keys()):
        problem = problem or _mismatch(name, shapes.get(name), given.get(name))
    if problem is None:
        # In float32, as they are computed with: of 64 bits some are infinite in 32.
        # A copy: the file that a tensor may be mapped from can change while it is in use.
        checked = {
            name: given[name].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name in shapes
        }
        faults = (weight_fault(name, value) for name, value in checked.items())
        problem = next((fault for fault in faults if fault), None)
    if problem is not None:
        raise CheckpointError(
            f"the weights in {source} do not fit {architecture} with {classes} classes: "
            f"{problem}; take another file, or copy this one again from where it is whole"
        )
    check_network(checked, normalisation, source=source)
    return checked


def _mismatch(name: str, shape: tuple[int, ...] | None, given: Tensor | None) -> str | None:
    shown = name[:80]
    if shape is None:
        return f"{shown!r} is unknown"
    if given is None:
        return f"{shown!r} is missing"
    if not is_plain(given):
        return f"{shown!r} is not a plain dense tensor of floating point numbers"
    if tuple(given.shape) != shape:
        return f"{shown!r} has shape {tuple(given.shape)}, not {shape}"
    return None


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, in memory, and of floating point numbers of 16 bits or more."""
    usual = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.dtype in usual


def weight_fault(name: str, values: Tensor) -> str | None:
    """Return in one line why values cannot be weights of a network; None where they can.

    Values that are not finite cannot, nor a running variance that is negative.

    Args:
        name: As in a state dict, such as "bn1.running_var".
        values: Floating point numbers of any shape.
    """
    if not values.isfinite().all():
        return f"{name[:80]!r} has values that are not finite"
    if name.endswith("running_var") and (values < 0).any():
        return f"{name[:80]!r} has a variance that is negative"
    return None


def check_images(size: int) -> Images:
    """Return two test images that activate many of a network's filters, the same at each call.

    Args:
        size: Edge of an image, px.

    Returns:
        Shape (2, size, size), uint8. The first is noise. The second is black at the top left, white
        at the top right, and below them a gradient from grey, at half height, to white.
    """
    noise = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, size), (size, size))
    half = size // 2
    quarters = np.concatenate([ramp[:half], ramp.T[half:]])
    quarters[:half, :half], quarters[:half, half:] = 0, 255
    return np.stack([noise, quarters.astype(np.uint8)])


def check_network(
    tensors: Mapping[str, Tensor], normalisation: Normalisation, *, source: object
) -> None:
    """Score two test images by plain PyTorch, and raise an error if an activation is too large.

    Args:
        tensors: The network's weights, float32.
        normalisation: How images are scaled for it.
        source: Where it comes from, for the message.

    Raises:
        CheckpointError: An output of a convolution, a batch norm or the head is not finite, or its
            magnitude is larger than `LARGEST_ACTIVATION`.
    """
    largest: list[Tensor] = []

    def observe(output: Tensor) -> Tensor:
        largest.append(output.abs().amax())
        return output

    def score() -> None:
        score_plainly(layers_of(tensors), check_images(_SIZE), normalisation, observe)

    # One thread: to wait for each other costs several more than this little work.
    with ThreadPoolExecutor(1, "check", torch.set_num_threads, (1,)) as thread:
        thread.submit(score).result()
    # Written so that NaN is refused, too.
    if not all(value.item() <= LARGEST_ACTIVATION for value in largest):
        raise CheckpointError(
            f"the network in {source} gives no finite scores: its weights or its normalisation "
            "are damaged; copy the file again from where it is whole, or take another"
        )


class PlainScores(NamedTuple):
    """Scores of n images by plain PyTorch, on the CPU.

    Attributes:
        logits: Shape (n, classes), float32.
        magnitudes: For each logit, the sum of the magnitudes of its summands; the same shape.
    """

    logits: Tensor
    magnitudes: Tensor


def score_plainly(
    layers: Layers,
    images: Images,
    normalisation: Normalisation,
    observe: Callable[[Tensor], Tensor] = lambda output: output,
) -> PlainScores:
    """Score images in float32 by PyTorch's own operators one after the other, as torchvision does.

    Args:
        layers: The network, float32.
        images: Shape (n, size, size), uint8.
        normalisation: How images are scaled.
        observe: Called with the output of each convolution, of each batch norm and of the head;
            what it returns takes the output's place. By default that is the output itself.

    Returns:
        The logits, and the sums of magnitudes by which rounding is judged.
    """

    def apply(convolution: Convolution, x: Tensor) -> Tensor:
        weight, mean, variance, scale, shift, stride = convolution
        x = observe(conv2d(x, weight, None, stride, convolution.padding))
        return observe(batch_norm(x, mean, variance, scale, shift, eps=EPSILON))

    grey = torch.from_numpy(images)[:, None].double() / 255
    scaled = (grey - normalisation.mean) / normalisation.std
    with torch.inference_mode():
        x = pool_stem(apply(layers.stem, scaled.to(layers.weight)).relu_())
        for block in layers.blocks:
            added = x if block.shortcut is None else apply(block.shortcut, x)
            *first, last = block.convolutions
            for convolution in first:
                x = apply(convolution, x).relu_()
            x = apply(last, x).add_(added).relu_()
        features = x.mean((2, 3))
        logits = observe(linear(features, layers.weight, layers.bias))
        magnitudes = features.abs() @ layers.weight.abs().T + layers.bias.abs()
        return PlainScores(logits.float().cpu(), magnitudes.float().cpu())


class FirstBatchCheck:
    """Compares a network's first scores with those of plain PyTorch, to detect damaged weights.

    The scores are those of a run's own first batch, in the batch's own shape, so that little is
    computed for it: the plain scores of one image of the batch and, where the batch has room, of a
    test image.
    """

    def __init__(self, tensors: Mapping[str, Tensor], card: Card, *, precision: str) -> None:
        """Store the network for plain PyTorch; nothing is computed.

        Args:
            tensors: The network's weights, float32.
            card: Its card.
            precision: One of `ROUNDING`: how the compared network rounds.
        """
        self._layers = layers_of(tensors)
        self._card = card
        self._precision = precision
        self._compared: list[int] = []
        self._refusal: CheckpointError | None = None

    def add_test_image(self, inputs: Images, *, batch_size: int) -> Images:
        """Choose the images to compare, and append a test image to the batch if it has room.

        The image of most contrast is compared, and the test image where there is one.

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.
            batch_size: Images in the batch; where n is as many, there is no test image.

        Returns:
            Shape (n + 1, size, size); `inputs` itself where n is `batch_size`.
        """
        self._compared = [int(inputs.std(axis=(1, 2)).argmax())]
        if len(inputs) == batch_size:
            return inputs
        self._compared.append(len(inputs))
        return np.concatenate([inputs, check_images(inputs.shape[1])[:1]])

    def score_plainly(self, batch: Images) -> PlainScores:
        """Score the images to compare by plain PyTorch.

        Args:
            batch: The result of `add_test_image`.

        Returns:
            The plain scores of one or two images, for `compare`.
        """
        return score_plainly(self._layers, batch[self._compared], self._card.normalisation)

    def compare(self, logits: npt.NDArray[np.float32], plain: PlainScores) -> None:
        """Raise an error unless the network's logits agree with the plain scores.

        Those of the images to compare agree if all logits do within `ROUNDING`, or all
        probabilities within `PROBABILITY`. After one failure every call fails.

        Args:
            logits: The network's logits of the batch, shape (images, classes).
            plain: The result of `score_plainly`.

        Raises:
            CheckpointError: The scores do not agree, or one of them is not finite.
        """
        if self._refusal is None and not self._agree(torch.from_numpy(logits), plain):
            self._refusal = CheckpointError(
                "the scores are not those that the checkpoint gives by plain PyTorch in float32: "
                "its weights are damaged, or need more digits; try --precision fp32, or another "
                "checkpoint"
            )
        if self._refusal is not None:
            raise self._refusal

    def _agree(self, logits: Tensor, plain: PlainScores) -> bool:
        logits = logits[self._compared]
        if not all(values.isfinite().all() for values in (logits, *plain)):
            return False
        near = (logits - plain.logits).abs() <= ROUNDING[self._precision] * plain.magnitudes
        change = self._probabilities(logits) - self._probabilities(plain.logits)
        return bool(near.all() or change.abs().max() <= PROBABILITY[self._precision])

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (logits.double() / self._card.temperature).softmax(dim=1)
