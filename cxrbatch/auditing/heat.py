"""How much of a heat map lies outside the lungs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbatch.auditing.treatments import LungFields
from cxrbatch.model.preprocessing import area_resize
from cxrbatch.results.figures import Figure
from cxrbatch.results.statistics.decisions import resampled
from cxrbatch.results.statistics.intervals import (
    Classes,
    Groups,
    Values,
    Weights,
    bootstrap_by_group,
    numbered,
    ratio,
)

_NO_FILM = "no film with a sure mask and a heat map"


@dataclass(frozen=True, slots=True)
class HeatShare:
    """The share of the heat maps outside the lungs, of the films of one predicted class.

    Attributes:
        name: The predicted class, whose heat map it is; "all" for all films.
        outside: Mean share of the heat outside the lungs.
        area: Mean share of the film outside the lungs: what a heat map that knows nothing of the
            lungs would have.
    """

    name: str
    outside: Figure
    area: Figure


def heat_outside(heat: npt.NDArray[np.uint8], lungs: LungFields) -> npt.NDArray[np.float64]:
    """Return the share of each heat map that lies outside the lungs.

    The map is enlarged to the film's pixels; a cell near an edge of the lungs counts on both sides.

    Args:
        heat: Shape (n, cells, cells), levels of one class's heat map.
        lungs: Shape (n, size, size).

    Returns:
        Shape (n,), in [0, 1]; NaN where a heat map is 0 everywhere.
    """
    shares = np.full(len(heat), np.nan)
    size = lungs.shape[1]
    for place, (cells, field) in enumerate(zip(heat, lungs, strict=True)):
        grown = area_resize(cells.astype(np.float32), rows=size, columns=size)
        total = float(grown.sum(dtype=np.float64))
        if total > 0.0:
            shares[place] = float(grown[~field].sum(dtype=np.float64)) / total
    return shares


def heat_shares(
    outside: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
    predicted: Classes,
    patients: Groups,
    *,
    classes: Sequence[str],
) -> tuple[HeatShare, ...]:
    """Average shares by predicted class, with intervals by bootstrap over patients.

    Args:
        outside: Shape (n,), share of the heat outside the lungs; NaN where unknown.
        area: Shape (n,), share of the film outside the lungs.
        predicted: Shape (n,), index of the class whose heat map it is.
        patients: Shape (n,), the number of each film's patient.
        classes: Names of the classes.

    Returns:
        First all films, then those of each class.
    """
    known = ~np.isnan(outside)
    chosen = [("all", known)]
    chosen += [(name, known & (predicted == number)) for number, name in enumerate(classes)]
    return tuple(
        HeatShare(name, _mean(outside, some, patients), _mean(area, some, patients))
        for name, some in chosen
    )


def _mean(
    values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_], patients: Groups
) -> Figure:
    rows = np.flatnonzero(chosen)
    kept = values[rows]

    def statistics(weights: Weights) -> Values:
        return ratio(weights @ kept, weights.sum(axis=1))[:, None]

    (estimate,) = bootstrap_by_group(statistics, numbered(patients[rows]))
    return resampled(estimate, len(rows), _NO_FILM)
