"""The files that a training writes: their paths, and what may be replaced before it starts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.files import check_output
from cxrbatch.training import states
from cxrbatch.training.config import check_replaceable

MOST_FOLDS = 20
"""Most folds of a cross-validation."""

_CONFIG, _METRICS, _CURVES = "toml", "metrics.jsonl", "curves.svg"
_BESIDE = ("split.csv", "augmented.png", "results.parquet", _CONFIG)
_OF_FOLDS = ("folds.json", "doubts.csv", "doubts.png")
_LEAKS = "leaks.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Paths of the checkpoint, the files beside it and the folder of states, and what may be there.

    Attributes:
        output: The checkpoint to write.
        mismatches: File to list labels and files in that do not match; None lists none.
        resume: Continue a stopped training.
        overwrite: Replace the outputs and, without `resume`, delete a stopped training's states.
        folds: Number of networks that a cross-validation trains; None without one.
    """

    output: Path
    mismatches: Path | None
    resume: bool
    overwrite: bool
    folds: int | None = None

    def of_fold(self, number: int) -> "RunFiles":
        """Return the files of one fold, from 1: of m.safetensors, m.fold1.safetensors and so on."""
        output = self.output.with_name(f"{self.output.stem}.fold{number}{self.output.suffix}")
        return replace(self, output=output, mismatches=None, folds=None)

    @property
    def parts(self) -> "list[RunFiles]":
        """The files of each fold; without folds, these files alone."""
        return [self.of_fold(n + 1) for n in range(self.folds)] if self.folds else [self]

    @property
    def folder(self) -> Path:
        """Folder for states, best checkpoint and, without `cache`, decoded images.

        It lies beside `output`: m.training for m.safetensors. It need not exist.
        """
        return states.training_folder(self.output)

    @property
    def continues(self) -> bool:
        """Whether `resume` is true and `folder` contains a stopped training."""
        return self.resume and states.holds_run(self.folder)

    def beside(self, ending: str) -> Path:
        """Return the path of a file beside the checkpoint: of m.safetensors, m.`ending`."""
        return self.output.with_name(f"{self.output.stem}.{ending}")

    @property
    def config(self) -> Path:
        """Path of the TOML file with all options of the training, from its first step on."""
        return self.beside(_CONFIG)

    @property
    def metrics(self) -> Path:
        """Path of the file with a line of JSON for each epoch, from the first step on."""
        return self.beside(_METRICS)

    @property
    def leaks(self) -> Path:
        """Path of the list of pairs of one patient or picture in two subsets; it may not exist."""
        return self.beside(_LEAKS)

    def check_output(self) -> None:
        """Refuse a checkpoint that is there, of any fold, unless it may be replaced.

        Raises:
            UsageError: It is there and `overwrite` is false, or it cannot be written, or has the
                name of the configuration.
        """
        if self.output == self.config:
            raise UsageError(
                f"{self.output} is the name of the configuration; choose another -o, such as "
                f"{self.beside('safetensors')}"
            )
        for part in self.parts:
            check_output(part.output, overwrite=self.overwrite or self.continues)

    def check_sources(self, sources: Iterable[Path | None]) -> None:
        """Refuse to replace a file that is read, also with `overwrite`.

        Args:
            sources: Files that are read; None stands for no file.

        Raises:
            UsageError: One of them is a file that the training writes.
        """
        read = set(_inodes(filter(None, sources)))
        outputs = [part.output for part in self.parts]
        for path in [*outputs, *self._written(), self.leaks]:
            if read.intersection(_inodes([path])):
                raise UsageError(f"{path} is to be read and would be replaced; choose another -o")

    def make_way(
        self, fingerprint: Callable[[], states.Fingerprint], say: Callable[[str], object]
    ) -> None:
        """Check what a stopped training and earlier runs left; remove it with `overwrite`.

        Args:
            fingerprint: Called if a stopped training is continued; returns what both must share.
            say: Called with a line for the user.

        Raises:
            UsageError: A file is there that may not be replaced, or a stopped training that is
                neither continued nor to be removed, or one of other options. A configuration that a
                person wrote is not replaced, also with `overwrite`.
            CxrbatchError: A state cannot be read or deleted.
        """
        check_replaceable(self.config)
        if self.continues:
            states.check_state(self.folder, fingerprint=fingerprint())
        if not states.holds_run(self.folder):
            if self.resume:
                say("nothing to go on with: starting from the first epoch")
        elif not self.resume:
            if not self.overwrite:
                raise states.stopped_training(self.folder)
            states.clear_states(self.folder)
            self.clear_folds()
        for path in self._written():
            check_output(path, overwrite=self.overwrite or self.resume)
        check_output(self.leaks, overwrite=True)

    def clear_folds(self) -> None:
        """Delete the states of all folds of cross-validations to `output` that were stopped.

        Raises:
            CxrbatchError: A file cannot be deleted.
        """
        for number in range(1, MOST_FOLDS + 1):
            folder = self.of_fold(number).folder
            if folder.is_dir():
                states.clear_states(folder)
                with suppress(OSError):
                    folder.rmdir()

    def _written(self) -> list[Path]:
        """Paths of all that is written but the checkpoints, and a list of leaks."""
        names = (*_BESIDE, *(_OF_FOLDS if self.folds else ()))
        listed = [] if self.mismatches is None else [self.mismatches]
        of_parts = [part.beside(name) for part in self.parts for name in (_CURVES, _METRICS)]
        return [*map(self.beside, names), *of_parts, *listed]


def _inodes(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Device and inode of the paths that exist: they identify a file under any name."""
    for path in paths:
        with suppress(OSError):
            state = path.stat()
            yield state.st_dev, state.st_ino
