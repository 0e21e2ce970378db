"""How a table was made: what decides its rows, and what it adds up to."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.fused import STRIDE
from cxrbatch.model.inference import Backend
from cxrbatch.paths import path_to_text
from cxrbatch.results.table import SCHEMA_VERSION
from cxrbatch.scoring.patients import secret_id
from cxrbatch.scoring.quantisation import Quantisation
from cxrbatch.scoring.run import Run
from cxrbatch.scoring.table_writer import Counts
from cxrbatch.version import VERSION

_LONGEST_VALUE = 60
# What a run was made without that does not say it was made with it.
_UNSAID = {"fast_decode": False}

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


def fingerprint(
    *,
    checkpoint: Checkpoint,
    precision: str,
    device: str,
    archive_root: Path,
    patient_secret: bytes,
    options: Mapping[str, Any],
    backend: Backend = "torch",
    quantisation: Quantisation | None = None,
) -> dict[str, Any]:
    """Everything but the files themselves that decides what the rows will be, as JSON values.

    Args:
        checkpoint: What scores.
        precision: As resolved.
        device: What it runs on.
        archive_root: The folder that paths are relative to.
        patient_secret: Key of the patient hash, of which a hash is kept.
        options: Those of the command that change rows.
        backend: What computes; one that is not PyTorch is told, also by the device's text.
        quantisation: For int8.
    """
    card = checkpoint.card
    told: dict[str, Any] = {
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
        told["backend"] = backend
        told["versions"][backend] = version(backend)
    if quantisation is not None:
        told["calibration"] = quantisation.to_provenance()
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say in one line in what another run or table differs; empty where it does not.

    Args:
        ours: The fingerprint of this run.
        theirs: Another fingerprint, or the provenance of a table.
    """
    theirs = {**_UNSAID, **theirs}
    # The size and time of another archive differ too, and would only lengthen the message.
    unsaid = {"card", "recipe"} | ({"archive_version"} if _another_archive(ours, theirs) else set())
    return ", ".join(
        f"{_NAMES.get(name, name.replace('_', ' '))} ({_short(theirs.get(name))}, "
        f"now {_short(value)})"
        for name, value in {**_UNSAID, **ours}.items()
        if theirs.get(name) != value and name not in unsaid
    )


def _another_archive(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    return any(theirs.get(name) != ours.get(name) for name in ("archive_root", "archive"))


def whole_provenance(run: Run, counts: Counts) -> dict[str, Any]:
    """What a table says of how it was made: the same for every run that gives the same rows."""
    made: dict[str, Any] = {
        **run.fingerprint,
        "manifest_sha256": run.manifest_sha256,
        "passed_over": dict(sorted(run.passed_over.items())),
        **counts.to_provenance(),
    }
    if run.part.of > 1:
        made["part"] = str(run.part)
    return made


def run_id(run: Run) -> str:
    """A hash that changes where a shard of one run would not fit into another."""
    told = [run.fingerprint, run.manifest_sha256, str(run.part), run.shard_files]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def heatmap_size(checkpoint: Checkpoint) -> int:
    """Height and width of one heat map in cells."""
    return -(-checkpoint.card.recipe.size // STRIDE)


def _short(value: object) -> str:
    text = "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)
    text = "the folder itself" if text == "." else text
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
