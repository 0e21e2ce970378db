"""Models that see no pixel of the lungs: what header and file alone tell of the true class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from cxrbatch.auditing.areas import AreaFigures, area_figures, no_figures
from cxrbatch.auditing.films import NUMBERS
from cxrbatch.results.statistics.intervals import Classes, Groups, macro_auc

HEADER_FACTS = {
    "modality": "modality",
    "body_part": "body part",
    "view_position": "view",
    "laterality": "laterality",
    "patient_sex": "sex",
    "patient_age_bin": "age",
    "manufacturer": "manufacturer",
    "model_name": "device model",
    "photometric": "photometric interpretation",
    "transfer_syntax": "transfer syntax",
    "presentation_intent": "presentation intent",
    "bits_stored": "bits stored",
    "voi_source": "grey level transform",
}
"""Header values that a baseline may learn from -> their names for a reader."""

FILE_FACTS = {
    "format": "format",
    "file_size": "file size",
    "bytes_per_pixel": "bytes per pixel",
    "aspect": "width over height",
    "image_rows": "rows",
    "image_columns": "columns",
    "sharpness": "sharpness at the rim",
    "jpeg_quantisation": "JPEG quantisation",
}
"""Properties of files that a baseline may learn from -> their names for a reader."""

HEADER, FILE = "header facts", "file properties"

_FOLDS, _SEED = 5, 0
_MOST_VALUES = 40
_WORTH_EXPLAINING = 0.6
_NO_FACT = "no fact is known that differs between the films"
_TOO_FEW = "a class has fewer than two patients, so that none is left to test on"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a model that sees no pixel makes of the films.

    Attributes:
        name: `HEADER` or `FILE`.
        facts: Names of the facts that differ between the films, for a reader; the model uses them.
        figures: Of the truth, by cross-validation over patients.
        probabilities: Shape (n, classes), of the fold in which a film was tested; None where there
            is no model.
        leading: The fact that alone tells most, and its macro AUC, where all together reach 0.6;
            None otherwise.
    """

    name: str
    facts: tuple[str, ...]
    figures: AreaFigures
    probabilities: npt.NDArray[np.float32] | None
    leading: tuple[str, float] | None = None


def header_frame(columns: pd.DataFrame) -> pd.DataFrame:
    """Return header values as categories, one column for each of `HEADER_FACTS`.

    Args:
        columns: Columns of a results table, of the films.
    """
    return pd.DataFrame({name: _codes(columns[name]) for name in HEADER_FACTS})


def file_frame(columns: pd.DataFrame, numbers: npt.NDArray[np.float64]) -> pd.DataFrame:
    """Return properties of files as numbers, one column for each of `FILE_FACTS`.

    Args:
        columns: Columns of a results table, of the films: `format`, `file_size`.
        numbers: Shape (n, 4), what was measured of each film: `films.NUMBERS`.
    """
    measured = dict(zip(NUMBERS, numbers.T, strict=True))
    size = columns["file_size"].to_numpy(np.float64)
    rows, across = measured["image_rows"], measured["image_columns"]
    derived = {
        "format": _codes(columns["format"]).astype(float),
        "file_size": size,
        "bytes_per_pixel": size / (rows * across),
        "aspect": across / rows,
    }
    return pd.DataFrame({**derived, **measured})[[*FILE_FACTS]]


def _codes(values: pd.Series) -> pd.Series:
    """Number the values of a column by frequency; NaN where null or rarer than the first 40."""
    texts = values.astype("string")
    order = texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    codes = {value: float(number) for number, value in enumerate(order.index[:_MOST_VALUES])}
    return texts.map(codes).astype(float).reset_index(drop=True)


def baseline(
    name: str, facts: pd.DataFrame, truth: Classes, patients: Groups, *, classes: Sequence[str]
) -> Baseline:
    """Tell the truth from facts alone, by gradient boosting and cross-validation over patients.

    Args:
        name: `HEADER`, whose facts are categories, or `FILE`, whose facts are numbers.
        facts: One column for each fact, one row for each film; NaN where unknown.
        truth: Shape (n,), class indices.
        patients: Shape (n,), the number of each film's patient.
        classes: Names of the classes.
    """
    titles = HEADER_FACTS if name == HEADER else FILE_FACTS
    differing = [fact for fact in facts if _differs(facts[fact])]
    named = tuple(titles[fact] for fact in differing)

    def told_by(*some: str) -> npt.NDArray[np.float32] | str:
        features, count = facts[[*some]].to_numpy(np.float64), len(classes)
        is_header = name == HEADER
        return out_of_fold(features, truth, patients, count=count, are_categories=is_header)

    told = told_by(*differing) if differing else _NO_FACT
    if isinstance(told, str):
        return Baseline(name, named, no_figures(told, classes=classes), None)
    figures = area_figures(truth, told, patients, classes=classes)
    if (figures.macro_auc.value or 0.0) < _WORTH_EXPLAINING:
        return Baseline(name, named, figures, told)
    alone = {}
    for fact in differing:
        if not isinstance(single := told_by(fact), str):
            alone[titles[fact]] = macro_auc(truth, single)
    best = max(alone, key=alone.__getitem__)
    return Baseline(name, named, figures, told, (best, alone[best]))


def _differs(values: pd.Series) -> bool:
    """Whether a fact has two values at least; not known is a value."""
    return bool(values.nunique(dropna=False) > 1)


def out_of_fold(
    features: npt.NDArray[np.float64],
    target: Classes,
    patients: Groups,
    *,
    count: int,
    are_categories: bool,
) -> npt.NDArray[np.float32] | str:
    """Predict a target from features by gradient boosting; each patient by a model without them.

    Args:
        features: Shape (n, features); NaN where unknown.
        target: Shape (n,), indices of values.
        patients: Shape (n,), the number of each film's patient.
        count: Number of values of the target.
        are_categories: Whether the features are numbers of categories; NaN is one, too.

    Returns:
        Probabilities, shape (n, count), float32; 0 for values that no fold had to learn from. A
        text if there are no two values with two patients each: why there is no prediction.
    """
    present = np.unique(target)
    least = min(len(np.unique(patients[target == value])) for value in present)
    if len(present) < 2:
        return "all films have one value"
    if least < 2:
        return _TOO_FEW
    if are_categories:
        features = _one_hot(features)
    folds = StratifiedGroupKFold(min(_FOLDS, least), shuffle=True, random_state=_SEED)
    told = np.zeros((len(target), count), np.float32)
    for learned, tested in folds.split(features, target, patients):
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=8,
            min_samples_leaf=min(10, max(1, len(learned) // 10)),
            early_stopping=False,
            random_state=_SEED,
        )
        if len(np.unique(target[learned])) < 2:
            return _TOO_FEW
        model.fit(features[learned], target[learned])
        told[np.ix_(tested, model.classes_)] = model.predict_proba(features[tested])
    return told


def _one_hot(codes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a column of 0 and 1 for each category of each feature.

    Not by the model's own categories: it takes none with fewer than ten films.
    """
    known = np.nan_to_num(codes, nan=-1.0)
    columns = [
        known[:, i] == value for i in range(known.shape[1]) for value in np.unique(known[:, i])
    ]
    return np.stack(columns, axis=1).astype(np.float64)
