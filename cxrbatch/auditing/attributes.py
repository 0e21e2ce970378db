"""Attributes of films, such as their source: told by the scores, and telling the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.auditing.areas import Question, area_figures, mean_area_figure
from cxrbatch.auditing.baselines import out_of_fold
from cxrbatch.results.figures import Figure
from cxrbatch.results.statistics.decisions import undefined
from cxrbatch.results.statistics.intervals import Classes, Groups, Probabilities

FEWEST_FILMS = 10
"""Films that a value of an attribute needs, and a class within it, to be asked about."""

_MOST_VALUES = 8
_UNKNOWN, _OTHER = "not stated", "other values"
_ONE_VALUE = "all films have one value"
_NO_CLASS = "no class has two values of it with ten films each"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of the films that is no disease.

    Attributes:
        name: "source", "view", "sex", "age", "device" or "format".
        values: Its values, the most frequent first, with their number of films.
        told_by_scores: Macro AUC with which the scores of the whole films tell the value.
        told_within_classes: The same among films of one class, averaged over the classes: what the
            scores tell of it beyond the class.
        tells_truth: Macro AUC with which the value alone tells the true class.
    """

    name: str
    values: tuple[tuple[str, int], ...]
    told_by_scores: Figure
    told_within_classes: Figure
    tells_truth: Figure


def attribute_columns(columns: pd.DataFrame, sources: pd.Series | None) -> dict[str, pd.Series]:
    """Return the attributes of films as texts, null where unknown.

    Args:
        columns: Columns of a results table, of the films.
        sources: The collection that each film is from, as the labels name it; None if they do not.
    """
    texts = columns.astype("string").reset_index(drop=True)
    device = texts["manufacturer"].str.cat(texts["model_name"], sep=" ", na_rep="").str.strip()
    coding = texts["format"].str.cat(texts["transfer_syntax"], sep=" ", na_rep="").str.strip()
    source = pd.Series(pd.NA, texts.index, "string") if sources is None else sources
    return {
        "source": source.astype("string").reset_index(drop=True),
        "view": texts["view_position"],
        "sex": texts["patient_sex"],
        "age": texts["patient_age_bin"],
        "device": device.mask(device == ""),
        "format": coding,
    }


def attribute(
    name: str,
    values: pd.Series,
    *,
    logits: npt.NDArray[np.float32],
    truth: Classes,
    patients: Groups,
    classes: Sequence[str],
) -> Attribute:
    """Measure how well scores tell an attribute, and how well it tells the truth.

    Values with fewer than ten films are one value, "other values".

    Args:
        name: Of the attribute.
        values: Its value of each film, text; null where unknown.
        logits: Of the whole films, shape (n, model's classes).
        truth: Shape (n,), class indices.
        patients: Shape (n,), the number of each film's patient.
        classes: Names of the classes that the truth tells apart.
    """
    codes, names = _numbered(values)
    counts = np.bincount(codes, minlength=len(names))
    listed = tuple(zip(names, counts.tolist(), strict=True))
    if len(names) < 2:
        nothing = undefined(len(codes), _ONE_VALUE)
        return Attribute(name, listed, nothing, nothing, nothing)
    centred = (logits - logits.mean(axis=1, keepdims=True)).astype(np.float64)
    told = out_of_fold(centred, codes, patients, count=len(names), are_categories=False)
    if isinstance(told, str):
        by_scores = within = undefined(len(codes), told)
    else:
        by_scores = area_figures(codes, told, patients, classes=names).macro_auc
        within = mean_area_figure(_within(codes, told, truth), patients, _NO_CLASS)
    tells = out_of_fold(
        codes[:, None].astype(np.float64), truth, patients, count=len(classes), are_categories=True
    )
    if isinstance(tells, str):
        truth_figure = undefined(len(codes), tells)
    else:
        truth_figure = area_figures(truth, tells, patients, classes=classes).macro_auc
    return Attribute(name, listed, by_scores, within, truth_figure)


def _numbered(values: pd.Series) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Number the values, the most frequent first; rare ones together, at the end."""
    texts = values.fillna(_UNKNOWN)
    counts = texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    names = [str(n) for n in counts.index[counts.to_numpy() >= FEWEST_FILMS][:_MOST_VALUES]]
    codes = pd.Index(names).get_indexer(texts)
    if (codes < 0).any():
        codes = np.where(codes < 0, len(names), codes)
        names = [*names, _OTHER]
    return codes.astype(np.int64), names


def _within(codes: npt.NDArray[np.int64], told: Probabilities, truth: Classes) -> list[Question]:
    """Ask about each value among the films of each class that has enough films with and without."""
    questions = []
    for number in np.unique(truth):
        rows = np.flatnonzero(truth == number)
        for value in range(told.shape[1]):
            positive = codes[rows] == value
            if min(positive.sum(), (~positive).sum()) >= FEWEST_FILMS:
                questions.append(Question(rows, positive, told[rows, value]))
    return questions
