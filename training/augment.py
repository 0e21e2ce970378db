"""Random changes of training images: position, scale, focus, grey levels, noise; and mixup.

Images are mirrored only where asked. The changes are transforms of torchvision, one image at a
time. As long as grey levels are whole numbers they are Pillow's, which for such small images takes
half the time of the same transforms on tensors.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms import InterpolationMode, v2

ROTATION = 15.0
"""Largest rotation to either side, degrees."""
SHIFT = 0.05
"""Largest shift in each direction, as a share of the image's edge."""
SCALE = (0.85, 1.17)
"""Range of the scale."""
JPEG_QUALITY = (30, 95)
"""Range of the quality at which half of the images are encoded anew as JPEG and decoded."""
BLUR = (0.1, 1.0)
"""Range of the standard deviation of the Gaussian blur that half of the images get, pixels."""
GAMMA = (0.67, 1.5)
"""Range of the exponent of the grey levels, log-uniform."""
BRIGHTNESS = 0.15
"""Largest relative change of all grey levels."""
CONTRAST = 0.35
"""Largest relative change of the distance from the image's mean grey level."""
NOISE = 0.02
"""Standard deviation of the noise, where grey levels are in [0, 1]."""


class RandomGamma(v2.Transform):
    """Raise grey levels in [0, 1] to a random power; torchvision has only one for a given power."""

    def __init__(self, low: float, high: float) -> None:
        """Set the smallest and the largest power; logarithms of powers are uniform between."""
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, float]:
        """Draw a power from `low` to `high` with torch's global generator, for one image.

        The transform calls this at each call of its own. The logarithm of the power is uniform.

        Args:
            flat_inputs: Not used.

        Returns:
            {"gamma": the power}.
        """
        exponent = torch.empty(()).uniform_(math.log(self.low), math.log(self.high))
        return {"gamma": math.exp(exponent)}

    def transform(self, inpt: Tensor, params: dict[str, float]) -> Tensor:
        """Raise grey levels to the power that `make_params` drew; torchvision calls this.

        Args:
            inpt: Grey levels in [0, 1], of any shape that torchvision takes for an image.
            params: {"gamma": the power}.

        Returns:
            The same shape, in [0, 1].
        """
        changed: Tensor = v2.functional.adjust_gamma(inpt, **params)
        return changed


class RandomJpeg(v2.Transform):
    """Encode an image as JPEG of a random quality and decode it; torchvision gives up its own."""

    def __init__(self, low: int, high: int) -> None:
        """Set the lowest and the highest quality, on libjpeg's scale from 1 to 100."""
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, int]:
        """Draw a quality from `low` to `high` with torch's global generator, for one image.

        Args:
            flat_inputs: Not used.

        Returns:
            {"quality": the quality}.
        """
        return {"quality": int(torch.randint(self.low, self.high + 1, ()))}

    def transform(self, inpt: Image.Image, params: dict[str, int]) -> Image.Image:
        """Encode and decode a picture at the quality that `make_params` drew.

        Args:
            inpt: A picture of Pillow's mode "L".
            params: {"quality": the quality}.

        Returns:
            A picture of the same size and mode.
        """
        file = io.BytesIO()
        inpt.save(file, "JPEG", **params)
        decoded = Image.open(file)
        decoded.load()
        return decoded


class RandomBlur(v2.Transform):
    """Blur a picture by a Gaussian of random width, as Pillow approximates it."""

    def __init__(self, low: float, high: float) -> None:
        """Set the smallest and the largest standard deviation, pixels; it is uniform between."""
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, float]:
        """Draw a standard deviation from `low` to `high` with torch's global generator.

        Args:
            flat_inputs: Not used.

        Returns:
            {"radius": the standard deviation, pixels}.
        """
        return {"radius": float(torch.empty(()).uniform_(self.low, self.high))}

    def transform(self, inpt: Image.Image, params: dict[str, float]) -> Image.Image:
        """Blur a picture by the Gaussian that `make_params` drew.

        Args:
            inpt: A picture of Pillow's mode "L".
            params: {"radius": the standard deviation, pixels}.

        Returns:
            A picture of the same size and mode.
        """
        return inpt.filter(ImageFilter.GaussianBlur(**params))


def augmentation(*, flip: bool) -> v2.Compose:
    """Build the transform that changes a training image at random.

    In this order it mirrors (only with `flip`, with a chance of one half), encodes as JPEG and
    decodes (with a chance of one half), rotates, shifts and scales (black comes in from outside),
    blurs (with a chance of one half), changes gamma, then brightness and contrast in random order,
    and adds noise. JPEG, blur and noise keep a network from telling collections apart by how their
    files were once encoded. All randomness comes from torch's global generator.

    Args:
        flip: Whether images are mirrored, too.

    Returns:
        A transform from shape (1, size, size), uint8, to the same shape, float32 in [0, 1].
    """
    return v2.Compose(
        [
            v2.ToPILImage(),
            *([v2.RandomHorizontalFlip()] if flip else []),
            v2.RandomApply([RandomJpeg(*JPEG_QUALITY)]),
            v2.RandomAffine(
                ROTATION, (SHIFT, SHIFT), SCALE, interpolation=InterpolationMode.BILINEAR
            ),
            v2.RandomApply([RandomBlur(*BLUR)]),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            RandomGamma(*GAMMA),
            v2.ColorJitter(brightness=BRIGHTNESS, contrast=CONTRAST),
            v2.GaussianNoise(sigma=NOISE),
        ]
    )


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Save the state of torch's global generator on the CPU, and restore it when the block ends."""
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def draw_shares(count: int, *, generator: torch.Generator) -> Tensor:
    """Draw the weight of each image when it is mixed with its partner (mixup).

    `torchvision.transforms.v2.MixUp` pairs images across the whole batch with one weight: two
    processes with half a batch each would then train on other images than one process.

    Args:
        count: Images in the batch.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), in [0, 1], of the Beta(1/2, 1/2) distribution, whose mass is at the ends;
        one value for both of a pair.
    """
    angles = torch.rand(-(-count // 2), generator=generator) * (math.pi / 2.0)
    return angles.sin().square().repeat_interleave(2)[:count]


def mix(images: Tensor, shares: Tensor) -> Tensor:
    """Mix each image with its partner (mixup): share x image + (1 - share) x partner.

    Images 0 and 1 are partners, 2 and 3, and so on; a last one without a partner is not changed.

    Args:
        images: Shape (n, 1, size, size).
        shares: Shape (n,), in [0, 1], on any device; from `draw_shares`.

    Returns:
        The mixed images, of the same shape; `images` is not changed.
    """
    own = shares.to(images)[:, None, None, None]
    return images[_partners(images)].lerp(images, own)


def mixed_cross_entropy(
    logits: Tensor,
    truth: Tensor,
    shares: Tensor,
    *,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss of mixed images: the cross entropy with both labels, weighted by share.

    The cross entropy with a label is multiplied by the weight of the label's class, all of it:
    that of `torch.nn.CrossEntropyLoss` weights the part of label smoothing by the other classes.

    Args:
        logits: Of the mixed images, shape (n, classes).
        truth: Shape (n,), class indices of the images before mixing.
        shares: Shape (n,), as given to `mix`: the weight of an image's own label; its partner's
            label has the rest.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1].
        class_weights: Weight of each class, shape (classes,); None for 1.

    Returns:
        The mean over the images, a scalar; it is not divided by the weights of the batch, so that
        the mean over batches is that over all images.
    """
    own, other = (
        cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        for labels in (truth, truth[_partners(truth)])
    )
    if class_weights is not None:
        weights = class_weights.to(logits)[truth]
        own, other = own * weights, other * weights[_partners(truth)]
    return other.lerp(own, shares.to(logits)).mean()


def mixed_weights(class_weights: Tensor, truth: Tensor, shares: Tensor) -> Tensor:
    """Return the weight of each mixed image: those of both classes, weighted by share.

    Args:
        class_weights: Weight of each class, shape (classes,).
        truth: Shape (n,), class indices of the images before mixing.
        shares: Shape (n,), as given to `mix`.

    Returns:
        Shape (n,), of the dtype of `class_weights`.
    """
    weights = class_weights[truth]
    return weights[_partners(truth)].lerp(weights, shares.to(weights))


def _partners(values: Tensor) -> Tensor:
    """Neighbours of the first axis are partners; a last one that has none is its own."""
    return (torch.arange(len(values), device=values.device) ^ 1).clamp(max=len(values) - 1)
