"""What follows the progress of a training: the terminal, the file of metrics, the caller."""

from collections.abc import Callable, Sequence

from cxrbatch.training.console import Console
from cxrbatch.training.loop import EpochMetrics, TrainingListener
from cxrbatch.training.metrics_log import MetricsLog


class RunListener(TrainingListener):
    """Shows and logs the progress of a training."""

    def __init__(
        self,
        console: Console,
        *,
        log: MetricsLog | None,
        started: Callable[[], object],
        on_epoch: Callable[[EpochMetrics], object] | None,
    ) -> None:
        """Keep what to call.

        Args:
            console: Shows progress.
            log: The file of metrics; None in all processes but the first, which call neither of
                the functions.
            started: Called once before the first step, before anything is logged.
            on_epoch: Called with the metrics of each epoch; None calls nothing.
        """
        self._console, self._log, self._on_epoch = console, log, on_epoch
        self._started = started

    def started(self, history: Sequence[EpochMetrics]) -> None:
        """Call the function of that name, then make the file contain the epochs that are done."""
        if self._log is not None:
            self._started()
            self._log.start(history)

    def stepped(self, images: int) -> None:
        """Move the progress bar."""
        self._console.advance(images)
        if self._log is not None:
            self._log.stepped(images)

    def epoch_done(self, metrics: EpochMetrics) -> None:
        """Show and log the metrics, then call `on_epoch`."""
        self._console.epoch(metrics)
        if self._log is not None:
            self._log.append(metrics)
            if self._on_epoch is not None:
                self._on_epoch(metrics)
