"""Accuracy and AUC of a table, added up in a child process: what that takes, it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.results.table import open_table


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How good the scores are, on the images whose truth is a class of the model.

    Attributes:
        n: Images counted.
        side: The side of the split that they are of; empty where there is no side "test".
        accuracy: Share of right predictions, in [0, 1].
        low: Lower bound of its 95 % interval, Wilson's, images taken for independent.
        high: Upper bound.
        auc: One-vs-rest area under the ROC curve by class; None where it is undefined.
    """

    n: int
    side: str
    accuracy: float
    low: float
    high: float
    auc: Mapping[str, float | None]

    @property
    def macro_auc(self) -> float | None:
        """Mean of the areas that are defined."""
        areas = [area for area in self.auc.values() if area is not None]
        return sum(areas) / len(areas) if areas else None


def add_up(path: Path) -> Accuracy | None:
    """Add up a table that has the truth; None where it has it of no scored image.

    Raises:
        TableError: The table is damaged.
    """
    # Here and not above: they take a second and much memory, in the child alone.
    from cxrbatch.results.statistics.intervals import wilson
    from cxrbatch.results.statistics.metrics import one_vs_rest_auc

    table = open_table(path)
    scores = [f"p_{name}" for name in table.classes]
    read = table.read(["truth", "split", "prediction", *scores])
    known = pa.array(table.classes)
    counted = pc.and_(pc.is_in(read["truth"], known), pc.is_in(read["prediction"], known))
    on_test = pc.and_(counted, pc.fill_null(pc.equal(read["split"], "test"), False))
    side = "test" if pc.any(on_test).as_py() else ""
    read = read.filter(on_test if side else counted)
    if not read.num_rows:
        return None
    truth, predicted = (
        pc.index_in(read[name], known).to_numpy() for name in ("truth", "prediction")
    )
    areas = one_vs_rest_auc(truth, np.stack([read[name].to_numpy() for name in scores], axis=1))
    right = int((truth == predicted).sum())
    interval = wilson(right, len(truth))
    auc = dict(zip(table.classes, areas, strict=True))
    share = right / len(truth)
    return Accuracy(len(truth), side, share, interval.low, interval.high, auc)
