"""Statistics of scores against truth: pure functions on arrays, scikit-learn first."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score, roc_curve

Probabilities = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]


def confusion(truth: Classes, predicted: Classes, *, classes: int) -> npt.NDArray[np.int64]:
    """Count images by truth (rows) and prediction (columns), shape (classes, classes)."""
    pairs = truth.astype(np.int64) * classes + predicted
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts.astype(np.int64)


def balanced_accuracy(truth: Classes, predicted: Classes) -> float:
    """Average the recall over the classes that occur in `truth`, in [0, 1]."""
    classes = int(max(truth.max(), predicted.max())) + 1
    defined = [r for r in recalls(truth, predicted, classes=classes) if r is not None]
    return float(np.mean(defined))


def recalls(truth: Classes, predicted: Classes, *, classes: int) -> list[float | None]:
    """Give each class's recall; None for a class without an image."""
    counts = confusion(truth, predicted, classes=classes)
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(counts)]


def one_vs_rest_auc(truth: Classes, probabilities: Probabilities) -> list[float | None]:
    """Give each class's area under the ROC curve against all others.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).

    Returns:
        One value per class in [0, 1]; None where a class has no image or no other has one.
    """
    return [_auc(truth == c, probabilities[:, c]) for c in range(probabilities.shape[1])]


def macro_auc(truth: Classes, probabilities: Probabilities) -> float:
    """Average the one-vs-rest areas over the classes where they are defined.

    Raises:
        ValueError: No class has one.
    """
    areas = [area for area in one_vs_rest_auc(truth, probabilities) if area is not None]
    if not areas:
        raise ValueError("an area under the curve needs images of at least two classes")
    return float(np.mean(areas))


def _auc(positive: npt.NDArray[np.bool_], score: npt.NDArray[np.floating]) -> float | None:
    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, score))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and what it does: an image is positive where its score reaches it.

    Attributes:
        threshold: In [0, 1] for probabilities.
        sensitivity: Share of the positive images that reach it.
        specificity: Share of the others that do not.
    """

    threshold: float
    sensitivity: float
    specificity: float


def operating_points(
    positive: npt.NDArray[np.bool_], score: Probabilities, *, level: float = 0.95
) -> dict[str, OperatingPoint]:
    """Choose thresholds on the ROC curve's own points.

    Args:
        positive: Shape (n,), which images are of the class.
        score: Shape (n,), of the class.
        level: The sensitivity, or specificity, that two of the points reach at least.

    Returns:
        "youden" maximises sensitivity + specificity; "sensitive" is the most specific point whose
        sensitivity reaches `level`, "specific" the most sensitive one whose specificity does.
        Empty where a class has no image or no other has one.

    Source: Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    if positive.all() or not positive.any():
        return {}
    false_positive, sensitivity, thresholds = roc_curve(positive, score, drop_intermediate=False)
    # The curve's first point takes no image for positive; its threshold is infinite.
    thresholds[0] = np.nextafter(score.max(), np.inf)
    specificity = 1.0 - false_positive
    # Where a rate is level, the other one decides.
    chosen = {
        "youden": np.argmax(sensitivity - false_positive),
        "sensitive": np.argmax(np.where(sensitivity >= level, specificity, -1.0)),
        "specific": len(specificity)
        - 1
        - np.argmax(np.where(specificity >= level, sensitivity, -1.0)[::-1]),
    }
    return {
        name: OperatingPoint(
            float(thresholds[point]), float(sensitivity[point]), float(specificity[point])
        )
        for name, point in chosen.items()
    }


def expected_calibration_error(
    truth: Classes, probabilities: Probabilities, *, bins: int = 15
) -> float:
    """Average the gap between confidence and accuracy over equal bins of confidence.

    Confidence is the largest probability, a bin (a, b] counts by its images.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        bins: Of equal width over (0, 1].

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))
