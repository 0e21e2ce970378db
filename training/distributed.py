"""Several processes that train one network, as `torchrun` starts them."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.network import RadiographResNet

# A process that dies is noticed at once; this is for one that hangs, or a network that is cut.
# It is also the longest time that the first process may read or evaluate while the others wait.
_LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """The processes that train one network together, as one of them sees them.

    Attributes:
        rank: Number of this process, from 0; process 0 alone prints, writes and evaluates.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which alone prints, writes and evaluates."""
        return self.rank == 0

    def part_size(self, batch_size: int) -> int:
        """Return how many images of a batch each process gets.

        Args:
            batch_size: Images of the batch, over all processes.

        Raises:
            UsageError: The batch cannot be divided equally, or each would get fewer than two.
        """
        if batch_size % self.size or batch_size // self.size < 2:
            raise UsageError(
                f"--batch-size {batch_size} is for all {self.size} processes together; "
                f"choose a multiple of {self.size} that gives each at least two images"
            )
        return batch_size // self.size

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes, element by element.

        All processes must call this, with tensors of one shape: each waits for the others.
        `values` itself is not changed.
        """
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def from_first(self, values: Tensor) -> Tensor:
        """Return the tensor of process 0 in every process.

        All processes must call this, with tensors of one shape: each waits for the others.

        Args:
            values: The tensor to send in process 0; overwritten in place in the other processes.
        """
        if self.size > 1:
            dist.broadcast(values, 0)
        return values

    def with_averaged_gradients(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a network so that `backward` averages its gradients over the processes.

        Args:
            model: The network, on `device`.
            device: The GPU of this process, or the CPU.

        Returns:
            The wrapped network, with the same weights; `model` itself for a single process.
        """
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the block in process 0 first, and in the others when process 0 has left it.

        So the others find the files that process 0 wrote; they run it at the same time. If it
        raises in process 0, the others wait until that process ends, and then fail with
        RuntimeError, which `process_group` turns into CxrbatchError. A single process only runs it.
        """
        if not self.leads:
            dist.barrier()
        yield
        if self.leads and self.size > 1:
            dist.barrier()


ALONE = ProcessGroup()
"""The group of a training in a single process."""


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of this process if `torchrun` started several processes.

    "cuda" becomes "cuda:<LOCAL_RANK>". Without that environment variable, and for a CPU or a GPU
    that is given by its number, `device` is returned as it is.
    """
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes that `torchrun` started, for the time of the block.

    Args:
        device: The device of this process: GPUs talk by NCCL, CPUs by gloo.

    Yields:
        The group; `ALONE` if WORLD_SIZE is 1 or is not set.

    Raises:
        CxrbatchError: Another process ended or cannot be reached, also if that is noticed in the
            block.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors; only its name in the text tells them from others.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise CxrbatchError(
                "another process of this training ended; see what it says, then go on with --resume"
            ) from None
        raise


def with_shared_batch_norm(model: RadiographResNet, device: torch.device) -> RadiographResNet:
    """Copy a network and replace its batch norms by some over the batches of all processes.

    Parameters and buffers keep their names, so that a state dict of the network fits the copy.

    Args:
        model: The network, which is not changed.
        device: With a GPU the copy has PyTorch's SyncBatchNorm, else `SharedBatchNorm`.
    """
    copied = copy.deepcopy(model)
    if device.type == "cuda":
        return cast(RadiographResNet, nn.SyncBatchNorm.convert_sync_batchnorm(copied))
    for name, module in list(copied.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            shared = SharedBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
            shared.to(module.weight.device, module.weight.dtype)
            shared.load_state_dict(module.state_dict())
            copied.set_submodule(name, shared)
    return copied


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes together, on a CPU.

    `torch.nn.SyncBatchNorm` does the same on GPUs only. All processes must have batches of one
    size.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise each channel of this process's batch.

        In training mode mean and variance are those of the batches of all processes, which must
        all call this; the running statistics are updated. In evaluation mode the running
        statistics are used.

        Args:
            images: Shape (n, channels, h, w).

        Returns:
            The same shape and dtype.
        """
        if not self.training:
            return super().forward(images)
        values = images if images.dtype == torch.float64 else images.float()
        own = torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])
        # Each process fills its own slot; the sum gathers them, and its gradient is a sum again.
        zeros = torch.zeros_like(own)
        slots = [own if r == dist.get_rank() else zeros for r in range(dist.get_world_size())]
        means, variances = _Total.apply(torch.stack(slots)).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        self._update_statistics(mean, variance, images.numel() // len(mean) * len(means))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normalised = values * scale[:, None, None] + shift[:, None, None]
        return cast(Tensor, normalised.to(images.dtype))

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), momentum)


class _Total(torch.autograd.Function):
    """Sum over all processes, with its gradient; that of torch.distributed.nn is deprecated."""

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
