"""Inputs to a device and results back, beside its computing where it is a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
