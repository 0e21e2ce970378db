"""A batch to each share of the cores, instead of all cores to each batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

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
