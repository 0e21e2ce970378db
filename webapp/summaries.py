"""What tables add up to, each once: a large one takes seconds."""

from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from weakref import WeakKeyDictionary

from cxrbatch.errors import CxrbatchError
from cxrbatch.webapp.accuracy import Accuracy, add_up
from cxrbatch.webapp.children import Children
from cxrbatch.webapp.filters import is_labelled
from cxrbatch.webapp.opened import OpenedTable
from cxrbatch.workers.forkserver_client import NurseryClosed
from cxrbatch.workers.isolation import Fault

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
        except (CxrbatchError, NurseryClosed):
            return None
        return None if isinstance(found, Fault) else found
