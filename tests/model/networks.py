"""Networks for the tests of this folder."""

import torch
from torch import nn

from cxrbatch.model.fused import Layers, layers_of
from cxrbatch.model.network import RadiographResNet


def trained(architecture: str) -> RadiographResNet:
    """A network whose batch norms do something."""
    torch.manual_seed(4)
    model = RadiographResNet(architecture, classes=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(3):
        model(torch.randn(8, 1, 64, 64))
    return model.eval()


def layers(model: RadiographResNet) -> Layers:
    """The network's tensors, in the same memory."""
    return layers_of(model.state_dict())
