"""What a run is asked for, what it reports meanwhile, and what it comes to; imports no torch."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbatch.errors import UsageError, plain_number
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.reading.readings import memory_for
from cxrbatch.workers.worker import WorkerLimits

MOST_CHANGE = 0.002
"""Largest allowed change of the area under a class's ROC curve, in either direction."""

# Kind and range of the options that are numbers; a file may be read for a day at most.
_NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    **dict.fromkeys(("batch_size", "max_pixels", "commit_every"), (int, 1, math.inf)),
    "workers": (int, 0, math.inf),
    "deadline": (float, 0.1, 86_400),
}
_LONGEST_PART = 40
_NAMES = {
    "backend": ("torch", "openvino"),
    "precision": ("auto", "fp32", "bf16", "fp16", "int8"),
}


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The calibration of a network for 8-bit arithmetic, and what that costs in accuracy.

    Attributes:
        ranges: Start and end of the range to quantise of each tensor, shape (tensors, 2), as
            `model.openvino.activation_ranges` returns them.
        images: Number of labelled images by class name.
        unreadable: Number of files, of those chosen, that gave no image.
        sha256: Hash of the images and their classes.
        auc_before: Area under the ROC curve of each class in float32, by class name.
        auc_after: The same in 8 bits.
    """

    ranges: "npt.NDArray[np.float32]"
    images: dict[str, int]
    unreadable: int
    sha256: str
    auc_before: dict[str, float]
    auc_after: dict[str, float]

    @property
    def auc_change(self) -> dict[str, float]:
        """Change of the area under the ROC curve: `auc_after` less `auc_before`, by class name."""
        return {name: self.auc_after[name] - auc for name, auc in self.auc_before.items()}

    @property
    def worst(self) -> str:
        """Name of the class whose area changes most, up or down; the first of equal ones."""
        change = self.auc_change
        return max(change, key=lambda name: abs(change[name]))

    def to_provenance(self) -> dict[str, Any]:
        """Return `auc_change` and all attributes but the ranges, as JSON values for a table."""
        values = {name: value for name, value in asdict(self).items() if name != "ranges"}
        return {**values, "auc_change": self.auc_change}


if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.model.preprocessing import Recipe
    from cxrbatch.reading.radiograph import ReadingOptions
    from cxrbatch.scoring.table_writer import Counts


@dataclass(frozen=True, slots=True)
class Part:
    """One of the parts that an archive is scored in: consecutive files; written as 2/8.

    Attributes:
        number: From 1.
        of: Number of parts.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def from_text(cls, text: str) -> "Part":
        """Make a part from text such as "2/8", the second of eight parts.

        Raises:
            UsageError: It is no text of two whole numbers with a slash between, in less than 40
                characters, or the first is below 1 or above the second.
        """
        if not isinstance(text, str):
            raise UsageError(f"{text!r:.60} is not like '2/8', the second of eight parts.")
        number, _, of = text.partition("/")
        is_pair = number.isdecimal() and of.isdecimal() and len(text) < _LONGEST_PART
        if not (is_pair and 1 <= int(number) <= int(of)):
            raise UsageError(f"{text[:60]!r} is not like 2/8, the second of eight parts.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def numbers(self, files: int) -> range:
        """Return which files of a manifest are in this part.

        Args:
            files: Number of files in the manifest.

        Returns:
            The numbers of consecutive files, from 0; the sizes of two parts differ by one at most.
        """
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
        commit_every: Files per shard; a shard not whole when a run is killed is scored again.
        part: The part of the archive that is scored.
        fast_decode: Decode at a reduced size where the codec offers it.
        gate: Withhold the scores of images that the checkpoint's input gate flags.
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
    gate: bool = False

    @property
    def limits(self) -> WorkerLimits:
        """Time (`deadline`) and memory (by `max_pixels`) that reading one file may use."""
        return WorkerLimits(seconds=self.deadline, memory=memory_for(self.max_pixels))

    def reading(self, recipe: "Recipe") -> "ReadingOptions":
        """Make the options for reading images (which modalities, up to which size) from these.

        Args:
            recipe: The model's recipe: its policy for images without VOI transform is taken over;
                with `fast_decode` images are decoded to no less than its `least_size`.
        """
        from cxrbatch.reading.radiograph import RADIOGRAPH_MODALITIES, ReadingOptions

        return ReadingOptions(
            max_pixels=self.max_pixels,
            modalities=RADIOGRAPH_MODALITIES | self.modalities,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if self.fast_decode else None,
        )

    def deciding(self, recipe: "Recipe") -> dict[str, Any]:
        """Return the options that rows depend on, by their names in a table's provenance.

        Args:
            recipe: The model's recipe.
        """
        return {
            "batch_size": self.batch_size,
            "max_pixels": self.max_pixels,
            "modalities": sorted(self.reading(recipe).modalities),
            "follow_links": self.follow_links,
            "seconds_per_file": self.deadline,
            # Left out where not asked for, as in tables that are older than these options.
            **{name: True for name in ("fast_decode", "gate") if getattr(self, name)},
        }

    def checked(self) -> "ScoringOptions":
        """Check all options but `calibration`, `modalities` and `part`; return them as new options.

        Numbers of NumPy's types become Python's own, which a table's provenance can hold.

        Raises:
            UsageError: A value is of another type, a number is out of its range, or a name is
                unknown; the message names the option or the attribute.
        """
        for name in ("follow_links", "fast_decode", "gate"):
            check_flag(name, getattr(self, name))
        for name, known in _NAMES.items():
            if getattr(self, name) not in known:
                raise _refused(name, getattr(self, name), f"choose {', '.join(known)}")
        if not isinstance(self.device, str):
            raise _refused("device", self.device, "give a text such as cpu or cuda:0")
        numbers: dict[str, Any] = {
            name: plain_number(f"--{name.replace('_', '-')}", getattr(self, name), *limits)
            for name, limits in _NUMBERS.items()
        }
        return replace(self, **numbers)


def check_flag(name: str, value: object) -> None:
    """Raise UsageError unless the value of an argument is True or False.

    Args:
        name: Name of the argument, for the message.
        value: What the caller gave.

    Raises:
        UsageError: `value` is no bool; 0 and 1 are none.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {repr(value)[:60]}; give True or False")


def _refused(name: str, value: object, remedy: str) -> UsageError:
    return UsageError(f"--{name.replace('_', '-')} is {repr(value)[:60]}; {remedy}")


@dataclass(slots=True)
class Summary:
    """The result of a run: counts of its table, and how fast it was made.

    Attributes:
        output: The table.
        counts: Numbers of files, rows, outcomes and predictions of the table.
        passed_over: Number of entries of folders and containers that have no row, by kind.
        read: Files whose rows were made in this run, not kept.
        images: Images that were scored in this run.
        seconds: Time of scoring, until the table is in its place.
        scoring: Seconds of these in which the model computed; 0 where that is not known.
        device: The device that computed, in words.
        precision: The precision that was used.
        quantisation: The change of accuracy by int8, where that is used.
        has_gate: Whether the checkpoint has an input gate.
        lasting_patient_keys: Whether the next run will give patients the same keys: False if the
            user's patient secret cannot be used.
        older_schema: Schema version of the table that was updated, if it is an older one: rows that
            were kept of it lack the columns that it has not; else empty.
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
    quantisation: Quantisation | None = None
    has_gate: bool = False
    lasting_patient_keys: bool = True
    older_schema: str = ""

    @property
    def scored(self) -> int:
        """Number of rows with scores."""
        return self.counts.outcomes[Outcome.SCORED]

    @property
    def failures(self) -> int:
        """Number of rows whose outcome is a failure, plus folders that could not be read.

        Excluded images, as of other modalities, are no failures.
        """
        outcomes = self.counts.outcomes
        images = sum(outcomes[code] for code in Outcome if code.kind is OutcomeKind.FAILED)
        return images + self.passed_over["unreadable_folder"]


class Progress:
    """Base class of objects that show or log the progress of a run.

    The run calls these methods, from several threads. Here each does nothing; a subclass overrides
    those that it wants. Results are ignored.
    """

    def loaded(self) -> None:
        """Do nothing; called once, before the model is loaded and the archive is listed."""

    def found(self, files: int) -> None:
        """Do nothing; called for each file found in the archive, with their number so far."""

    def start(self, files: int, *, done: int) -> None:
        """Do nothing; called when the archive is listed and scoring begins.

        Args:
            files: Number of files of the run.
            done: Number of these that an earlier, unfinished run has scored already.
        """

    def advance(self, files: int) -> None:
        """Do nothing; called when `files` more files are read, or kept from an earlier table.

        Their rows may not be on disk yet.
        """

    def shard_done(self, files: int) -> None:
        """Do nothing; called when the rows of `files` more files are on disk to stay."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Do nothing; called for each image that could not be read.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
            path: The file's path.
            outcome: Why it could not be read.
        """

    def retried(self, number: int, path: str) -> None:
        """Do nothing; called when a file is read a second time, as its worker process was lost.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
            path: The file's path.
        """

    def fewer_workers(self) -> None:
        """Do nothing; called when fewer processes read from now on, as several were killed."""

    def close(self) -> None:
        """Do nothing; called when the run has ended, also by an error."""
