"""Several processes that train one model, as `torchrun` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cxrbatch.errors import CxrbatchError, UsageError

# A process that dies is noticed at once; this is for one that hangs, or a network that is cut.
# The others wait so long at most while the first reads or evaluates.
_LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one training.

    Attributes:
        rank: Of this process; the first one, 0, alone prints, writes and evaluates.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """Which images of a batch are this process's.

        Raises:
            UsageError: They cannot be shared equally.
        """
        if batch_size % self.size or batch_size // self.size < 2:
            raise UsageError(
                f"--batch-size {batch_size} is for all {self.size} processes together; "
                f"choose a multiple of {self.size} that gives each at least two images"
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes; all of them must call it."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def from_first(self, values: Tensor) -> Tensor:
        """Give all processes what the first one has; all of them must call it."""
        if self.size > 1:
            dist.broadcast(values, 0)
        return values

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """A module whose gradients are averaged over the processes."""
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process through a block before the others, who find what it made."""
        if not self.leads:
            dist.barrier()
        yield
        if self.leads and self.size > 1:
            dist.barrier()


ALONE = World()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, where there are several; a CPU is shared."""
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the other processes, where `torchrun` says that there are any.

    Raises:
        CxrbatchError: Another process ended or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
        yield World(dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
    except RuntimeError as error:
        # gloo raises plain ones, with nothing but its name in the text to know them by.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise CxrbatchError(
                "another process of this training ended; see what it says, then go on with --resume"
            ) from None
        raise
