"""torchvision's ResNet with a single-channel stem, giving heat maps in the same forward pass."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cxrbatch.model.heatmaps import class_activation_maps

_LAYERS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
ARCHITECTURES = tuple(_LAYERS)
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


class RadiographResNet(ResNet):
    """ResNet-18, -34 or -50 for greyscale radiographs.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, architecture: str, *, classes: int) -> None:
        """Build with random weights.

        Args:
            architecture: One of `ARCHITECTURES`.
            classes: Number of classes.

        Raises:
            KeyError: The architecture is not known.
        """
        block, layers = _LAYERS[architecture]
        super().__init__(block, layers, num_classes=classes)
        self.architecture = architecture
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Give the last convolutional layer's activations.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Shape (n, k, size / 32, size / 32).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, shape (n, classes), for images of shape (n, 1, size, size)."""
        return cast(Tensor, self.fc(self.features(images).mean((2, 3))))

    def score(self, images: Tensor) -> Scores:
        """Give logits and every class's heat map from one pass through the network.

        The head runs in float32 whatever the precision of the trunk: it is a thousandth of the
        work, and rounding logits to bfloat16 would make equal probabilities out of different ones.

        Args:
            images: Shape (n, 1, size, size), normalised.
        """
        activations = self.features(images)
        with torch.autocast(activations.device.type, enabled=False):
            activations = activations.float()
            logits = self.fc(activations.mean((2, 3)))
            return Scores(logits, class_activation_maps(activations, self.fc.weight))
