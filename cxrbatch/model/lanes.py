"""A batch to each share of the cores, instead of all cores to each batch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Result = TypeVar("Result")

# Each holds the activations of a batch.
_MOST_LANES = 4


class Lanes:
    """Threads that compute side by side, each by its own share of PyTorch's threads.

    Threads that divide a layer wait for the slowest of them at its end, and keep their cores busy
    with waiting. Where files are read beside them that is often. A thread that has a batch to
    itself waits for nobody.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        """Divide as many threads as PyTorch computes with; none is started yet."""
        self.count, share = divided(torch.get_num_threads())
        # The number of threads is that of the thread which sets it.
        self._threads = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (share,))

    def start(self, compute: Callable[[], Result]) -> Callable[[], Result]:
        """Have something computed as soon as a lane is free; gives what waits for it."""
        return self._threads.submit(compute).result


def divided(threads: int) -> tuple[int, int]:
    """How many lanes there are for so many threads, and the threads of each."""
    lanes = max(n for n in range(1, _MOST_LANES + 1) if threads % n == 0)
    return lanes, threads // lanes


Arrays = list[npt.NDArray[Any]]


class Transfer:
    """The way to one device and back.

    A GPU is given the next batches while it computes: inputs travel from pinned memory on a stream
    of their own, results to pinned memory, and nobody waits for either before they are needed.
    """

    def __init__(self, device: torch.device) -> None:
        """Make a stream where the device is a GPU."""
        self._device = device
        self._sending = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, inputs: npt.NDArray[np.uint8], *, batch_size: int) -> Tensor:
        """Give inputs on the device, as a batch that is filled up with black.

        Args:
            inputs: Shape (n, size, size), n at most `batch_size`.
            batch_size: Images in the batch.

        Returns:
            Shape (batch_size, 1, size, size), uint8.
        """
        shape = (batch_size, 1, *inputs.shape[1:])
        host = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._sending is not None)
        host[: len(inputs), 0] = torch.from_numpy(inputs)
        if self._sending is None:
            return host
        with torch.cuda.stream(self._sending):
            there = host.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._sending)
        # Or its memory would be given to the next batch while this one is computed with.
        there.record_stream(computing)
        return there

    def fetch(self, results: Sequence[Tensor]) -> Callable[[], Arrays]:
        """Have results brought back; gives what waits for them."""
        if self._sending is None:
            return lambda: [result.numpy() for result in results]
        hosts = [torch.empty_like(result, device="cpu", pin_memory=True) for result in results]
        for host, result in zip(hosts, results, strict=True):
            host.copy_(result, non_blocking=True)
        there = torch.cuda.Event()
        there.record(torch.cuda.current_stream(self._device))

        def wait() -> Arrays:
            there.synchronize()
            # Pinned memory is not to be held by who keeps a row.
            return [host.numpy().copy() for host in hosts]

        return wait


@dataclass(frozen=True, slots=True)
class BatchScores:
    """Scores of n images over c classes.

    Attributes:
        logits: Shape (n, c), float32.
        probabilities: Shape (n, c), float32, calibrated by the card's temperature; rows sum to 1.
        heatmaps: Shape (n, c, h, w), uint8.
        heatmap_scale: Shape (n,), float32.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.uint8]
    heatmap_scale: npt.NDArray[np.float32]

    @property
    def are_finite(self) -> bool:
        """Whether no score and no heat map is infinite or NaN."""
        arrays = (self.logits, self.probabilities, self.heatmap_scale)
        return all(np.isfinite(values).all() for values in arrays)

    def first(self, count: int) -> "BatchScores":
        """Give the scores of the first `count` images."""
        return BatchScores(
            self.logits[:count],
            self.probabilities[:count],
            self.heatmaps[:count],
            self.heatmap_scale[:count],
        )
