"""What batches are computed on: the device, its precision, its threads, and transfers to it."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.card import Normalisation

Backend = Literal["torch", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Inputs = npt.NDArray[np.uint8]
Result = TypeVar("Result")

DEFAULT_BATCH_SIZE = 32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Each lane holds the activations of a batch.
_MOST_LANES = 4


def choose_device(name: str, backend: Backend = "torch") -> torch.device:
    """Return the device that `name` names.

    Args:
        name: "cpu", "cuda" or "cuda:1"; "auto" is a GPU if PyTorch finds one, else the CPU.
        backend: The library that computes; "openvino" takes "auto" and "cpu", both for the CPU.

    Raises:
        UsageError: `name` is no text, it names neither a CPU nor a GPU of this machine, the backend
            is not installed, or the backend does not take the name.
    """
    if not isinstance(name, str):
        raise UsageError(f"--device is {repr(name)[:60]}; give a text such as cpu or cuda:0")
    if backend == "openvino":
        if find_spec("openvino") is None:
            raise UsageError(
                "--backend openvino needs OpenVINO; install it: pip install 'cxrbatch[openvino]'"
            )
        if name not in ("auto", "cpu"):
            raise UsageError(
                f"--backend openvino computes on a CPU, not on {name!r}; leave out one of them"
            )
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; try cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; try cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not on this machine; try --device cpu")
    return device


def choose_precision(
    precision: Precision, device: torch.device, backend: Backend = "torch"
) -> Precision:
    """Return the precision to compute with: what is asked for unless that is "auto".

    "auto" becomes bf16 if `device` computes in it natively, else fp32: a GPU of compute capability
    8.0 or more, or a CPU with AVX512_BF16 or AMX.

    Args:
        precision: What the user asks for.
        device: The device that computes, a GPU or the CPU.
        backend: The library that computes.

    Raises:
        UsageError: fp16 on a CPU, which computes it more slowly than fp32; int8 by PyTorch; or
            bf16 by OpenVINO on a processor without it, where OpenVINO would take fp32 unasked.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    if precision == "int8" and backend != "openvino":
        raise UsageError("--precision int8 needs --backend openvino")
    if precision == "bf16" and backend == "openvino" and not _has_native_bf16(device):
        raise UsageError("this processor does not compute in bf16; use --precision fp32 or int8")
    if precision != "auto":
        return precision
    return "bf16" if _has_native_bf16(device) else "fp32"


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe_device(device: torch.device, backend: Backend = "torch") -> str:
    """Return one line on the processor, its threads and OpenVINO, as a table's metadata has it.

    Such as "cpu: AVX512, 8 threads, by OpenVINO", or "cuda: " and the GPU's name.
    """
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = f"{torch.get_num_threads()} threads"
    by = ", by OpenVINO" if backend == "openvino" else ""
    return f"cpu: {torch.backends.cpu.get_cpu_capability()}, {threads}{by}"


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Return the network's float input for uint8 images: (u / 255 - mean) / std of each level u.

    Args:
        images: Shape (n, 1, size, size), uint8.
        normalisation: Mean and standard deviation of images in [0, 1].

    Returns:
        Same shape, float32, channels last.
    """
    scaled = images.to(torch.float32, memory_format=torch.channels_last)
    mean, std = normalisation.mean, normalisation.std
    return scaled.mul_(1.0 / (255.0 * std)).sub_(mean / std)


class Lanes:
    """Threads on a CPU that each compute a whole batch, with an equal share of PyTorch's threads.

    If instead all threads divided each layer, all would wait at its end for the slowest, and keep
    their cores busy with waiting. Where files are read on the same cores that is often.

    Attributes:
        count: Number of lanes, which is the number of batches computed at once.
    """

    def __init__(self) -> None:
        """Divide PyTorch's threads by `divide_threads`; the first batch starts the first thread."""
        self.count, share = divide_threads(torch.get_num_threads())
        # The number of threads is that of the thread which sets it.
        self._threads = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (share,))

    def start(self, compute: Callable[[], Result]) -> Callable[[], Result]:
        """Queue `compute` for the next free lane, and return at once.

        Args:
            compute: Called in the lane's thread, usually to score one batch.

        Returns:
            A function that waits for `compute` to end, and returns its result or raises its
            exception.
        """
        return self._threads.submit(compute).result


def divide_threads(threads: int) -> tuple[int, int]:
    """Divide a number of threads into lanes of equal size.

    Args:
        threads: Threads that PyTorch computes with, at least 1.

    Returns:
        The number of lanes, which is the largest of 1 to 4 that divides `threads`, and the threads
        of each lane.
    """
    lanes = max(n for n in range(1, _MOST_LANES + 1) if threads % n == 0)
    return lanes, threads // lanes


class Transfer:
    """Copies inputs to a device and results back; with a GPU, while the GPU computes.

    A GPU is given the next batches while it computes: inputs are copied from pinned memory on a
    stream of their own, results to pinned memory, and no thread waits for either copy before it
    needs the data.
    """

    def __init__(self, device: torch.device) -> None:
        """Store the device; if it is a GPU, create the CUDA stream on which inputs are copied."""
        self._device = device
        self._sending = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, inputs: Inputs, *, batch_size: int) -> Tensor:
        """Copy inputs to the device as a batch filled up with black images.

        A full batch for a CPU is not copied; one in pinned memory goes from there to a GPU.

        Args:
            inputs: Shape (n, size, size), uint8, n at most `batch_size`; unchanged until the
                results are fetched.
            batch_size: Images in the batch.

        Returns:
            Shape (batch_size, 1, size, size), uint8.
        """
        host = torch.from_numpy(inputs)[:, None]
        is_ready = self._sending is None or host.is_pinned()
        if len(inputs) != batch_size or not is_ready:
            shape = (batch_size, *host.shape[1:])
            filled = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._sending is not None)
            filled[: len(inputs)] = host
            host = filled
        if self._sending is None:
            return host
        with torch.cuda.stream(self._sending):
            sent = host.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._sending)
        # Or its memory would be given to the next batch while this one is computed with.
        sent.record_stream(computing)
        return sent

    def fetch(self, results: Sequence[Tensor]) -> Callable[[], list[npt.NDArray[Any]]]:
        """Begin to copy results to the CPU's memory, and return at once.

        Args:
            results: Tensors on the device.

        Returns:
            A function that waits for the copies, and returns them as arrays in the order of
            `results`. On a CPU nothing is copied: the arrays share the tensors' memory.
        """
        if self._sending is None:
            return lambda: [result.numpy() for result in results]
        hosts = [torch.empty_like(result, device="cpu", pin_memory=True) for result in results]
        for host, result in zip(hosts, results, strict=True):
            host.copy_(result, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> list[npt.NDArray[Any]]:
            copied.synchronize()
            # A copy: pinned memory is scarce, and rows of the table are kept for long.
            return [host.numpy().copy() for host in hosts]

        return wait


@contextmanager
def memory_explained(batch_size: int) -> Iterator[None]:
    """Turn an error by lack of memory in the `with` body into one line for a person.

    Args:
        batch_size: Images in the batch, for the message.

    Raises:
        CxrbatchError: In place of a MemoryError, an OutOfMemoryError of PyTorch, or a RuntimeError
            with "allocate" or "bad_alloc" in its text; other errors pass unchanged.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a GPU PyTorch has a class of its own for it; on a CPU only the text says so.
        classes = (torch.OutOfMemoryError, MemoryError)
        if isinstance(error, classes) or re.search("allocate|bad_alloc", str(error)):
            raise CxrbatchError(
                f"not enough memory for {batch_size} images at once; try a smaller --batch-size"
            ) from None
        raise
