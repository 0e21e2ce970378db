"""What an image asks for: the codec's work, and a forward pass."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Network
from cxrbatch.model.lanes import Lanes
from cxrbatch.speed.bare import BareFile, decode_all
from cxrbatch.speed.capacities import available_cores, seconds_of

_MOST_AT_ONCE = 256
_PER_LANE = 2


@dataclass(frozen=True, slots=True)
class Demands:
    """What one image asks for.

    Attributes:
        kinds: Images of the sample by encoding.
        bytes: Of its file.
        decode: Seconds of the codec and a resize, with all cores at work on other images.
        forward: Seconds of the forward pass, in full batches of ready inputs.
        operations: Of the forward pass.
    """

    kinds: dict[str, int]
    bytes: float
    decode: float
    forward: float
    operations: float


def seconds_of_codec(files: Sequence[BareFile], *, size: int, about: float) -> Callable[[], float]:
    """Give what measures the codec's seconds of an image, all cores at work, in `about` seconds."""
    cores = available_cores()

    def decode(count: int) -> float:
        taken = [files[number % len(files)] for number in range(count)]
        start = time.perf_counter()
        decode_all(taken, size=size, threads=cores)
        return (time.perf_counter() - start) / count

    few = 2 * cores
    decode(few)
    enough = min(_MOST_AT_ONCE, max(few, round(about / decode(few))))
    return lambda: decode(enough)


def seconds_of_forward(
    network: Network, batch_size: int, *, size: int, device: torch.device
) -> Callable[[], float]:
    """Give what measures the seconds of an image in full batches that lie ready."""
    batch = torch.randn(batch_size, 1, size, size).to(device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward() -> None:
        network.score(batch)

    def seconds() -> float:
        return seconds_of(forward, device=device) / batch_size

    if device.type != "cpu":
        return seconds
    lanes = Lanes()

    def in_lanes() -> float:
        # Each batch by itself: a run does not wait, as is waited here, for the slower lane.
        begun = [lanes.start(seconds) for _ in range(_PER_LANE * lanes.count)]
        return statistics.fmean(wait() for wait in begun) / lanes.count

    return in_lanes


def operations_of(loaded: Checkpoint, size: int) -> float:
    """Multiplications and additions of the convolutions, which are nearly all there are."""
    counts = []

    def count(convolution: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        counts.append(2 * output.numel() * convolution.weight[0].numel())

    convolutions = [m for m in loaded.model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [convolution.register_forward_hook(count) for convolution in convolutions]
    with torch.inference_mode():
        loaded.model(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    return float(sum(counts))
