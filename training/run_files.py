"""The files that a training writes: their paths, and what may be replaced before it starts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.files import check_output
from cxrbatch.training import states
from cxrbatch.training.config import check_replaceable

_CONFIG, _METRICS = "toml", "metrics.jsonl"
_BESIDE = ("split.csv", "augmented.png", "curves.svg", "results.parquet", _CONFIG, _METRICS)
_LEAKS = "leaks.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Paths of the checkpoint, the files beside it and the folder of states, and what may be there.

    Attributes:
        output: The checkpoint to write.
        mismatches: File to list labels and files in that do not match; None lists none.
        resume: Continue a stopped training.
        overwrite: Replace the outputs and, without `resume`, delete a stopped training's states.
    """

    output: Path
    mismatches: Path | None
    resume: bool
    overwrite: bool

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
        """Refuse a checkpoint that is there, unless it may be replaced.

        Raises:
            UsageError: It is there and `overwrite` is false, or it cannot be written, or has the
                name of the configuration.
        """
        if self.output == self.config:
            raise UsageError(
                f"{self.output} is the name of the configuration; choose another -o, such as "
                f"{self.beside('safetensors')}"
            )
        check_output(self.output, overwrite=self.overwrite or self.continues)

    def check_sources(self, sources: Iterable[Path | None]) -> None:
        """Refuse to replace a file that is read, also with `overwrite`.

        Args:
            sources: Files that are read; None stands for no file.

        Raises:
            UsageError: One of them is a file that the training writes.
        """
        read = set(_inodes(filter(None, sources)))
        for path in [self.output, *self._listed(), *map(self.beside, _BESIDE), self.leaks]:
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
        for path in [*map(self.beside, _BESIDE), *self._listed()]:
            check_output(path, overwrite=self.overwrite or self.resume)
        check_output(self.leaks, overwrite=True)

    def _listed(self) -> list[Path]:
        return [] if self.mismatches is None else [self.mismatches]


def _inodes(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Device and inode of the paths that exist: they identify a file under any name."""
    for path in paths:
        with suppress(OSError):
            state = path.stat()
            yield state.st_dev, state.st_ino
