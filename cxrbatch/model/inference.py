"""What batches are computed on: the device, its precision, its threads, and transfers to it."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.card import Card
from cxrbatch.model.prediction import LEVELS, Prediction, dequantise
from cxrbatch.reading.radiograph import Reading

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


class QuantisedHeatmaps(NamedTuple):
    """Heat maps as the table stores them.

    Attributes:
        levels: Shape (n, classes, h, w), uint8.
        scale: Shape (n,), float32; a heat map is levels * scale / 255.
    """

    levels: Tensor
    scale: Tensor


def quantise(heatmaps: Tensor) -> QuantisedHeatmaps:
    """Round heat maps to levels from 0 to 255, where 255 is the image's largest value (>= 1e-30).

    The largest value is that over all classes, so that the classes of an image stay comparable.

    Args:
        heatmaps: Shape (n, classes, h, w), not negative, float32.

    Returns:
        Levels, and the largest value of each image as its scale.
    """
    scale = heatmaps.amax(dim=(1, 2, 3))
    # An image without any activation has scale 0; its levels are 0 whatever they are divided by.
    divisor = scale.clamp(min=1e-30)[:, None, None, None]
    levels = (heatmaps * (LEVELS / divisor)).round().byte()
    return QuantisedHeatmaps(levels, scale)


@dataclass(frozen=True, slots=True)
class BatchScores:
    """Scores of n images over c classes.

    Attributes:
        logits: Shape (n, c), float32.
        probabilities: Shape (n, c), float32, calibrated by the card's temperature; rows sum to 1.
        heatmaps: Shape (n, c, h, w), uint8; levels of `quantise`.
        heatmap_scale: Shape (n,), float32; a heat map is heatmaps * heatmap_scale / 255.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.uint8]
    heatmap_scale: npt.NDArray[np.float32]

    @property
    def are_finite(self) -> bool:
        """Whether no logit, probability or heat map scale is infinite or NaN."""
        arrays = (self.logits, self.probabilities, self.heatmap_scale)
        return all(np.isfinite(values).all() for values in arrays)

    def first(self, count: int) -> "BatchScores":
        """Return the scores of the first `count` images; the arrays share memory with these."""
        return BatchScores(
            self.logits[:count],
            self.probabilities[:count],
            self.heatmaps[:count],
            self.heatmap_scale[:count],
        )

    def prediction(self, place: int, reading: Reading, card: Card) -> Prediction:
        """Return the scores of one image, with its heat maps as numbers.

        Args:
            place: Number of the image among the n, from 0.
            reading: The Reading that the image came from; it goes into the result.
            card: The card of the checkpoint that scored it, with c classes.
        """
        maps = dequantise(
            self.heatmaps[place].tobytes(),
            scale=float(self.heatmap_scale[place]),
            classes=len(card.classes),
            size=self.heatmaps.shape[2:],
        )
        logits, probabilities = (
            dict(zip(card.classes, values[place].tolist(), strict=True))
            for values in (self.logits, self.probabilities)
        )
        return Prediction(
            reading,
            label=card.classes[int(self.probabilities[place].argmax())],
            probabilities=probabilities,
            logits=logits,
            heatmaps=dict(zip(card.classes, maps, strict=True)),
            geometry=card.recipe.geometry,
        )


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
