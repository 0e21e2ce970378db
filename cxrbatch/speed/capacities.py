"""What a machine can do at most: multiply, read from its disk, copy to its GPU."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import DTYPES, Lanes, choose_precision
from cxrbatch.model.predictor import Network
from cxrbatch.speed.bare import BareFile, decode_all

_GEMM_EDGE = {"cpu": 1536, "cuda": 8192}
_COPY_BYTES = 1 << 28
_READ_BYTES = 1 << 27
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Capacities:
    """Rates of a machine.

    Attributes:
        cores: That this process may run on.
        gemm: Operations per second of a large matrix product, by precision.
        disk: Bytes per second of files read one after the other, not from memory; None where the
            system would not let go of what it has in memory.
        copy: Bytes per second from pinned memory to the GPU; None without a GPU.
    """

    cores: int
    gemm: dict[str, float]
    disk: float | None
    copy: float | None


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def seconds_of(work: Callable[[], object], *, device: torch.device) -> float:
    """Seconds of one call, to the end of what it set off on the device."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def native_precisions(device: torch.device) -> list[str]:
    """Those that the device computes in natively."""
    bf16 = ["bf16"] if choose_precision("auto", device) == "bf16" else []
    return ["fp32", *bf16, *(["fp16"] if device.type == "cuda" else [])]


def seconds_per_operation(precision: str, device: torch.device) -> Callable[[], float]:
    """Give what measures one multiplication or addition of a large matrix product."""
    edge = _GEMM_EDGE[device.type]
    a = torch.randn(edge, edge).to(device, DTYPES[precision])
    out = torch.empty_like(a)

    def measure() -> float:
        seconds = seconds_of(lambda: torch.mm(a, a, out=out), device=device)
        return seconds / (2 * edge**3)

    return measure


def seconds_per_byte_copied(device: torch.device) -> Callable[[], float]:
    """Give what measures the way of one byte from pinned memory to a GPU."""
    host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device)
    return lambda: seconds_of(lambda: there.copy_(host), device=device) / _COPY_BYTES


def disk_rate(files: Sequence[Path]) -> float | None:
    """Bytes per second of files after the system was asked to forget what it has of them.

    None where it would not.
    """
    taken, seconds, was_forgotten = 0, 0.0, False
    block = bytearray(_BLOCK_BYTES)
    for path in dict.fromkeys(files):
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            before = _blocks_read()
            start = time.perf_counter()
            while count := file.readinto(block):
                taken += count
            seconds += time.perf_counter() - start
            was_forgotten |= _blocks_read() > before
        if taken > _READ_BYTES:
            break
    return taken / seconds if was_forgotten and seconds else None


def _blocks_read() -> int:
    """Bytes that this process has had fetched from a disk, as of proc_pid_io(5)."""
    try:
        with open("/proc/self/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return 0


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


class Rounds:
    """What is measured again and again, in rounds that may lie apart."""

    def __init__(self, measures: Mapping[str, Callable[[], float]], *, seconds: float) -> None:
        """Warm up.

        Args:
            measures: By name, what does something once and gives what is to be known of it.
            seconds: That each of them gets in a round; each is called once at least.
        """
        self._measures = measures
        self._seconds = seconds
        self._found: dict[str, list[float]] = {name: [] for name in measures}
        for measure in measures.values():
            measure()

    def take(self) -> None:
        """Take one round."""
        for name, measure in self._measures.items():
            end = time.perf_counter() + self._seconds
            self._found[name].append(measure())
            while time.perf_counter() < end:
                self._found[name].append(measure())

    def mean(self, name: str) -> float:
        """The mean of one measure over all rounds so far.

        Not the median: a run has its share of a machine's slow moments, and only means add up.
        """
        return statistics.fmean(self._found[name])
