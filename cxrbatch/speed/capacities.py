"""What a machine can do at most: multiply, read from its disk, copy to its GPU."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cxrbatch.model.inference import DTYPES, choose_precision

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
