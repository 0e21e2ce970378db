"""The U-Net that finds lungs: one grey channel in, one logit per pixel out.

The network of a file has convolutions with biases and nothing else: batch norms, which only
training needs, are folded into them by `without_norms`. Weights come from a safetensors file with a
card, and are checked as those of a checkpoint are.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrbatch.errors import CheckpointError
from cxrbatch.files import disk_errors, written_whole
from cxrbatch.lungs.lung_card import LUNG_CARD_KEY, LungCard
from cxrbatch.lungs.shape import Probability
from cxrbatch.model.checkpoint import opened_safetensors
from cxrbatch.model.soundness import check_images, is_plain

MOST_WEIGHTS_BYTES = 1 << 20
"""Most bytes of a file of weights: 1 MiB, twice what they take."""

WIDTHS = (16, 24, 32, 40, 56)
"""Channels at each of the five resolutions, the input's first; each is half of the one before."""


class LungUNet(nn.Module):
    """A U-Net of five resolutions with two convolutions of 3 x 3 pixels at each, down and up.

    Down, the resolution is halved by the largest value of 2 x 2 pixels; up, each pixel becomes
    2 x 2 pixels, which are joined with the channels of the way down.

    Source: O. Ronneberger, P. Fischer and T. Brox, "U-Net", MICCAI 2015.
    """

    def __init__(self, *, normed: bool = False) -> None:
        """Build the network with random weights.

        Args:
            normed: Whether a batch norm follows each convolution, as in training.
        """
        super().__init__()
        sources = (1, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            _pair(source, width, normed) for source, width in zip(sources, WIDTHS, strict=True)
        )
        self.up = nn.ModuleList(
            _pair(low + high, high, normed)
            for high, low in zip(WIDTHS[-2::-1], WIDTHS[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of lung at each pixel.

        Args:
            images: Shape (n, 1, size, size), from `standardised`; the size is a multiple of 16.

        Returns:
            The same shape.
        """
        kept: list[Tensor] = []
        x = images
        for stage in self.down:
            x = stage(nn.functional.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        kept.pop()
        for stage in self.up:
            grown = interpolate(x, scale_factor=2, mode="nearest")
            x = stage(torch.cat([grown, kept.pop()], dim=1))
        return cast(Tensor, self.head(x))


def _pair(source: int, width: int, normed: bool) -> nn.Sequential:
    """Two convolutions with ReLU, named alike with and without their batch norms."""
    pair = nn.Sequential()
    for number, inputs in enumerate((source, width), 1):
        pair.add_module(f"conv{number}", nn.Conv2d(inputs, width, 3, padding=1, bias=not normed))
        if normed:
            pair.add_module(f"norm{number}", nn.BatchNorm2d(width))
        pair.add_module(f"relu{number}", nn.ReLU(inplace=True))
    return pair


def without_norms(trained: LungUNet) -> LungUNet:
    """Return a network without batch norms that computes what `trained` computes in evaluation.

    Args:
        trained: A network with batch norms; it is not changed.
    """
    plain = LungUNet().eval()
    for pair, target in zip(
        [*trained.down, *trained.up],
        [*plain.down, *plain.up],
        strict=True,
    ):
        for number in (1, 2):
            convolution = pair.get_submodule(f"conv{number}")
            norm = pair.get_submodule(f"norm{number}")
            fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
            target.get_submodule(f"conv{number}").load_state_dict(fused.state_dict())
    plain.head.load_state_dict(trained.head.state_dict())
    return plain


def standardised(images: npt.NDArray[np.uint8]) -> Tensor:
    """Return the network's float input: each image less its mean, over its standard deviation.

    So the result does not depend on brightness and contrast. A deviation below one grey level
    counts as one.

    Args:
        images: Shape (n, size, size), uint8.

    Returns:
        Shape (n, 1, size, size), float32, channels last.
    """
    levels = images.astype(np.float64)
    mean = levels.mean(axis=(1, 2), keepdims=True)
    spread = np.maximum(levels.std(axis=(1, 2), keepdims=True), 1.0)
    scaled = torch.from_numpy(((levels - mean) / spread).astype(np.float32))
    return scaled[:, None].contiguous(memory_format=torch.channels_last)


def lung_probability(network: LungUNet, prepared: npt.NDArray[np.uint8]) -> Probability:
    """Return the probability of lung at each pixel of one image, on the CPU.

    It is the mean over the image and its mirror image: on films unlike those of the training, masks
    of the mean seldom spill over the lungs where those of one image do. Both are computed together,
    and every forward pass has this one shape, so that a mask does not depend on what else is
    computed.

    Args:
        network: A network without batch norms, in evaluation.
        prepared: Shape (size, size), uint8; the size is a multiple of 16.

    Returns:
        The same shape, float32, in [0, 1].
    """
    pair = np.stack([prepared, prepared[:, ::-1]])
    with torch.inference_mode():
        plain, mirrored = network(standardised(pair)).sigmoid()[:, 0].numpy()
    probability: Probability = (plain + mirrored[:, ::-1]) / 2
    return probability


class LungWeights(NamedTuple):
    """A file of weights, read and checked.

    Attributes:
        card: Its card.
        tensors: By the names of `LungUNet().state_dict()`, float32.
    """

    card: LungCard
    tensors: Mapping[str, Tensor]

    def network(self) -> LungUNet:
        """Build the network for inference."""
        network = LungUNet()
        network.load_state_dict(dict(self.tensors))
        return network.eval().to(memory_format=torch.channels_last)


def bundled_lung_weights() -> Path:
    """Return the path of the weights that are installed with the package."""
    return Path(str(resources.files("cxrbatch.lungs") / "weights" / "lungs.safetensors"))


def read_lung_weights(path: Path) -> LungWeights:
    """Read a file of weights with its card, and check them; a test image is passed through.

    Raises:
        CheckpointError: The file cannot be read, is larger than `MOST_WEIGHTS_BYTES` or no
            safetensors file, has no valid card, its tensors are not those of `LungUNet`, or they
            or the network's output for the test image are not finite.
    """
    if path.is_file() and path.stat().st_size > MOST_WEIGHTS_BYTES:
        raise _refusal(path, f"it is larger than {MOST_WEIGHTS_BYTES:,} bytes")
    with opened_safetensors(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if LUNG_CARD_KEY not in metadata:
            raise _refusal(path, "it has no card of a lung finder")
        card = LungCard.from_json(metadata[LUNG_CARD_KEY])
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    shapes = {name: tuple(value.shape) for name, value in LungUNet().state_dict().items()}
    for name in sorted(shapes.keys() | tensors.keys()):
        _check_tensor(name, shapes.get(name), tensors.get(name), path)
    # A copy: the file that a tensor may be mapped from can change while it is in use.
    checked = {name: tensors[name].to(torch.float32, copy=True) for name in shapes}
    weights = LungWeights(card, checked)
    with torch.inference_mode():
        logits = weights.network()(standardised(check_images(card.recipe.size)))
    if not logits.isfinite().all():
        raise _refusal(path, "the network's output is not finite")
    return weights


def write_lung_weights(path: Path, network: LungUNet, card: LungCard) -> None:
    """Write weights in float16 with their card, whole or not at all; a file is replaced.

    Args:
        path: The file.
        network: A network without batch norms.
        card: Its card.

    Raises:
        CheckpointError: The file cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    content = save(tensors, metadata={LUNG_CARD_KEY: card.to_json()})
    action = f"cannot write weights {path}"
    with (
        disk_errors(action, full="free space, then run again", error=CheckpointError),
        written_whole(path) as file,
    ):
        file.write(content)


def _check_tensor(
    name: str, shape: tuple[int, ...] | None, given: Tensor | None, path: Path
) -> None:
    """Raise an error unless a tensor is known, there, plain, of its shape and finite."""
    shown_name = name[:80]
    if shape is None:
        raise _refusal(path, f"{shown_name!r} is unknown")
    if given is None:
        raise _refusal(path, f"{shown_name!r} is missing")
    if not is_plain(given):
        raise _refusal(path, f"{shown_name!r} is not a plain tensor of floating point numbers")
    if tuple(given.shape) != shape:
        raise _refusal(path, f"{shown_name!r} has shape {tuple(given.shape)}, not {shape}")
    if not given.to(torch.float32).isfinite().all():
        raise _refusal(path, f"{shown_name!r} has values that are not finite")


def _refusal(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds no weights of a lung finder: {reason}; install cxrbatch again, or take a "
        "whole file"
    )
