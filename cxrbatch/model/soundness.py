"""Whether weights are sound, and whether a network scores as plain PyTorch does.

Finite scores prove nothing: oneDNN's ReLU turns NaN into 0, and what follows looks like any other
score. So weights are checked where they are read and where batch norms are folded into them, and
each network that scores is compared with `RadiographResNet` in float32 before its first score.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import RadiographResNet

Images = npt.NDArray[np.uint8]

LARGEST_ACTIVATION = 1e18
"""Half of float32's exponents: an image unlike the test images does not reach infinity either.

Random networks stay below 1e5, trained ones below 1e3.
"""

ROUNDING = {"fp32": 1e-5, "fp16": 2.5e-3, "bf16": 2e-2}
"""By precision: how far a logit may be off, as a share of the sum of the products' magnitudes.

Each product is a mean feature times its weight in the head. Measured on trained and on random
ResNet-18, -34 and -50 of 2 to 256 classes: at most 3e-7 in fp32 and 5e-3 in bf16. fp16 has three
bits more than bf16, as has the fp32 of a GPU, which multiplies in TF32. A share, as random
networks have logits of any size.
"""

PROBABILITY = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-2}
"""By precision: how far a probability may be off, however far the logits are.

Measured as above where logits are below 5: at most 2e-6 in fp32 and 2e-3 in bf16.
"""

_SIZE = 64


def weight_fault(name: str, values: Tensor) -> str | None:
    """Why values cannot be a network's weights of that name; None where they can.

    Args:
        name: As in a state dict, such as "bn1.running_var".
        values: Floating point numbers of any shape.
    """
    if not values.isfinite().all():
        return f"{name[:80]!r} has values that are not finite"
    if name.endswith("running_var") and (values < 0).any():
        return f"{name[:80]!r} has a variance that is negative"
    return None


def check_images(size: int) -> Images:
    """Give two images that use a network's filters, the same at each call.

    Args:
        size: Edge of an image, px.

    Returns:
        Shape (2, size, size): noise; and black, white and gradients in four quarters.
    """
    noise = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, size), (size, size))
    half = size // 2
    quarters = np.concatenate([ramp[:half], ramp.T[half:]])
    quarters[:half, :half], quarters[:half, half:] = 0, 255
    return np.stack([noise, quarters.astype(np.uint8)])


def check_network(model: RadiographResNet, normalisation: Normalisation, *, source: object) -> None:
    """Refuse a network that cannot score.

    Args:
        model: The network, in evaluation mode.
        normalisation: How its inputs are scaled.
        source: Where the weights are from, for the message.

    Raises:
        CheckpointError: For a test image a logit is not finite, or an activation is beyond
            `LARGEST_ACTIVATION`.
    """
    largest: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        largest.append(output.abs().amax())

    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        # One thread: to wait for each other costs several more than this little work.
        with ThreadPoolExecutor(1, "check", torch.set_num_threads, (1,)) as thread:
            thread.submit(score_plainly, model, check_images(_SIZE), normalisation).result()
    finally:
        for hook in hooks:
            hook.remove()
    # NaN is not less, either.
    if not all(value.item() <= LARGEST_ACTIVATION for value in largest):
        raise CheckpointError(
            f"the network in {source} gives no finite scores: its weights or its normalisation "
            "are damaged; copy the file again from where it is whole, or take another"
        )


class PlainScores(NamedTuple):
    """What plain PyTorch gives for n images, on the CPU.

    Attributes:
        logits: Shape (n, classes), float32.
        magnitudes: Of each logit, the sum of the magnitudes of what it is the sum of; the same
            shape and type.
    """

    logits: Tensor
    magnitudes: Tensor


def score_plainly(
    model: RadiographResNet, images: Images, normalisation: Normalisation
) -> PlainScores:
    """Score images by `RadiographResNet` itself.

    Args:
        model: The network, in evaluation mode.
        images: Shape (n, size, size).
        normalisation: How they are scaled.
    """
    grey = torch.from_numpy(images)[:, None].double() / 255
    scaled = (grey - normalisation.mean) / normalisation.std
    head = model.fc
    with torch.inference_mode():
        features = model.features(scaled.to(head.weight)).mean((2, 3))
        magnitudes = features.abs() @ head.weight.abs().T + head.bias.abs()
        return PlainScores(head(features).float().cpu(), magnitudes.float().cpu())


class Trial:
    """The comparison of a network's first scores with plain PyTorch's.

    The scores are those of a run's own first batch, in the batch's own shape, so that little is
    computed for it: the plain scores of one image of the batch and, where the batch has room, of a
    test image.
    """

    def __init__(self, model: RadiographResNet, card: Card, *, precision: str) -> None:
        """Take the network for plain PyTorch.

        Args:
            model: The network, in evaluation mode.
            card: Its card.
            precision: One of `ROUNDING`: how the compared network rounds.
        """
        self._model = model
        self._card = card
        self._precision = precision
        self._compared: list[int] = []
        self._refusal: CheckpointError | None = None

    def filled(self, inputs: Images, *, batch_size: int) -> Images:
        """Choose what is compared of the first batch, and give it with a test image behind it.

        Of the inputs it is the one of most contrast.

        Args:
            inputs: Shape (n, size, size), 1 <= n <= batch_size.
            batch_size: Images in the batch; where n is as many, there is no test image.
        """
        self._compared = [int(inputs.std(axis=(1, 2)).argmax())]
        if len(inputs) == batch_size:
            return inputs
        self._compared.append(len(inputs))
        return np.concatenate([inputs, check_images(inputs.shape[1])[:1]])

    def score_plainly(self, filled: Images) -> PlainScores:
        """Score what is compared of a batch that `filled` gave."""
        return score_plainly(self._model, filled[self._compared], self._card.normalisation)

    def judge(self, logits: npt.NDArray[np.float32], plain: PlainScores) -> None:
        """Refuse logits of a batch that `filled` gave, shape (n, classes); for good.

        Raises:
            CheckpointError: They differ from the plain scores by more than rounding, or either is
                not finite.
        """
        if self._refusal is None and not self._agree(torch.from_numpy(logits), plain):
            self._refusal = CheckpointError(
                "the scores are not those that the checkpoint gives by plain PyTorch in float32: "
                "its weights are damaged, or need more digits; try --precision fp32, or another "
                "checkpoint"
            )
        if self._refusal is not None:
            raise self._refusal

    def _agree(self, logits: Tensor, plain: PlainScores) -> bool:
        logits = logits[self._compared]
        if not all(values.isfinite().all() for values in (logits, *plain)):
            return False
        near = (logits - plain.logits).abs() <= ROUNDING[self._precision] * plain.magnitudes
        change = self._probabilities(logits) - self._probabilities(plain.logits)
        return bool(near.all() or change.abs().max() <= PROBABILITY[self._precision])

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (logits.double() / self._card.temperature).softmax(dim=1)
