"""The architecture: torchvision's ResNet with a stem for one grey channel.

Training, `models import` and `--init` use it, and tests compare the scoring form with it. What
scores on a CPU (`fused.py`) does not import this module.
"""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from cxrbatch.model.card import Card, check_architecture
from cxrbatch.model.fused import Scores, score_features

_STAGES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class RadiographResNet(ResNet):
    """ResNet-18, -34 or -50 for greyscale radiographs, which computes heat maps in the same pass.

    It is torchvision's network with a first convolution for one channel.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, architecture: str, *, classes: int) -> None:
        """Build the network with random weights, as He et al. draw them (ICCV 2015).

        Args:
            architecture: One of `card.ARCHITECTURES`.
            classes: Number of classes.

        Raises:
            KeyError: The architecture is not known.
        """
        super().__init__(*_STAGES[architecture], num_classes=classes)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Compute the last convolutional layer's activations.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Shape (n, k, h, w); h and w are size / 32, rounded up.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def score(self, images: Tensor) -> Scores:
        """Compute logits and every class's heat map in one pass.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Logits, shape (n, classes), and heat maps, shape (n, classes, h, w), not negative; both
            float32.
        """
        return score_features(self.features(images), self.fc.weight, self.fc.bias)


def build_model(card: Card) -> RadiographResNet:
    """Build a network of a card's architecture and number of classes, with random weights.

    Raises:
        CheckpointError: The architecture is unknown.
    """
    check_architecture(card.architecture)
    return RadiographResNet(card.architecture, classes=len(card.classes))


def model_of(tensors: Mapping[str, Tensor], architecture: str) -> RadiographResNet:
    """Build a network in evaluation mode that shares its weights' memory with `tensors`.

    Args:
        tensors: The weights by torchvision's names, as `soundness.check_tensors` returns them.
        architecture: One of `card.ARCHITECTURES`.
    """
    model = RadiographResNet(architecture, classes=len(tensors["fc.bias"]))
    # num_batches_tracked is not among them: it matters for a momentum that is not used.
    model.load_state_dict(tensors, strict=False, assign=True)
    return cast(RadiographResNet, model.eval())
