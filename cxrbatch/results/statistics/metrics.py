"""Metrics of predictions against the truth by scikit-learn, None where they are undefined."""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score

Probabilities = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


def confusion(truth: Classes, predicted: Classes, *, classes: int) -> npt.NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns).

    Args:
        truth: Shape (n,), class indices.
        predicted: Shape (n,), class indices.
        classes: Number of classes.

    Returns:
        Shape (classes, classes).
    """
    if not len(truth):
        return np.zeros((classes, classes), np.int64)
    counts: npt.NDArray[np.int64] = confusion_matrix(truth, predicted, labels=range(classes))
    return counts


def recalls(truth: Classes, predicted: Classes, *, classes: int) -> list[float | None]:
    """Calculate the recall of each class: the share of its images that are predicted rightly.

    Args:
        truth: Shape (n,), class indices.
        predicted: Shape (n,), class indices.
        classes: Number of classes.

    Returns:
        One value per class in [0, 1]; None for a class without an image.
    """
    options = {"labels": range(classes), "average": None, "zero_division": np.nan}
    return [
        None if np.isnan(value) else float(value)
        for value in recall_score(truth, predicted, **options)
    ]


def balanced_accuracy(truth: Classes, predicted: Classes) -> float:
    """Average the recall over the classes that occur in `truth`, in [0, 1].

    Both arguments are class indices of shape (n,).
    """
    # Not `balanced_accuracy_score`, which warns where a predicted class does not occur.
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


def one_vs_rest_auc(truth: Classes, probabilities: Probabilities) -> list[float | None]:
    """Calculate the area under the ROC curve of each class against all others.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).

    Returns:
        One value per class in [0, 1]; None where no image, or every image, is of the class.
    """
    areas: list[float | None] = []
    for index, score in enumerate(probabilities.T):
        positive = truth == index
        is_defined = positive.any() and not positive.all()
        areas.append(float(roc_auc_score(positive, score)) if is_defined else None)
    return areas


def macro_auc(truth: Classes, probabilities: Probabilities) -> float:
    """Average the values of `one_vs_rest_auc` over the classes where they are not None.

    Returns:
        The mean, in [0, 1].

    Raises:
        ValueError: All are None.
    """
    areas = [area for area in one_vs_rest_auc(truth, probabilities) if area is not None]
    if not areas:
        raise ValueError("an area under the curve needs images of at least two classes")
    return float(np.mean(areas))


def ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Values:
    """Divide arrays of one shape element by element; NaN where `whole` is 0."""
    undefined = np.full(np.shape(whole), np.nan)
    quotient: Values = np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0)
    return quotient


def mean_of_defined(values: Values) -> Values:
    """Average each row over its values that are not NaN; the result has shape (rows,).

    NaN for a row of which all values are NaN.
    """
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))
