"""Times taken in turn, so that a machine that is busy for a while is so for all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


class Rounds:
    """What is measured again and again, in rounds that may lie apart."""

    def __init__(self, measures: Mapping[str, Callable[[], float]], *, seconds: float) -> None:
        """Warm up.

        Args:
            measures: By name, what does something once and gives what is to be known of it.
            seconds: That each of them gets in a round; each is called once at least.
        """
        self._measures = measures
        self._seconds = seconds
        self._found: dict[str, list[float]] = {name: [] for name in measures}
        for measure in measures.values():
            measure()

    def take(self) -> None:
        """Take one round."""
        for name, measure in self._measures.items():
            end = time.perf_counter() + self._seconds
            self._found[name].append(measure())
            while time.perf_counter() < end:
                self._found[name].append(measure())

    def mean(self, name: str) -> float:
        """The mean of one measure over all rounds so far.

        Not the median: a run has its share of a machine's slow moments, and only means add up.
        """
        return statistics.fmean(self._found[name])
