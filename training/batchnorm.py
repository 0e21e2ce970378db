"""Batch norm over the batch of all processes; torch's own refuses tensors on a CPU."""

import copy
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cxrbatch.model.resnet import RadiographResNet


def with_shared_statistics(model: RadiographResNet, device: torch.device) -> RadiographResNet:
    """Copy a network into one whose batch statistics are those of all processes.

    Parameters and buffers keep their names, so that a state dict of one fits the other.
    """
    copied = copy.deepcopy(model)
    if device.type == "cuda":
        return cast(RadiographResNet, nn.SyncBatchNorm.convert_sync_batchnorm(copied))
    _replace(copied)
    return copied


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of the batches of all processes together.

    All processes must have batches of one size.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise shape (n, channels, h, w)."""
        if not self.training:
            return super().forward(images)
        values = images if images.dtype == torch.float64 else images.float()
        own = torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])
        # A sum of slots that are zero but one gathers, and its gradient is a sum again.
        none = torch.zeros_like(own)
        slots = [own if r == dist.get_rank() else none for r in range(dist.get_world_size())]
        means, variances = _Total.apply(torch.stack(slots)).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        self._remember(mean, variance, images.numel() // len(mean) * len(means))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normalised = values * scale[:, None, None] + shift[:, None, None]
        return cast(Tensor, normalised.to(images.dtype))

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), momentum)


class _Total(torch.autograd.Function):
    """The sum over all processes; torch.distributed.nn has one that is deprecated."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
            shared.to(child.weight.device, child.weight.dtype)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            _replace(child)
