"""Messages, progress bars and figures of a training at the terminal."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.files import shown

if TYPE_CHECKING:
    from tqdm import tqdm

    from cxrbatch.training.cache import UnreadableFile
    from cxrbatch.training.labelled_files import CollectedLabels
    from cxrbatch.training.loop import EpochMetrics
    from cxrbatch.training.mismatches import Mismatch

_LISTED, _NAMED = 20, 3


class Console:
    """Writes messages and progress bars to stderr, and figures to stdout.

    Attributes:
        epochs: Number of epochs that are done.
    """

    def __init__(self, *, enabled: bool = True, words: Sequence[str] = ()) -> None:
        """Make a console without a progress bar; `bar` shows one.

        Args:
            enabled: If false, no method writes anything.
            words: Words of the command line after `cxrbatch`, which `interrupted` repeats.
        """
        self.epochs = 0
        self._fold = ""
        self._enabled = enabled
        self._words = words
        self._bar: tqdm[Any] | None = None

    def say(self, *lines: str) -> None:
        """Write each text as a line to stderr; nothing if the console is disabled."""
        for line in lines if self._enabled else ():
            click.echo(line, err=True)

    def show(self, *lines: tuple[str, str]) -> None:
        """Write each pair of title and text as a line to stdout; nothing if disabled."""
        for title, text in lines if self._enabled else ():
            click.echo(f"{title:12} {text}")

    @contextmanager
    def bar(self, title: str, total: int | None, unit: str) -> Iterator[None]:
        """Show a progress bar on stderr until the context ends; `advance` moves it.

        If the console is disabled, or stderr is not a terminal, no bar is shown.

        Args:
            title: Text before the bar.
            total: Number of units at which the bar is full; None if it is not known.
            unit: Name of a unit, such as "file".

        Yields:
            None.
        """
        from tqdm import tqdm

        disable = None if self._enabled else True
        with tqdm(total=total, desc=title, unit=unit, disable=disable) as self._bar:
            yield

    def advance(self, count: int) -> None:
        """Move the progress bar by `count` units; do nothing outside the context of `bar`."""
        if self._bar is not None:
            self._bar.update(count)

    def epoch(self, metrics: "EpochMetrics") -> None:
        """Set `epochs` to the number of a finished epoch; write its losses and macro AUC to stderr.

        Nothing is written if the console is disabled.
        """
        self.epochs = metrics.number
        self.say(
            f"epoch {metrics.number}: loss {metrics.loss:.4f}, "
            f"validation loss {metrics.val_loss:.4f}, validation macro AUC {metrics.macro_auc:.4f}"
        )

    def fold(self, number: int, count: int) -> None:
        """Write to stderr that a fold begins; nothing if the console is disabled.

        Args:
            number: Number of the fold, from 1.
            count: Number of all folds.
        """
        self.epochs, self._fold = 0, f" of fold {number}"
        self.say(f"fold {number} of {count}")

    def interrupted(self) -> None:
        """Write to stderr after how many epochs the training was interrupted, and how to continue.

        The command to continue is that of `words` with --resume, under `torchrun` if that started
        several on this machine. Only the first process writes, and none if the console is disabled.
        """
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        several = ["torchrun", "--nproc-per-node", processes, "-m"] if processes != "1" else []
        flag = [] if "--resume" in self._words else ["--resume"]
        command = shlex.join([*several, "cxrbatch", *self._words, *flag])
        if os.environ.get("RANK", "0") == "0":
            self.say(
                f"interrupted after {self.epochs} whole epochs{self._fold}; go on with: {command}"
            )

    def mismatches(self, labels: "CollectedLabels", *, listing: Path | None) -> None:
        """Write labels and files that do not match to stderr; nothing if the console is disabled.

        Up to 20 mismatches of each reason have a line, and one more counts the rest, if any. If
        there are images without a label, a warning counts them and names up to three.

        Args:
            labels: The labels and their mismatches.
            listing: The file that lists all of them, if any; the lines that count name it.
        """
        where = "--mismatches FILE lists them" if listing is None else f"all are in {listing}"
        counts: Counter[str] = Counter()
        for item in labels.mismatches:
            counts[item.reason] += 1
            if counts[item.reason] <= _LISTED:
                self.say(f"{item.reason}: {_row_of(item)} ({item.detail})")
        for reason, count in counts.items():
            if count > _LISTED:
                self.say(f"{reason}: {count - _LISTED:,} more; {where}")
        if labels.unlabelled:
            names = ", ".join(map(shown, labels.unlabelled_paths[:_NAMED]))
            self.say(
                f"warning: images without a label are left out: {labels.unlabelled:,}, such as "
                f"{names}; {where}"
            )

    def unreadable(self, items: "Sequence[UnreadableFile]") -> None:
        """Write the first 20 files without an image, each with the reason, to stderr.

        One more line counts the rest, if any. Nothing is written if the console is disabled.
        """
        self.say(
            *(f"no image: {shown(item.path)}: {item.outcome.value}" for item in items[:_LISTED])
        )
        if len(items) > _LISTED:
            self.say(f"no image: {len(items) - _LISTED} more files")

    def fold_result(self, summary: Mapping[str, Any]) -> None:
        """Write the kept epoch of a fold and its figures to stdout, and a warning as `result` does.

        Args:
            summary: The part `training` of the card of the fold's checkpoint.
        """
        from cxrbatch.training.controls import border_warning

        number, test = summary["fold"]["number"], summary["test"]
        areas = (
            "undefined" if test[name] is None else f"{test[name]['value']:.3f}"
            for name in ("balanced_accuracy", "macro_auc")
        )
        text = "{}; test: balanced accuracy {}, macro AUC {}"
        self.show((f"fold {number}", text.format(_kept_epoch(summary), *areas)))
        if warning := border_warning(summary["controls"]):
            self.say(warning)

    def folds_result(self, figures: Mapping[str, Any], *, table: Path, doubts: Path) -> None:
        """Write the figures of a cross-validation and the paths of its files to stdout.

        Args:
            figures: As in `FoldsResult`.
            table: Path of the results table.
            doubts: Path of the list of doubted labels.
        """
        if not self._enabled:
            return
        _print_figures("all folds", figures["out_of_fold"])
        spread = figures["spread"]
        for title, name in (("balanced accuracy", "balanced_accuracy"), ("macro AUC", "macro_auc")):
            click.echo(f"{title} of {figures['folds']} folds: {_spread_text(spread[name])}")
        click.echo(f"labels that are likely wrong: {figures['likely_wrong_labels']:,}")
        self.show(("table", shown(str(table))), ("doubts", shown(str(doubts))))
        click.echo("for research only; not a medical device")

    def result(self, summary: Mapping[str, Any], *, checkpoint: Path, table: Path) -> None:
        """Write the epoch that was kept, the figures and the paths of the files to stdout.

        Nothing is written if the console is disabled. The figures are those of validation, of test,
        and of the controls: images without lungs, lungs and borders alone, each source alone. A
        warning goes to stderr if the border alone gives a high macro AUC.

        Args:
            summary: The part `training` of the checkpoint's card.
            checkpoint: Path of the checkpoint.
            table: Path of the results table.
        """
        from cxrbatch.training.controls import SHORT_FORM, border_warning

        if not self._enabled:
            return
        click.echo(_kept_epoch(summary))
        for name in ("validation", "test"):
            if figures := summary[name]:
                _print_figures(name, figures)
        controls = summary["controls"]
        for name in (treatment.name for treatment in SHORT_FORM):
            if figures := controls.get(name):
                text = figures.get("undefined") or _plain(figures)
                click.echo(f"control, {name}: {text}")
        for source, figures in controls["within sources"].items():
            classes = ", ".join(figures["classes"])
            text = figures.get("undefined") or _plain(figures)
            click.echo(f"control, {shown(source)} alone ({classes}): {text}")
        if twins := controls.get("twins"):
            click.echo(f"control, twins: {_twins(twins)}")
        if warning := border_warning(controls):
            self.say(warning)
        click.echo(f"table:      {shown(str(table))}")
        click.echo(f"checkpoint: {shown(str(checkpoint))}")
        click.echo("for research only; not a medical device")


def _kept_epoch(summary: Mapping[str, Any]) -> str:
    kept = summary["history"][summary["chosen_epoch"] - 1]
    return (
        f"kept epoch {kept['number']} of {len(summary['history'])}: "
        f"validation macro AUC {kept['macro_auc']:.4f}"
    )


def _spread_text(spread: Mapping[str, Any]) -> str:
    if not spread["folds"]:
        return "undefined"
    sd = "" if spread["sd"] is None else f", SD {spread['sd']:.3f}"
    return f"mean {spread['mean']:.3f}{sd}, {spread['min']:.3f} to {spread['max']:.3f}"


def _row_of(item: "Mismatch") -> str:
    return f"{item.row}: {shown(item.path)}" if item.path else item.row


def _print_figures(name: str, figures: Mapping[str, Any]) -> None:
    click.echo(
        f"{name} (n = {figures['n']}, {figures['groups']} patients or pictures): "
        f"balanced accuracy {_with_interval(figures['balanced_accuracy'])}, "
        f"macro AUC {_with_interval(figures['macro_auc'])}, "
        f"calibration error {figures['expected_calibration_error']:.3f}{_chance_of(figures)}"
    )
    for label, recall in figures["recall"].items():
        area = _with_interval(figures["auc"][label])
        click.echo(f"  {label}: recall {_with_interval(recall)}, AUC {area}")


def _chance_of(figures: Mapping[str, Any]) -> str:
    high = figures["expected_calibration_error_by_chance"]["95th percentile"]
    return f" (chance alone gives up to {high:.3f})"


def _with_interval(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "undefined: no image, or of one class only"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def _twins(figures: Mapping[str, Any]) -> str:
    count = f"{figures['n']:,} pairs ({figures['of_training']:,} of training films"
    lost = [f", {figures[why]:,} {why}" for why in ("missing", "unreadable") if figures[why]]
    text = f"{count}{''.join(lost)})"
    if not figures["n"]:
        return text
    largest = figures["largest_change"]
    return (
        f"{text}: one predicted class in {_with_interval(figures['same_class'])}; a probability "
        f"differs by {_with_interval(largest)} on average, of {largest['class']}, the most"
    )


def _plain(figures: Mapping[str, Any]) -> str:
    accuracy, area = (
        "undefined" if value is None else f"{value:.3f}"
        for value in (figures["balanced_accuracy"], figures["macro_auc"])
    )
    return f"balanced accuracy {accuracy}, macro AUC {area}"
