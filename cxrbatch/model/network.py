"""ResNet with a single-channel stem, giving heat maps in the same forward pass.

Names of layers and parameters are torchvision's, so that its state dicts fit. It is not taken from
there, as importing torchvision takes longer than importing torch: seconds before every first image.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cxrbatch.model.overlays import LEVELS


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


_WIDTHS = (64, 128, 256, 512)
_BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
_WITH_BOTTLENECKS = frozenset({"resnet50"})
ARCHITECTURES = tuple(_BLOCKS)
STRIDE = 32
"""Input pixels per heat map cell along each axis."""


class Scores(NamedTuple):
    """What one forward pass gives for a batch of n images and c classes.

    Attributes:
        logits: Shape (n, c), float32.
        heatmaps: Shape (n, c, h, w), float32, not negative; 7 x 7 for 224 px.
    """

    logits: Tensor
    heatmaps: Tensor


class Block(nn.Module):
    """A residual block: its input, or a 1 x 1 convolution of it, is added to what it computes.

    Attributes:
        downsample: That convolution and its batch norm, where the shape changes.
    """

    downsample: nn.Sequential | None

    def convolutions(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Give the convolutions in their order, each with its batch norm."""
        pairs = []
        for number in (1, 2, 3):
            if hasattr(self, f"conv{number}"):
                pairs.append((getattr(self, f"conv{number}"), getattr(self, f"bn{number}")))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """Give shape (n, outputs, h / stride, w / stride) for shape (n, inputs, h, w)."""
        *first, (last_convolution, last_norm) = self.convolutions()
        y = x
        for convolution, norm in first:
            y = norm(convolution(y)).relu_()
        y = last_norm(last_convolution(y))
        y += x if self.downsample is None else self.downsample(x)
        return cast(Tensor, y.relu_())


class _BasicBlock(Block):
    """Two 3 x 3 convolutions."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, size=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, size=3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride=stride)


class _Bottleneck(Block):
    """A 3 x 3 convolution between two of 1 x 1; the stride is at the 3 x 3, as in torchvision."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, size=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, 4 * width, size=1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride=stride)


class RadiographResNet(nn.Module):
    """ResNet-18, -34 or -50 for greyscale radiographs.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, architecture: str, *, classes: int) -> None:
        """Build with random weights, as He et al. draw them (ICCV 2015).

        Args:
            architecture: One of `ARCHITECTURES`.
            classes: Number of classes.

        Raises:
            KeyError: The architecture is not known.
        """
        super().__init__()
        blocks = _BLOCKS[architecture]
        bottlenecks = architecture in _WITH_BOTTLENECKS
        block, expansion = (_Bottleneck, 4) if bottlenecks else (_BasicBlock, 1)
        self.architecture = architecture
        self.conv1 = _convolution(1, _WIDTHS[0], size=7, stride=2)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        inputs = _WIDTHS[0]
        layers: list[nn.Sequential] = []
        for width, count in zip(_WIDTHS, blocks, strict=True):
            layer = [block(inputs, width, stride=2 if layers else 1)]
            inputs = width * expansion
            layer += [block(inputs, width, stride=1) for _ in range(count - 1)]
            layers.append(nn.Sequential(*layer))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[Block]:
        """Give the residual blocks in their order."""
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [cast(Block, block) for layer in layers for block in layer]

    def features(self, images: Tensor) -> Tensor:
        """Give the last convolutional layer's activations.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Shape (n, k, size / 32, size / 32).
        """
        x = pool_stem(self.bn1(self.conv1(images)).relu_())
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, shape (n, classes), for images of shape (n, 1, size, size)."""
        return cast(Tensor, self.fc(self.features(images).mean((2, 3))))

    def score(self, images: Tensor) -> Scores:
        """Give logits and every class's heat map from one pass through the network.

        Args:
            images: Shape (n, 1, size, size), normalised.
        """
        return score_features(self.features(images), self.fc)


def pool_stem(x: Tensor) -> Tensor:
    """Halve the activations of the stem along each axis by the maximum of 3 x 3."""
    return nn.functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def score_features(activations: Tensor, head: nn.Linear) -> Scores:
    """Give logits and heat maps of the last convolutional layer's activations.

    The head runs in float32 whatever the precision of the trunk: it is a thousandth of the work,
    and rounding logits to bfloat16 would make equal probabilities out of different ones.

    Args:
        activations: Shape (n, k, h, w).
        head: The linear layer, k to classes.
    """
    with torch.autocast(activations.device.type, enabled=False):
        activations = activations.float()
        logits = head(activations.mean((2, 3)))
        return Scores(logits, class_activation_maps(activations, head.weight))


def _convolution(inputs: int, outputs: int, *, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, *, stride: int) -> nn.Sequential | None:
    if inputs == outputs and stride == 1:
        return None
    convolution = _convolution(inputs, outputs, size=1, stride=stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
