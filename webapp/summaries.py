"""What a table adds up to: outcomes, and accuracy and AUC where it has the truth."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import TableError
from cxrbatch.webapp.filters import is_labelled
from cxrbatch.webapp.opened import OpenedTable

_PATIENCE = 0.1


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


class Summaries:
    """Adds up in the background, each table once: a large one takes seconds."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._begun: WeakKeyDictionary[OpenedTable, Future[Accuracy | None]] = WeakKeyDictionary()

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def accuracy(self, opened: OpenedTable) -> Accuracy | None:
        """Give what is known.

        Returns:
            None where the table has no truth.

        Raises:
            TimeoutError: It is still being added up.
            TableError: The table is damaged.
        """
        if not is_labelled(opened.table):
            return None
        future = self._begun.get(opened)
        if future is None:
            future = self._begun[opened] = self._thread.submit(_accuracy, opened)
        return future.result(_PATIENCE)

    def shown(self, opened: OpenedTable) -> tuple[Accuracy | None, bool]:
        """Give what is known, and whether it is still being added up."""
        with suppress(TableError):
            try:
                return self.accuracy(opened), False
            except TimeoutError:
                return None, True
        return None, False


def _accuracy(opened: OpenedTable) -> Accuracy | None:
    # Here and not above: they take a second and much memory.
    from scipy.stats import binomtest

    from cxrbatch.results.metrics import one_vs_rest_auc

    table = opened.table
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
    interval = binomtest(right, len(truth)).proportion_ci(0.95, method="wilson")
    auc = dict(zip(table.classes, areas, strict=True))
    share = right / len(truth)
    return Accuracy(len(truth), side, share, float(interval.low), float(interval.high), auc)
