"""Grad-CAM for a network that ends in global average pooling and one linear layer.

There the logit of class c is y_c = b_c + sum_k W[c,k] * mean_ij A[k,i,j], so its gradient with
respect to every A[k,i,j] is the constant W[c,k] / (h * w) and Grad-CAM has the closed form
relu(sum_k W[c,k] * A[k]) / (h * w): no backward pass, all classes from one small matrix product.

Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2; Zhou et al., "Learning Deep
Features for Discriminative Localization", CVPR 2016.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import conv2d

LEVELS = 255


class QuantisedHeatmaps(NamedTuple):
    """Heat maps as they are stored.

    Attributes:
        levels: Shape (n, classes, h, w), uint8.
        scale: Shape (n,), float32; a heat map is levels * scale / 255.
    """

    levels: Tensor
    scale: Tensor


def class_activation_maps(activations: Tensor, weight: Tensor) -> Tensor:
    """Compute Grad-CAM of every class in closed form.

    Args:
        activations: Output of the last convolutional layer, shape (n, k, h, w).
        weight: Weight of the linear head, shape (classes, k).

    Returns:
        Shape (n, classes, h, w), not negative.
    """
    height, width = activations.shape[-2:]
    return conv2d(activations, weight[:, :, None, None]).relu() / (height * width)


def quantise(heatmaps: Tensor) -> QuantisedHeatmaps:
    """Round heat maps to 256 levels of the image's largest value over all classes.

    One scale per image keeps the classes of an image comparable with each other.

    Args:
        heatmaps: Shape (n, classes, h, w), not negative, float32.
    """
    scale = heatmaps.amax(dim=(1, 2, 3))
    # An image without any activation has scale 0; its levels are 0 whatever they are divided by.
    divisor = scale.clamp(min=1e-30)[:, None, None, None]
    levels = (heatmaps * (LEVELS / divisor)).round().byte()
    return QuantisedHeatmaps(levels, scale)


def dequantise(
    stored: bytes, *, scale: float, classes: int, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Rebuild an image's heat maps from the table.

    Args:
        stored: The `heatmaps` column, classes * h * w bytes.
        scale: The `heatmap_scale` column.
        classes: Number of classes.
        size: (h, w) of one map.

    Returns:
        Shape (classes, h, w), float32, within scale / 510 of the maps that were stored.
    """
    levels = np.frombuffer(stored, dtype=np.uint8).reshape(classes, *size)
    return levels.astype(np.float32) * np.float32(scale / LEVELS)
