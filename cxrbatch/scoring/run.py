"""What a run is asked to do, and what became of it."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cxrbatch.atomic import RUN_STATE, sync_folder, written_whole
from cxrbatch.errors import TableError
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Backend, Precision
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.reading.readings import memory_for
from cxrbatch.scoring.quantisation import Quantisation
from cxrbatch.scoring.table_writer import Counts
from cxrbatch.workers.worker import WorkerFault, WorkerLimits

_CULPRITS = "culprits"
_OUTCOMES = {code.value: code for code in Outcome}


@dataclass(frozen=True, slots=True)
class Part:
    """One of the equal parts that an archive is scored in.

    Attributes:
        number: From 1.
        of: Number of parts.
    """

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def numbers(self, files: int) -> range:
        """The files of this part by their numbers in the manifest."""
        return range(files * (self.number - 1) // self.of, files * self.number // self.of)


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose walk is complete.

    Attributes:
        fingerprint: All that decides what the rows will be, beside the archive itself.
        files: In the manifest.
        manifest_sha256: Hash of the manifest.
        passed_over: What the walk did not list, by kind.
        part: The part of the manifest that is scored.
        shard_files: Files per shard.
        update: Whether rows are taken from the table that is there.
    """

    fingerprint: dict[str, Any]
    files: int
    manifest_sha256: str
    passed_over: dict[str, int]
    part: Part
    shard_files: int
    update: bool

    @property
    def numbers(self) -> range:
        """The files that this run scores, by their numbers in the manifest."""
        return self.part.numbers(self.files)

    @property
    def shards(self) -> list[range]:
        """The same, shard by shard."""
        whole = self.numbers
        return [whole[at : at + self.shard_files] for at in range(0, len(whole), self.shard_files)]

    def save(self, folder: Path) -> None:
        """Make the folder that of a run that can go on.

        Raises:
            OSError: It cannot be written.
        """
        with written_whole(folder / RUN_STATE) as file:
            file.write(json.dumps(asdict(self), sort_keys=True).encode())


def saved_run(folder: Path) -> Run | None:
    """Give the run of a folder; None where there is none.

    Raises:
        TableError: Its state is damaged.
    """
    try:
        state = json.loads((folder / RUN_STATE).read_bytes())
        return Run(**{**state, "part": Part(**state["part"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise TableError(f"{folder} is damaged; remove it and run again") from None


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard is kept once it is whole."""
    return folder / f"shard-{index:06d}.arrow"


class Culprits:
    """Files that ended the process that read them, so that they are not met again.

    One line of JSON each, on the disk before the run goes on. Several threads may add.
    """

    def __init__(self, folder: Path) -> None:
        """Read those that are known.

        Raises:
            OSError: The list cannot be read or written.
        """
        self._known = dict(_read(folder / _CULPRITS))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / _CULPRITS, flags, 0o644)
        sync_folder(folder)

    def get(self, number: int) -> WorkerFault | None:
        """The fault of a file, if it is known."""
        return self._known.get(number)

    def add(self, number: int, fault: WorkerFault) -> None:
        """Write one down.

        Raises:
            OSError: It cannot be written.
        """
        record = json.dumps([number, fault.outcome.value, fault.detail])
        # A line begins anew, as the one before may have been cut short.
        os.write(self._descriptor, f"\n{record}\n".encode())
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the list."""
        os.close(self._descriptor)


def _read(path: Path) -> Iterator[tuple[int, WorkerFault]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            number, outcome, detail = json.loads(line)
            yield int(number), WorkerFault(_OUTCOMES[outcome], str(detail), lasting=True)
        except (ValueError, TypeError, KeyError):
            continue  # empty, or cut short when the run was killed


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """Options of one run.

    Attributes:
        batch_size: Images per forward pass.
        workers: Processes that read files.
        precision: "auto", "fp32", "bf16", "fp16" or "int8".
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "torch" or "openvino".
        calibration: Labelled images for int8, as a folder of class folders or a file of labels.
        follow_links: Follow symbolic links.
        max_pixels: Refuse images that claim more.
        modalities: DICOM modalities that are scored.
        deadline: Seconds that reading one file may take.
        commit_every: Files per shard: so many are scored again at most after a run was killed.
        part: The part of the archive that is scored.
        fast_decode: Decode at a reduced size where the codec offers it.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = 1
    precision: Precision = "auto"
    device: str = "auto"
    backend: Backend = "torch"
    calibration: Path | None = None
    follow_links: bool = False
    max_pixels: int = ReadingOptions().max_pixels
    modalities: frozenset[str] = ReadingOptions().modalities
    deadline: float = WorkerLimits().seconds
    commit_every: int = 4096
    part: Part = field(default_factory=Part)
    fast_decode: bool = False

    @property
    def limits(self) -> WorkerLimits:
        """What one file may use."""
        return WorkerLimits(seconds=self.deadline, memory=memory_for(self.max_pixels))

    def reading(self, recipe: Recipe) -> ReadingOptions:
        """How files are read for a model of this recipe."""
        return ReadingOptions(
            max_pixels=self.max_pixels,
            modalities=self.modalities,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if self.fast_decode else None,
        )


@dataclass(slots=True)
class Summary:
    """What became of an archive.

    Attributes:
        output: The table.
        counts: What its rows add up to.
        passed_over: What the walk did not read, by kind.
        read: Files that were read in this run.
        images: Images that were scored in this run.
        seconds: From the first file read to the table in its place.
        scoring: Seconds of these in which the model was at work; 0 where too few to tell.
        device: Where the model ran.
        precision: At which precision.
        quantisation: What 8 bits cost, if they are used.
        lasting_patient_keys: Whether the keys of patients will be the same in the next run.
    """

    output: Path
    counts: Counts = field(default_factory=Counts)
    passed_over: Counter[str] = field(default_factory=Counter)
    read: int = 0
    images: int = 0
    seconds: float = 0.0
    scoring: float = 0.0
    device: str = ""
    precision: str = ""
    quantisation: Quantisation | None = None
    lasting_patient_keys: bool = True

    @property
    def failures(self) -> int:
        """Images and folders that could not be read."""
        outcomes = self.counts.outcomes
        images = sum(outcomes[code] for code in Outcome if code.kind is OutcomeKind.FAILED)
        return images + self.passed_over["unreadable_folder"]


class Progress(Protocol):
    """Told how far a run is, by one thread or another."""

    def found(self, files: int) -> None:
        """The walk has found so many files."""

    def start(self, files: int, *, done: int) -> None:
        """Scoring begins; so many of the files are done, by a run that goes on here."""

    def advance(self, files: int) -> None:
        """So many more files are scored."""

    def shard_done(self, files: int) -> None:
        """So many more files are on the disk, for a run that goes on to find."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """An image could not be read: the number of its file in the manifest, and its path."""

    def retried(self, number: int, path: str) -> None:
        """The process that read a file was lost; the file is tried once more."""

    def fewer_workers(self) -> None:
        """Several reading processes were killed: fewer read at once from now on; told once."""
