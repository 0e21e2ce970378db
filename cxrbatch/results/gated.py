"""What the input gate flagged among analysed images, and the figures of those it did not."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.analysis import Analysis
from cxrbatch.results.evaluation import headline_without_others
from cxrbatch.results.figures import Headline

UNKNOWN_KIND = "of no kind that the gate knows"


@dataclass(frozen=True, slots=True)
class GateFigures:
    """The gate's part in a table.

    Attributes:
        images: Number of analysed images.
        flagged: Number of these that are flagged as out of distribution.
        kinds: What the gate takes the flagged ones for -> number of images, the largest first.
        inside: Figures of the analysed images that are not flagged; None without a truth, or if
            none or all are flagged.
    """

    images: int
    flagged: int
    kinds: Mapping[str, int]
    inside: Headline | None


def evaluate_gate(analysis: Analysis) -> GateFigures | None:
    """Count flagged images among the analysed, and evaluate the others.

    Returns:
        The counts and figures; None if no analysed image has a score of a gate.

    Raises:
        TableError: The table is damaged.
    """
    facts = analysis.results.read(["image_flags", "ood_score", "ood_kind"]).iloc[analysis.rows]
    if not facts["ood_score"].notna().any():
        return None
    is_flagged = np.array([_is_flagged(flags) for flags in facts["image_flags"]], bool)
    kinds = Counter(facts["ood_kind"][is_flagged].fillna(UNKNOWN_KIND))
    inside = None
    if analysis.truth is not None and 0 < is_flagged.sum() < len(is_flagged):
        chosen = analysis.chosen[~is_flagged]
        inside = headline_without_others(replace(analysis, chosen=chosen))
    return GateFigures(len(is_flagged), int(is_flagged.sum()), dict(kinds.most_common()), inside)


def strangest(analysis: Analysis, *, most: int) -> npt.NDArray[np.int64]:
    """Choose flagged images to show: of each kind in turn the one with the largest `ood_score`.

    Args:
        analysis: The images.
        most: Number of images, at most.

    Returns:
        Shape (k,), positions among the analysed images.

    Raises:
        TableError: The table is damaged.
    """
    facts = analysis.results.read(["image_flags", "ood_score", "ood_kind"]).iloc[analysis.rows]
    flagged = np.flatnonzero([_is_flagged(flags) for flags in facts["image_flags"]])
    kinds = facts["ood_kind"].fillna(UNKNOWN_KIND).to_numpy()[flagged]
    scores = facts["ood_score"].to_numpy(np.float64)[flagged]
    turn = np.zeros(len(flagged), np.int64)
    order = np.lexsort((flagged, -scores))
    seen = Counter[str]()
    for place in order.tolist():
        turn[place] = seen[kinds[place]]
        seen[kinds[place]] += 1
    chosen: npt.NDArray[np.int64] = flagged[np.lexsort((flagged, -scores, turn))][:most]
    return chosen


def _is_flagged(flags: object) -> bool:
    return isinstance(flags, list | tuple | np.ndarray) and Flag.OUT_OF_DISTRIBUTION.value in flags
