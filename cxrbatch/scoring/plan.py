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

from cxrbatch import __version__
from cxrbatch.errors import TableError
from cxrbatch.files import RUN_STATE, path_to_text, sync_folder, written_whole
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.fused import STRIDE
from cxrbatch.model.inference import Backend
from cxrbatch.model.recording import unrecorded
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import SCHEMA_VERSION
from cxrbatch.results.patient_keys import secret_id
from cxrbatch.scoring.run import Part, Quantisation
from cxrbatch.scoring.table_writer import Counts
from cxrbatch.workers.worker import WorkerFault

_FAULTS = "culprits"
_OUTCOMES = {code.value: code for code in Outcome}
_LONGEST_VALUE = 60
# Values of provenance that older tables leave out.
_DEFAULTS = {"fast_decode": False, "gate": False}
_NAMES = {
    "archive_root": "the archive's folder",
    "archive": "the archive",
    "archive_version": "the archive's size or time",
    "checkpoint_sha256": "the checkpoint",
    "recipe_sha256": "the recipe",
    "patient_secret_id": "the patient secret",
    "seconds_per_file": "--deadline",
    "fast_decode": "--fast-decode",
    "gate": "--gate",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, known when the walk over the archive is complete, and kept on disk.

    The files are listed in the manifest. They are divided into shards: consecutive files whose rows
    are written to disk together.

    Attributes:
        fingerprint: Everything that decides the rows, except the files themselves: JSON values.
        files: Number of files in the manifest.
        manifest_sha256: Hash of the manifest, 64 hexadecimal digits.
        passed_over: Number of directory entries that the manifest leaves out, by kind.
        part: The part of the manifest that is scored.
        shard_files: Files per shard; the last shard may have fewer.
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
        """Numbers, in the manifest, of all files that this run scores: those of its part."""
        return self.part.numbers(self.files)

    @property
    def shards(self) -> list[range]:
        """For each shard in order, the numbers of its files in the manifest."""
        numbers = self.numbers
        starts = range(0, len(numbers), self.shard_files)
        return [numbers[start : start + self.shard_files] for start in starts]

    @property
    def run_id(self) -> str:
        """SHA-256 of the fingerprint, the manifest's hash, the part and `shard_files`.

        It is stored in each shard: a shard with another id is written anew.
        """
        deciding = [self.fingerprint, self.manifest_sha256, str(self.part), self.shard_files]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def provenance(self, counts: Counts) -> dict[str, Any]:
        """Return the metadata of the finished table: how it was made, and the counts of its rows.

        It does not say when the run was: equal plans and counts give equal metadata.

        Args:
            counts: Counts over the rows of the table.

        Returns:
            JSON values by name; `part` is among them only if there is more than one part.
        """
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
        """Write the plan to the file run.json in `folder`, so that the run can be continued.

        Raises:
            OSError: The file cannot be written.
        """
        with written_whole(folder / RUN_STATE) as file:
            file.write(json.dumps(asdict(self), sort_keys=True).encode())


def load_plan(folder: Path) -> Plan | None:
    """Read the plan that `Plan.save` wrote into a folder.

    Returns:
        The plan; None if the folder has none.

    Raises:
        TableError: The plan is damaged.
        OSError: The file cannot be read.
    """
    try:
        state = json.loads((folder / RUN_STATE).read_bytes())
        return Plan(**{**state, "part": Part(**state["part"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise TableError(f"{folder} is damaged; remove it and run again") from None


def shard_path(folder: Path, index: int) -> Path:
    """Return the path of the shard of this index, from 0: `folder`/shard-000000.arrow."""
    return folder / f"shard-{index:06d}.arrow"


class FaultLog:
    """A file on disk that lists the archive's files that ended their worker process.

    A later run gives these files the logged outcome and does not read them again. Each entry is a
    line of JSON, which is on the disk when `add` returns. Several threads may call `add`.
    """

    def __init__(self, folder: Path) -> None:
        """Read the log in `folder` and open it for appending; create it if there is none.

        Raises:
            OSError: The log cannot be read or written.
        """
        self._known = dict(_read_faults(folder / _FAULTS))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / _FAULTS, flags, 0o644)
        sync_folder(folder)

    def get(self, number: int) -> WorkerFault | None:
        """Return the fault that an earlier run logged for a file; None if there is none.

        Faults that this object added itself are not returned.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
        """
        return self._known.get(number)

    def add(self, number: int, fault: WorkerFault) -> None:
        """Append the fault of a file to the log and wait until it is on the disk.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
            fault: Why its worker process ended: outcome and detail.

        Raises:
            OSError: The log cannot be written.
        """
        record = json.dumps([number, fault.outcome.value, fault.detail])
        # It starts with a line break, as the line before may have been cut short.
        os.write(self._descriptor, f"\n{record}\n".encode())
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the log; `add` must not be called afterwards."""
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
    """Collect what decides a table's rows, except the files themselves.

    Of two runs with equal fingerprints one may continue the other.

    Args:
        checkpoint: The model.
        precision: The precision that is used, not "auto".
        device: The device that computes, in words.
        archive_root: The folder that paths are relative to.
        patient_secret: Key of the hash of patient ids; only `secret_id` of it is stored.
        options: Names and values of the options that rows depend on.
        backend: The library that computes; stored where it is not PyTorch.
        quantisation: The calibration of int8; None for other precisions.

    Returns:
        JSON values by name.
    """
    card = checkpoint.card
    made: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(card.classes),
        "heatmap_size": heatmap_size(checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "card": unrecorded(card).to_json(),
        "recipe": card.recipe.to_card(),
        "recipe_sha256": card.recipe.sha256,
        "precision": precision,
        "device": device,
        "archive_root": path_to_text(os.fsencode(archive_root.resolve())),
        "patient_secret_id": secret_id(patient_secret),
        "versions": {
            "cxrbatch": __version__,
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
    """List in one line the values in which another run or table differs from this run.

    Not compared are `card` and `recipe`, as hashes of checkpoint and recipe are compared; nor the
    archive's size and time if the archive itself differs.

    Args:
        ours: The fingerprint of this run; values that it does not name are not compared, but for
            `fast_decode` and `gate`, which are False where they are not named.
        theirs: The fingerprint of the other run, or the provenance of a table.

    Returns:
        Names with both values, such as "the checkpoint (1a…, now 2b…)"; empty if there is no
        difference.
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
    """Return the height, which is the width, of one heat map in cells of the network's last layer.

    It is the input's edge in pixels divided by the network's stride, rounded up.
    """
    return -(-checkpoint.card.recipe.size // STRIDE)


def _short(value: object) -> str:
    text = "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = "the folder itself" if text == "." else text
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
