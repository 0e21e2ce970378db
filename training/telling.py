"""What a training says to the person at the terminal."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.results.paths import shown

if TYPE_CHECKING:
    from cxrbatch.training.data import Unreadable
    from cxrbatch.training.history import Epoch
    from cxrbatch.training.initial import Initial
    from cxrbatch.training.train import Data

_LISTED = 20


class Progress:
    """What is told of the epochs, and how a training that was stopped goes on."""

    def __init__(self) -> None:
        """Note the command's own words."""
        self._epochs = 0
        words = [*(click.get_current_context().obj or ())]
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        several = ["torchrun", "--nproc-per-node", processes, "-m"] if processes != "1" else []
        flag = [] if "--resume" in words else ["--resume"]
        self._again = shlex.join([*several, "cxrbatch", *words, *flag])

    def epoch(self, epoch: "Epoch") -> None:
        """Say what an epoch came to."""
        self._epochs = epoch.number
        _say(
            f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation loss {epoch.val_loss:.4f}, "
            f"AUC {epoch.val_auc:.4f}"
        )

    def interrupted(self) -> None:
        """Say how far it is, and how it goes on; one of several processes says it for all."""
        if os.environ.get("RANK", "0") == "0":
            _say(f"interrupted after {self._epochs} whole epochs; go on with: {self._again}")


def lines(texts: Iterable[str]) -> None:
    """Say some lines."""
    for text in texts:
        _say(text)


def nothing_to_resume() -> None:
    """Say that --resume found nothing."""
    _say("nothing to go on with: starting from the first epoch")


def data(data: "Data", initial: "Initial | None") -> None:
    """Say what is trained on."""
    lines(data.split.report.lines())
    if initial is not None and not initial.has_head_for(data.classes):
        _say("--init has a head for other classes: it is replaced by one of random weights")


def unreadable(items: "Sequence[Unreadable]") -> None:
    """List images that could not be read."""
    for item in items[:_LISTED]:
        _say(f"no image: {shown(item.path)}: {item.outcome.value}")
    if len(items) > _LISTED:
        _say(f"no image: {len(items) - _LISTED} more files")


def result(summary: Mapping[str, Any], output: Path, table: Path) -> None:
    """Say what the model is worth and where everything is."""
    from cxrbatch.training.judging import border_warning

    for side in ("validation", "test"):
        if figures := summary[side]:
            _print_figures(side, figures)
    controls = summary["controls"]
    for name in ("lungs blacked out", "border only"):
        found = controls[name]
        click.echo(
            f"control, {name}: balanced accuracy {_plain(found['balanced_accuracy'])}, "
            f"macro AUC {_plain(found['macro_auc'])}"
        )
    for source, found in controls["within sources"].items():
        worth = found.get("undefined") or (
            f"balanced accuracy {_plain(found['balanced_accuracy'])}, "
            f"macro AUC {_plain(found['macro_auc'])}"
        )
        click.echo(f"control, {shown(source)} alone ({', '.join(found['classes'])}): {worth}")
    if warning := border_warning(controls):
        _say(warning)
    click.echo(f"table:      {shown(str(table))}")
    click.echo(f"checkpoint: {shown(str(output))}")
    click.echo("for research only; not a medical device")


def _print_figures(side: str, figures: Mapping[str, Any]) -> None:
    click.echo(
        f"{side} (n = {figures['n']}, {figures['groups']} patients or pictures): "
        f"balanced accuracy {_ranged(figures['balanced_accuracy'])}, "
        f"macro AUC {_ranged(figures['macro_auc'])}, "
        f"calibration error {figures['expected_calibration_error']:.3f}"
    )
    for name, recall in figures["recall"].items():
        click.echo(f"  {name}: recall {_ranged(recall)}, AUC {_ranged(figures['auc'][name])}")


def _ranged(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "undefined: no image, or of one class only"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def _plain(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _say(text: str) -> None:
    click.echo(text, err=True)
