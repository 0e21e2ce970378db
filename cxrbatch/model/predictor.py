"""The Predictor: the one way from a radiograph to scores and heat maps."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.errors import (
    CxrbatchError,
    NotFiniteError,
    UsageError,
    checked_path,
    naming_arguments,
    plain_number,
)
from cxrbatch.model.batch_scores import BatchScores, quantise
from cxrbatch.model.checkpoint import Checkpoint, bundled_checkpoint, load_checkpoint
from cxrbatch.model.fused import FusedResNet, layers_of
from cxrbatch.model.inference import (
    DEFAULT_BATCH_SIZE,
    DTYPES,
    Backend,
    Inputs,
    Lanes,
    Precision,
    Result,
    Transfer,
    choose_device,
    choose_precision,
    memory_explained,
    normalised,
)
from cxrbatch.model.input_gate import InputGate
from cxrbatch.model.prediction import Prediction, first_reading
from cxrbatch.model.soundness import FirstBatchCheck, PlainScores
from cxrbatch.reading.radiograph import Reading

if TYPE_CHECKING:
    from cxrbatch.model.openvino import OpenVinoResNet

Network: TypeAlias = "FusedResNet | OpenVinoResNet"

# A GPU computes one batch after the other.
_AHEAD_ON_GPU = 2

Launched = Callable[[], BatchScores]
"""Waits for the scores of a batch and returns them."""

Predictable: TypeAlias = "str | Path | bytes | npt.NDArray[np.generic] | Reading"
"""What `Predictor` takes: a file's path, a display image as an array, or a Reading."""


@naming_arguments()
def load_model(
    path: str | Path | None = None, device: str = "auto", *, batch_size: int = DEFAULT_BATCH_SIZE
) -> "Predictor":
    """Load a checkpoint to predict with, in bf16 where the processor computes in it, else in fp32.

    Args:
        path: A checkpoint (.safetensors); None for the one that comes with the package.
        device: "auto", "cpu", "cuda" or "cuda:1"; "auto" takes a GPU if there is one.
        batch_size: Images per forward pass. Scores equal a table's to the last bit where batch
            size, precision, machine and PyTorch's number of threads are the same.

    Raises:
        CheckpointError: The file is no checkpoint, or its weights are unsound.
        CxrbatchError: The network does not fit into memory.
        UsageError: The device does not exist here, the batch size is no positive whole number, or
            an argument is of another type.
    """
    images = int(plain_number("batch_size", batch_size, int, 1))
    place = bundled_checkpoint() if path is None else checked_path("path", path)
    checkpoint, chosen = load_checkpoint(place), choose_device(device)
    precision = choose_precision("auto", chosen)
    return Predictor(checkpoint, batch_size=images, device=chosen, precision=precision)


class Predictor:
    """A checkpoint's network on a device, which scores radiographs and computes their heat maps.

    Every forward pass has the same shape: a shorter batch is filled up with black images. So the
    same kernels compute every image: on one machine, at one precision and number of threads, scores
    of an image by itself, in a batch, and in a table of that batch size agree to the last bit.

    Attributes:
        card: The checkpoint's card: classes, recipe, temperature, operating points.
        batch_size: Images per forward pass.
        device: The device that computes.
        precision: The precision of the convolutions.
        network: The network in its form for inference.
        seconds: So far: on a CPU of computing, the mean of the lanes; on a GPU to launch and wait.
        ahead: Number of further batches to launch before waiting for the scores of one.
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
        """Build the network for inference on a device.

        Args:
            checkpoint: The checkpoint.
            batch_size: Images per forward pass.
            device: The device that computes.
            precision: A resolved precision, not "auto".
            backend: The library that computes.
            ranges: For int8, the result of `openvino.activation_ranges`.

        Raises:
            CheckpointError: The weights are not finite at this precision.
            CxrbatchError: The network does not fit into memory.
        """
        self.card = checkpoint.card
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.seconds = 0.0
        self._transfer = Transfer(device)
        known = checkpoint.features
        self._gate = None if known is None else InputGate(known, device=device)
        self._lanes = Lanes() if device.type == "cpu" else None
        self.ahead = self._lanes.count if self._lanes else _AHEAD_ON_GPU
        with memory_explained(batch_size):
            layers = layers_of(checkpoint.tensors)
            if backend == "openvino":
                from cxrbatch.model.openvino import OpenVinoResNet

                self.network: Network = OpenVinoResNet(
                    layers,
                    batch_size=batch_size,
                    size=self.card.recipe.size,
                    precision=precision,
                    ranges=ranges,
                    lanes=self.ahead,
                )
            else:
                self.network = FusedResNet(layers, device=device, dtype=DTYPES[precision])
        self._check: FirstBatchCheck | None = None
        if precision != "int8":  # which is judged by the AUC that it costs
            self._check = FirstBatchCheck(
                checkpoint.tensors,
                checkpoint.card,
                precision="fp16" if device.type == "cuda" and precision == "fp32" else precision,
            )

    def predict(self, item: Predictable) -> Prediction:
        """Score one radiograph.

        Args:
            item: A file's path (its first frame is scored), a display image as an array of shape
                (rows, columns), or a Reading; `predict_batch` describes them.

        Raises:
            UsageError: The item is none of these, or an array is not a display image.
            CheckpointError: The first scores are not those of plain PyTorch.
            NotFiniteError: A score is not finite.
            CxrbatchError: The batch does not fit into memory.
        """
        return self.predict_batch([item])[0]

    @naming_arguments()
    def predict_batch(self, items: Iterable[Predictable]) -> list[Prediction]:
        """Score radiographs; a file that cannot be read or scored has its outcome and no scores.

        Args:
            items: Each is one of: the path of a DICOM, PNG or JPEG file, of which the first frame
                is scored; a display image with square pixels, shape (rows, columns), 0 is black,
                as floats in [0, 1], or as uint8 or uint16, which are divided by 255 or 65535; a
                Reading, as `read_radiographs` returns for each frame of a file.

        Returns:
            One Prediction for each item, in their order.

        Raises:
            UsageError: `items` is a single item or not iterable, an item is none of these, or an
                array is not a display image.
            CheckpointError: The first scores are not those of plain PyTorch.
            NotFiniteError: A score is not finite.
            CxrbatchError: The batch does not fit into memory.
        """
        is_one = isinstance(items, str | bytes | os.PathLike | np.ndarray | Reading)
        if is_one or not isinstance(items, Iterable):
            raise UsageError("predict_batch takes several images: give a list, or call predict")
        recipe = self.card.recipe
        prepared = [recipe.prepare_reading(first_reading(i, no_voi=recipe.no_voi)) for i in items]
        inputs = [image for _, image in prepared if image is not None]
        starts = range(0, len(inputs), self.batch_size)
        batches = (np.stack(inputs[start : start + self.batch_size]) for start in starts)
        scored = (
            (batch, place)
            for batch in self.score_all(batches)
            for place in range(len(batch.logits))
        )
        predictions = []
        for reading, image in prepared:
            if image is None:
                predictions.append(Prediction(reading))
            else:
                batch, place = next(scored)
                predictions.append(batch.prediction(place, reading, self.card))
        return predictions

    def score(self, inputs: Inputs) -> BatchScores:
        """Score the inputs of one batch, and wait for the scores.

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.

        Raises:
            CheckpointError: The first scores are not those of plain PyTorch.
            NotFiniteError: A score is not finite, as when float16 overflows.
            CxrbatchError: The batch does not fit into memory.
        """
        return self.launch(inputs)()

    def score_all(self, batches: Iterable[Inputs]) -> Iterator[BatchScores]:
        """Score batches, and yield their scores in order; up to `ahead` more compute meanwhile.

        Args:
            batches: The inputs of each batch, shape (n, size, size), uint8, 1 <= n <= batch_size.

        Raises:
            CheckpointError, NotFiniteError, CxrbatchError: In the cases that `score` lists.
        """
        launched: deque[Launched] = deque()
        for inputs in batches:
            launched.append(self.launch(inputs))
            if len(launched) > self.ahead:
                yield launched.popleft()()
        while launched:
            yield launched.popleft()()

    def launch(self, inputs: Inputs) -> Launched:
        """Begin to score the inputs of one batch, and return without waiting.

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.

        Returns:
            A function that waits for the scores and returns them. Both raise what `score` raises.
        """
        check, self._check = self._check, None
        if check is None:
            return self._launch(inputs)
        batch = check.add_test_image(inputs, batch_size=self.batch_size)

        def score_plainly() -> PlainScores:
            return check.score_plainly(batch)

        plain = self._lanes.start(score_plainly) if self._lanes else score_plainly
        launched = self._launch(batch)

        def wait() -> BatchScores:
            try:
                scored = launched()
                with memory_explained(self.batch_size):
                    check.compare(scored.logits, plain())
            except CxrbatchError:
                self._check = check  # nothing is scored before a batch has passed
                raise
            return scored.first(len(inputs))

        return wait

    def features(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Return the k features that the network's head sees: activations averaged over each image.

        Args:
            inputs: Shape (n, size, size), uint8, 1 <= n <= batch_size.

        Returns:
            Shape (n, k), float32.

        Raises:
            CxrbatchError: The batch does not fit into memory.
        """
        with torch.inference_mode(), memory_explained(self.batch_size):
            activations = self.network.features(self._batch(inputs))
            features = activations.float().mean((2, 3))[: len(inputs)]
            result: npt.NDArray[np.float32] = features.cpu().numpy()
            return result

    def _launch(self, inputs: Inputs) -> Launched:
        if self._lanes:
            fetched = self._lanes.start(lambda: _timed(lambda: self._compute(inputs)()))
            lanes = self._lanes.count
        else:
            fetch, seconds = _timed(lambda: self._compute(inputs))
            fetched, lanes = (lambda: _timed(fetch)), 1
            self.seconds += seconds

        def wait() -> BatchScores:
            with memory_explained(self.batch_size):
                arrays, seconds = fetched()
            self.seconds += seconds / lanes
            scored = BatchScores(*arrays)
            if not scored.are_finite:
                raise NotFiniteError(
                    f"the model gave scores that are not finite at {self.precision}; "
                    "try a wider --precision, or another checkpoint or learning rate"
                )
            return scored

        return wait

    def _compute(self, inputs: Inputs) -> Callable[[], list[npt.NDArray[Any]]]:
        """Begin to compute on the device; the returned function waits for the arrays."""
        count = len(inputs)
        with torch.inference_mode(), memory_explained(self.batch_size):
            scores = self.network.score(self._batch(inputs))
            logits = scores.logits[:count]
            probabilities = (logits / self.card.temperature).softmax(dim=1)
            maps = quantise(scores.heatmaps[:count])
            # Of the whole batch, so that an image's score does not depend on what is beside it.
            gate = self._gate.score(scores.features) if self._gate else ()
            last = [values[:count] for values in gate]
            return self._transfer.fetch([logits, probabilities, maps.levels, maps.scale, *last])

    def _batch(self, inputs: Inputs) -> Tensor:
        images = self._transfer.send(inputs, batch_size=self.batch_size)
        return normalised(images, self.card.normalisation)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
