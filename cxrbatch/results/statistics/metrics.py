"""Statistics of scores against truth: pure functions on arrays, scikit-learn first."""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Probabilities = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


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


def ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Values:
    """Divide arrays of one shape; NaN where the whole is 0."""
    undefined = np.full(np.shape(whole), np.nan)
    found: Values = np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0)
    return found


def mean_of_defined(values: Values) -> Values:
    """Average each row over what is not NaN; NaN where all of it is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))
