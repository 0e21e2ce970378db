"""What each epoch came to, which was best, and whether more are worth it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: From 1.
        loss: Mean training loss, with label smoothing and teachers.
        val_auc: Macro one-vs-rest AUC on validation, of the averaged weights.
        val_loss: Negative log-likelihood on validation, of the averaged weights.
    """

    number: int
    loss: float
    val_auc: float
    val_loss: float


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The first epoch with the best validation AUC; the lower validation loss decides a tie."""
    return max(history, key=lambda epoch: (epoch.val_auc, -epoch.val_loss))


def is_over(history: Sequence[Epoch], *, epochs: int, patience: int | None) -> bool:
    """Whether all epochs are done, or `patience` of them since the best one."""
    if not history:
        return False
    waited = history[-1].number - best_epoch(history).number
    return len(history) >= epochs or (patience is not None and waited >= patience)
