"""What tables add up to, each once: a large one takes seconds."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import CxrbatchError
from cxrbatch.results.table import open_table
from cxrbatch.webapp.children import Children
from cxrbatch.webapp.filters import is_labelled
from cxrbatch.webapp.opened import OpenedTable
from cxrbatch.workers.forkserver_client import ForkserverClosed
from cxrbatch.workers.worker import WorkerFault


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


_PATIENCE = 0.1


class Summaries:
    """Adds up in the background, one table at a time."""

    def __init__(self, children: Children) -> None:
        """Begin nothing yet.

        Args:
            children: Add up.
        """
        self._children = children
        self._thread = ThreadPoolExecutor(1)
        self._begun: WeakKeyDictionary[OpenedTable, Future[Accuracy | None]] = WeakKeyDictionary()

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def accuracy(self, opened: OpenedTable) -> tuple[Accuracy | None, bool]:
        """Give what is known, and whether it is still being added up."""
        if not is_labelled(opened.table):
            return None, False
        future = self._begun.get(opened)
        if future is None:
            future = self._begun[opened] = self._thread.submit(self._added_up, opened)
        try:
            return future.result(_PATIENCE), False
        except TimeoutError:
            return None, True

    def _added_up(self, opened: OpenedTable) -> Accuracy | None:
        try:
            found = self._children.call(add_up, opened.place)
        except (CxrbatchError, ForkserverClosed):
            return None
        return None if isinstance(found, WorkerFault) else found
