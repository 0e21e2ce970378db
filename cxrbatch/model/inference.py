"""Batches of inputs to scores on a device, at one precision and one fixed shape."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.card import Normalisation
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.fused import FusedResNet
from cxrbatch.model.lanes import Arrays, BatchScores, Lanes, Transfer
from cxrbatch.model.network import Scores, quantise
from cxrbatch.model.soundness import PlainScores, Trial

Backend = Literal["torch", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]

DEFAULT_BATCH_SIZE = 32

# A GPU computes one batch after the other.
_AHEAD_ON_GPU = 2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


Result = TypeVar("Result")

Launched = Callable[[], BatchScores]
"""Waits for the scores of a batch."""


class Network(Protocol):
    """A network that is ready to score batches of one shape."""

    def features(self, images: Tensor) -> Tensor:
        """Give the last convolutional layer's activations, as `RadiographResNet.features`."""

    def score(self, images: Tensor) -> Scores:
        """Give logits and heat maps, as `RadiographResNet.score`."""


def choose_device(name: str, backend: Backend = "torch") -> torch.device:
    """Resolve "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        UsageError: The device does not exist here, or the backend is not installed or is not for
            the device.
    """
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
    """Resolve "auto": bf16 where the processor computes in it, else fp32.

    Raises:
        UsageError: fp16 on a CPU, which computes it more slowly than fp32; int8 by PyTorch; or
            bf16 by OpenVINO, which takes fp32 instead where the processor does not compute in it.
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


def describe_device(device: torch.device, backend: Backend = "torch") -> str:
    """Name the processor, and what computes on it if not PyTorch, for the table's provenance."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = f"{torch.get_num_threads()} threads"
    by = ", by OpenVINO" if backend == "openvino" else ""
    return f"cpu: {torch.backends.cpu.get_cpu_capability()}, {threads}{by}"


def make_network(
    checkpoint: Checkpoint,
    *,
    batch_size: int,
    device: torch.device,
    precision: Precision,
    backend: Backend = "torch",
    ranges: npt.NDArray[np.float32] | None = None,
) -> Network:
    """Make a checkpoint's network ready.

    Args:
        checkpoint: Of which network.
        batch_size: Images per forward pass.
        device: Where to compute.
        precision: A resolved precision, not "auto".
        backend: What computes.
        ranges: What `openvino.activation_ranges` gives, for int8.
    """
    if backend == "torch":
        return FusedResNet(checkpoint.model, device=device, dtype=DTYPES[precision])
    from cxrbatch.model.openvino import OpenVinoResNet

    return OpenVinoResNet(
        checkpoint.model,
        batch_size=batch_size,
        size=checkpoint.card.recipe.size,
        precision=precision,
        ranges=ranges,
    )


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Give what the network sees of inputs, shape (n, 1, size, size), uint8: float32."""
    scaled = images.to(torch.float32, memory_format=torch.channels_last)
    mean, std = normalisation.mean, normalisation.std
    return scaled.mul_(1.0 / (255.0 * std)).sub_(mean / std)


class Scorer:
    """A checkpoint made ready on a device.

    Every forward pass has the same shape: a shorter batch is padded with black images. So the
    kernels, and with them the last bits, are the same for every image of a run, and a GPU never
    plans for a second shape.

    Attributes:
        seconds: That the device has worked for scores so far, of lanes each its share.
        ahead: Batches that are to be launched before the scores of one are waited for.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        backend: Backend = "torch",
        ranges: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Make the network ready.

        Args:
            checkpoint: What to score with.
            batch_size: Images per forward pass.
            device: Where to compute.
            precision: A resolved precision, not "auto".
            backend: What computes.
            ranges: What `openvino.activation_ranges` gives, for int8.

        Raises:
            CheckpointError: The weights are not finite at this precision.
            CxrbatchError: OpenVINO, which takes its memory at once, does not get it.
        """
        self.card = checkpoint.card
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.seconds = 0.0
        self._transfer = Transfer(device)
        self._lanes = Lanes() if device.type == "cpu" else None
        self.ahead = self._lanes.count if self._lanes else _AHEAD_ON_GPU
        with memory_explained(batch_size):
            self._model = make_network(
                checkpoint,
                batch_size=batch_size,
                device=device,
                precision=precision,
                backend=backend,
                ranges=ranges,
            )
        self._trial: Trial | None = None
        if precision != "int8":  # which is judged by the AUC that it costs
            self._trial = Trial(
                checkpoint.model,
                checkpoint.card,
                precision="fp16" if device.type == "cuda" and precision == "fp32" else precision,
            )

    def score(self, inputs: npt.NDArray[np.uint8]) -> BatchScores:
        """Score up to a batch of inputs.

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.

        Raises:
            CheckpointError: The first scores are not those of plain PyTorch.
            CxrbatchError: A score is not finite, as when float16 overflows, or the batch does not
                fit into memory.
        """
        return self.launch(inputs)()

    def score_all(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[BatchScores]:
        """Score batches, each as `score` does, some of them ahead."""
        launched: deque[Launched] = deque()
        for inputs in batches:
            launched.append(self.launch(inputs))
            if len(launched) > self.ahead:
                yield launched.popleft()()
        while launched:
            yield launched.popleft()()

    def launch(self, inputs: npt.NDArray[np.uint8]) -> Launched:
        """Begin to score up to a batch of inputs, as `score`; gives what waits for the scores."""
        trial, self._trial = self._trial, None
        if trial is None:
            return self._launched(inputs)
        given = trial.filled(inputs, batch_size=self.batch_size)

        def score_plainly() -> PlainScores:
            return trial.score_plainly(given)

        plain = self._lanes.start(score_plainly) if self._lanes else score_plainly
        launched = self._launched(given)

        def wait() -> BatchScores:
            try:
                scored = launched()
                with memory_explained(self.batch_size):
                    trial.judge(scored.logits, plain())
            except CxrbatchError:
                self._trial = trial  # nothing is scored before a batch has passed
                raise
            return scored.first(len(inputs))

        return wait

    def _launched(self, inputs: npt.NDArray[np.uint8]) -> Launched:
        if self._lanes:
            fetched = self._lanes.start(lambda: _timed(lambda: self._begun(inputs)()))
            lanes = self._lanes.count
        else:
            begun, seconds = _timed(lambda: self._begun(inputs))
            fetched, lanes = (lambda: _timed(begun)), 1
            self.seconds += seconds

        def wait() -> BatchScores:
            with memory_explained(self.batch_size):
                arrays, seconds = fetched()
            self.seconds += seconds / lanes
            scored = BatchScores(*arrays)
            if not scored.are_finite:
                raise CxrbatchError(
                    f"the model gave scores that are not finite at {self.precision}; "
                    "try a wider --precision, or another checkpoint or learning rate"
                )
            return scored

        return wait

    def _begun(self, inputs: npt.NDArray[np.uint8]) -> Callable[[], Arrays]:
        """Begin to compute on the device; gives what waits for it."""
        count = len(inputs)
        with torch.inference_mode(), memory_explained(self.batch_size):
            scores = self._model.score(self._batch(inputs))
            logits = scores.logits[:count]
            probabilities = (logits / self.card.temperature).softmax(dim=1)
            maps = quantise(scores.heatmaps[:count])
            return self._transfer.fetch([logits, probabilities, maps.levels, maps.scale])

    def features(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Give what the head sees of up to a batch of inputs, shape (n, k).

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.

        Raises:
            CxrbatchError: The batch does not fit into memory.
        """
        with torch.inference_mode(), memory_explained(self.batch_size):
            activations = self._model.features(self._batch(inputs))
            features = activations.float().mean((2, 3))[: len(inputs)]
            found: npt.NDArray[np.float32] = features.cpu().numpy()
            return found

    def _batch(self, inputs: npt.NDArray[np.uint8]) -> Tensor:
        images = self._transfer.send(inputs, batch_size=self.batch_size)
        return normalised(images, self.card.normalisation)


@contextmanager
def memory_explained(batch_size: int) -> Iterator[None]:
    """Say in one line where a batch does not fit into memory.

    Raises:
        CxrbatchError: It does not.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # PyTorch has a class of its own for it on a GPU; else only the text tells.
        classes = (torch.OutOfMemoryError, MemoryError)
        if isinstance(error, classes) or re.search("allocate|bad_alloc", str(error)):
            raise CxrbatchError(
                f"not enough memory for {batch_size} images at once; try a smaller --batch-size"
            ) from None
        raise


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
