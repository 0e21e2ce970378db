"""What a run is asked for, what it reports meanwhile, and what it comes to; imports no torch."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cxrbatch.errors import UsageError
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.reading.readings import memory_for
from cxrbatch.workers.worker import WorkerLimits

if TYPE_CHECKING:
    from tqdm import tqdm

    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.model.preprocessing import Recipe
    from cxrbatch.reading.radiograph import ReadingOptions
    from cxrbatch.scoring.quantisation import Quantisation
    from cxrbatch.scoring.table_writer import Counts


@dataclass(frozen=True, slots=True)
class Part:
    """One of the equal parts that an archive is scored in; written as 2/8.

    Attributes:
        number: From 1.
        of: Number of parts.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def from_text(cls, text: str) -> "Part":
        """Read "2/8", the second of eight parts.

        Raises:
            UsageError: It is not written so.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"{text!r} is not like 2/8, the second of eight parts.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def numbers(self, files: int) -> range:
        """The files of this part, by their numbers in a manifest of `files` files."""
        return range(files * (self.number - 1) // self.of, files * self.number // self.of)


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """Options of one run.

    Attributes:
        batch_size: Images per forward pass.
        workers: Processes that read files; 0 reads in the main process.
        precision: "auto", "fp32", "bf16", "fp16" or "int8".
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "torch" or "openvino".
        calibration: Labelled images for int8, as a folder of class folders or a file of labels.
        follow_links: Follow symbolic links.
        max_pixels: Refuse images that claim more pixels.
        modalities: DICOM modalities that are scored, beside CR, DX and RG.
        deadline: Seconds that reading one file may take.
        commit_every: Files per shard: at most so many are scored again after a run was killed.
        part: The part of the archive that is scored.
        fast_decode: Decode at a reduced size where the codec offers it.
    """

    batch_size: int = 32
    workers: int = 1
    precision: "Precision" = "auto"
    device: str = "auto"
    backend: "Backend" = "torch"
    calibration: Path | None = None
    follow_links: bool = False
    max_pixels: int = 200_000_000
    modalities: frozenset[str] = frozenset()
    deadline: float = 60.0
    commit_every: int = 4096
    part: Part = field(default_factory=Part)
    fast_decode: bool = False

    @property
    def limits(self) -> WorkerLimits:
        """Time and memory that one file may use."""
        return WorkerLimits(seconds=self.deadline, memory=memory_for(self.max_pixels))

    def reading(self, recipe: "Recipe") -> "ReadingOptions":
        """Make the reader's options for a model with this recipe."""
        from cxrbatch.reading.radiograph import RADIOGRAPH_MODALITIES, ReadingOptions

        return ReadingOptions(
            max_pixels=self.max_pixels,
            modalities=RADIOGRAPH_MODALITIES | self.modalities,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if self.fast_decode else None,
        )

    def check(self) -> None:
        """Check the numbers and names, which the command line checks by itself.

        Raises:
            UsageError: One of them is out of its range.
        """
        least = {"batch_size": 1, "workers": 0, "max_pixels": 1, "deadline": 0.1, "commit_every": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")
        names = {
            "backend": ("torch", "openvino"),
            "precision": ("auto", "fp32", "bf16", "fp16", "int8"),
        }
        for name, known in names.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose {', '.join(known)}")


@dataclass(slots=True)
class Summary:
    """What became of an archive.

    Attributes:
        output: The table.
        counts: Numbers of files, rows, outcomes and predictions of the table.
        passed_over: Number of directory entries that have no row, by kind.
        read: Files that were read in this run.
        images: Images that were scored in this run.
        seconds: Time from the first file read to the table in its place.
        scoring: Seconds of these in which the model computed; 0 where too few images to tell.
        device: The device that computed, in words.
        precision: The precision that was used.
        quantisation: The change of accuracy by int8, where that is used.
        lasting_patient_keys: Whether the next run will give patients the same keys.
    """

    output: Path
    counts: "Counts"
    passed_over: Counter[str] = field(default_factory=Counter)
    read: int = 0
    images: int = 0
    seconds: float = 0.0
    scoring: float = 0.0
    device: str = ""
    precision: str = ""
    quantisation: "Quantisation | None" = None
    lasting_patient_keys: bool = True

    @property
    def failures(self) -> int:
        """Number of images and folders that could not be read."""
        outcomes = self.counts.outcomes
        images = sum(outcomes[code] for code in Outcome if code.kind is OutcomeKind.FAILED)
        return images + self.passed_over["unreadable_folder"]


class Progress:
    """Receives the progress of a run, from several threads; every method does nothing here."""

    def loaded(self) -> None:
        """All modules are imported; the run begins."""

    def found(self, files: int) -> None:
        """The walk over the archive has found `files` files so far."""

    def start(self, files: int, *, done: int) -> None:
        """Scoring begins: `done` of `files` files are done, by an earlier, unfinished run."""

    def advance(self, files: int) -> None:
        """So many more files are read, and their rows on their way."""

    def shard_done(self, files: int) -> None:
        """So many more files are on the disk, where a later run finds them."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """An image could not be read: its file's number in the manifest, and its path."""

    def retried(self, number: int, path: str) -> None:
        """The process that read a file was lost; the file is read once more."""

    def fewer_workers(self) -> None:
        """Several reading processes were killed, so fewer read at once; called at most once."""

    def close(self) -> None:
        """The run has ended."""


class ProgressBar(Progress):
    """A tqdm bar on stderr, where that is a terminal: files found, then files scored.

    Attributes:
        files: Number of files to score.
        kept: Files of these that are on the disk.
    """

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self.files = 0
        self.kept = 0

    def found(self, files: int) -> None:
        """Show the number of files."""
        if self._bar is None:
            self._open("looking for files", None, 0)
        if self._bar is not None:
            self._bar.update(files - self._bar.n)

    def start(self, files: int, *, done: int) -> None:
        """Write how much an unfinished run has left, and open a bar for it."""
        self.close()
        self.files, self.kept = files, done
        if done:
            self._write(
                f"going on with an unfinished run: {done:,} of {files:,} files are done, "
                f"{files - done:,} are left"
            )
        self._open("scoring", files, done)

    def advance(self, files: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(files)

    def shard_done(self, files: int) -> None:
        """Count the files that are on the disk."""
        self.kept += files

    def fewer_workers(self) -> None:
        """Write a warning above the bar."""
        self._write(
            "warning: reading processes were killed, most likely as memory is short: fewer read "
            "at once from now on; use fewer --workers or a machine with more memory"
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, what: str, total: int | None, done: int) -> None:
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(
            desc=what, total=total, initial=done, unit=" files", disable=None, dynamic_ncols=True
        )

    def _write(self, message: str) -> None:
        from tqdm import tqdm

        tqdm.write(message, file=sys.stderr)
