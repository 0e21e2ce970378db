"""The plan of a run on disk: its files and shards, and everything that decides its rows."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbatch.errors import TableError
from cxrbatch.files import RUN_STATE, path_to_text, sync_folder, written_whole
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.fused import STRIDE
from cxrbatch.model.inference import Backend
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import SCHEMA_VERSION
from cxrbatch.scoring.file_reader import secret_id
from cxrbatch.scoring.quantisation import Quantisation
from cxrbatch.scoring.run import Part
from cxrbatch.scoring.table_writer import Counts
from cxrbatch.version import VERSION
from cxrbatch.workers.worker import WorkerFault

_FAULTS = "culprits"
_OUTCOMES = {code.value: code for code in Outcome}
_LONGEST_VALUE = 60
# Values of provenance that older tables leave out.
_DEFAULTS = {"fast_decode": False}
_NAMES = {
    "archive_root": "the archive's folder",
    "archive": "the archive",
    "archive_version": "the archive's size or time",
    "checkpoint_sha256": "the checkpoint",
    "recipe_sha256": "the recipe",
    "patient_secret_id": "the patient secret",
    "seconds_per_file": "--deadline",
    "fast_decode": "--fast-decode",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a run, known when the walk over the archive is complete.

    Attributes:
        fingerprint: Everything that decides the rows, except the files themselves.
        files: Number of files in the manifest.
        manifest_sha256: Hash of the manifest.
        passed_over: Number of directory entries that the manifest leaves out, by kind.
        part: The part of the manifest that is scored.
        shard_files: Files per shard.
        update: Whether rows of the existing table are kept.
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
        """The files of this run, by their numbers in the manifest."""
        return self.part.numbers(self.files)

    @property
    def shards(self) -> list[range]:
        """The files of each shard, by their numbers in the manifest."""
        numbers = self.numbers
        starts = range(0, len(numbers), self.shard_files)
        return [numbers[start : start + self.shard_files] for start in starts]

    @property
    def run_id(self) -> str:
        """A hash that two plans share only if a shard of one fits into the other."""
        deciding = [self.fingerprint, self.manifest_sha256, str(self.part), self.shard_files]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def provenance(self, counts: Counts) -> dict[str, Any]:
        """Make the provenance of the finished table; equal for all runs that give equal rows."""
        made: dict[str, Any] = {
            **self.fingerprint,
            "manifest_sha256": self.manifest_sha256,
            "passed_over": dict(sorted(self.passed_over.items())),
            **counts.to_provenance(),
        }
        if self.part.of > 1:
            made["part"] = str(self.part)
        return made

    def save(self, folder: Path) -> None:
        """Write the plan into `folder`, which can be resumed from then on.

        Raises:
            OSError: It cannot be written.
        """
        with written_whole(folder / RUN_STATE) as file:
            file.write(json.dumps(asdict(self), sort_keys=True).encode())


def load_plan(folder: Path) -> Plan | None:
    """Read the plan of a folder; None where there is none.

    Raises:
        TableError: It is damaged.
    """
    try:
        state = json.loads((folder / RUN_STATE).read_bytes())
        return Plan(**{**state, "part": Part(**state["part"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise TableError(f"{folder} is damaged; remove it and run again") from None


def shard_path(folder: Path, index: int) -> Path:
    """Return the path of a finished shard."""
    return folder / f"shard-{index:06d}.arrow"


class FaultLog:
    """Files that ended their reading process, in a file on disk, so that no run reads them again.

    Each is a line of JSON and on the disk when `add` returns. Several threads may add.
    """

    def __init__(self, folder: Path) -> None:
        """Read the log of `folder`, or create it.

        Raises:
            OSError: It cannot be read or written.
        """
        self._known = dict(_read_faults(folder / _FAULTS))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / _FAULTS, flags, 0o644)
        sync_folder(folder)

    def get(self, number: int) -> WorkerFault | None:
        """Return the fault that an earlier run logged for a file; None if there is none.

        Args:
            number: The file's number in the manifest.
        """
        return self._known.get(number)

    def add(self, number: int, fault: WorkerFault) -> None:
        """Append the fault of a file.

        Raises:
            OSError: It cannot be written.
        """
        record = json.dumps([number, fault.outcome.value, fault.detail])
        # It starts with a line break, as the line before may have been cut short.
        os.write(self._descriptor, f"\n{record}\n".encode())
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _read_faults(path: Path) -> Iterator[tuple[int, WorkerFault]]:
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


def make_fingerprint(
    checkpoint: Checkpoint,
    *,
    precision: str,
    device: str,
    archive_root: Path,
    patient_secret: bytes,
    options: Mapping[str, Any],
    backend: Backend = "torch",
    quantisation: Quantisation | None = None,
) -> dict[str, Any]:
    """Collect everything that decides the rows, except the files themselves.

    Args:
        checkpoint: The model.
        precision: The precision that is used, not "auto".
        device: The device that computes, in words.
        archive_root: The folder that paths are relative to.
        patient_secret: Key of the patient hash; a hash of it is stored.
        options: Names and values of the options that rows depend on.
        backend: The library that computes; stored where it is not PyTorch.
        quantisation: For int8.

    Returns:
        JSON values by name.
    """
    card = checkpoint.card
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(card.classes),
        "heatmap_size": heatmap_size(checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "card": card.to_json(),
        "recipe": card.recipe.to_card(),
        "recipe_sha256": card.recipe.sha256,
        "precision": precision,
        "device": device,
        "archive_root": path_to_text(os.fsencode(archive_root.resolve())),
        "patient_secret_id": secret_id(patient_secret),
        "versions": {
            "cxrbatch": VERSION,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "pydicom", "pillow")},
        },
        **options,
    }
    if backend != "torch":
        made["backend"] = backend
        made["versions"][backend] = version(backend)
    if quantisation is not None:
        made["calibration"] = quantisation.to_provenance()
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def list_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """List in one line the values in which a run or table differs from this run.

    Args:
        ours: The fingerprint of this run; values that it does not name are not compared.
        theirs: Another fingerprint, or the provenance of a table.

    Returns:
        Names with both values; empty if there is no difference.
    """
    theirs = {**_DEFAULTS, **theirs}
    # Another archive has another size and time too, which would only lengthen the message.
    other_archive = any(theirs.get(name) != ours.get(name) for name in ("archive_root", "archive"))
    omitted = {"card", "recipe"} | ({"archive_version"} if other_archive else set())
    return ", ".join(
        f"{_NAMES.get(name, name.replace('_', ' '))} ({_short(theirs.get(name))}, "
        f"now {_short(value)})"
        for name, value in {**_DEFAULTS, **ours}.items()
        if theirs.get(name) != value and name not in omitted
    )


def heatmap_size(checkpoint: Checkpoint) -> int:
    """Return the rows, and columns, of one heat map in cells."""
    return -(-checkpoint.card.recipe.size // STRIDE)


def _short(value: object) -> str:
    text = "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = "the folder itself" if text == "." else text
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
