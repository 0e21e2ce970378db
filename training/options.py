"""What a training run can be told."""

from dataclasses import dataclass

from cxrbatch.model.inference import Precision
from cxrbatch.model.preprocessing import Geometry


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of one training run; all of them are recorded in the checkpoint's card.

    Attributes:
        architecture: "resnet18", "resnet34" or "resnet50".
        size: Edge of the square input in pixels.
        geometry: Whether images are squeezed or padded to the square.
        epochs: Passes of `draws` images, at most.
        patience: Epochs without a better one after which training stops; None for all epochs.
        draws: Images drawn per epoch; None draws as many as there are training images.
        batch_size: Images per step, over all processes.
        learning_rate: Peak of the schedule.
        weight_decay: Of AdamW, on weights of convolutions and the head only.
        label_smoothing: Share of the target spread over all classes.
        warmup: Share of all steps in which the learning rate rises.
        averaging: Decay per step of the moving average of the weights.
        teacher_weight: Share of the teachers' opinion in the loss, where there are teachers.
        precision: A resolved precision, not "auto".
        flip: Mirror half of the images. Off by default: a mirrored chest has its heart on the
            wrong side.
        seed: Of weights, draws and augmentation.
    """

    architecture: str = "resnet18"
    size: int = 160
    geometry: Geometry = "squeeze"
    epochs: int = 8
    patience: int | None = None
    draws: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    warmup: float = 0.1
    averaging: float = 0.999
    teacher_weight: float = 0.7
    precision: Precision = "fp32"
    flip: bool = False
    seed: int = 0
