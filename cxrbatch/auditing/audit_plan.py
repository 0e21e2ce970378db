"""What an audit is asked for, and its plan on disk, by which a run that was stopped goes on."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cxrbatch import __version__
from cxrbatch.auditing.audit_table import AUDIT_SCHEMA
from cxrbatch.auditing.treatments import TREATMENTS_ID
from cxrbatch.errors import UsageError
from cxrbatch.files import RUN_STATE, clear, partial_folder, path_to_text, written_whole
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.scoring.run import ScoringOptions

SCORES = "scores.parquet"
"""Name of the results table in the folder of an unfinished audit of an archive."""

_PARQUET = b"PAR1"
_NAMES = {
    "checkpoint_sha256": "the checkpoint",
    "data": "DATA",
    "data_version": "the table's size or time",
    "labels_sha256": "the labels",
    "archive": "--archive",
    "lungs": "the lung finder",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What an audit is asked for.

    Attributes:
        checkpoint: The model.
        data: An archive, or a results table of this model.
        table: The table of the audit to write.
        labels: A file of labels; None for the table's own truth, or class-named folders.
        label_options: How labels are read and joined.
        archive: The archive's folder now, if DATA is a table; None for where it was scored.
        keep_copies: Whether each of several equal films counts.
        keep_flagged: Whether laterals and films of no chest count.
        scoring: Batch size, device, precision, workers, and how files are read.
        overwrite: Replace outputs, and drop an unfinished audit that was asked for otherwise.
    """

    checkpoint: Path
    data: Path
    table: Path
    labels: Path | None = None
    label_options: LabelOptions = AS_USUAL
    archive: Path | None = None
    keep_copies: bool = False
    keep_flagged: bool = False
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    overwrite: bool = False

    @property
    def is_table(self) -> bool:
        """Whether DATA is a Parquet file, by its first bytes."""
        try:
            with self.data.open("rb") as file:
                return file.read(len(_PARQUET)) == _PARQUET
        except OSError:
            return False

    @property
    def is_unfinished(self) -> bool:
        """Whether an audit of this output was stopped, so that it can go on."""
        return (partial_folder(self.table) / RUN_STATE).exists()


def make_plan(
    request: AuditRequest, *, sha256: str, device: str, precision: str, lungs: str
) -> dict[str, Any]:
    """Collect everything that decides an audit's figures, but for the films themselves.

    Args:
        request: What was asked for.
        sha256: Hash of the checkpoint.
        device: The device that computes, in words.
        precision: The precision that is used.
        lungs: What finds the lungs, in words; empty for none.

    Returns:
        JSON values by name.

    Raises:
        UsageError: DATA or the labels cannot be examined.
    """
    scoring, options = request.scoring, request.label_options
    made: dict[str, Any] = {
        "audit_schema": AUDIT_SCHEMA,
        "treatments": TREATMENTS_ID,
        "checkpoint_sha256": sha256,
        "data": _text(request.data),
        "data_version": _version_of(request.data),
        "labels_sha256": _hash_of(request.labels),
        "label_options": repr(options),
        "archive": "" if request.archive is None else _text(request.archive),
        "keep_copies": request.keep_copies,
        "keep_flagged": request.keep_flagged,
        "batch_size": scoring.batch_size,
        "max_pixels": scoring.max_pixels,
        "modalities": sorted(scoring.modalities),
        "follow_links": scoring.follow_links,
        "device": device,
        "precision": precision,
        "lungs": lungs,
        "versions": {
            "cxrbatch": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scikit-learn", "scipy", "torch")},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def begin_run(folder: Path, plan: Mapping[str, Any], *, overwrite: bool) -> str:
    """Write the plan of an audit into its partial folder, or go on with the one that is there.

    Args:
        folder: The partial folder, locked.
        plan: From `make_plan`.
        overwrite: Drop the parts of an audit with another plan.

    Returns:
        The id of the run, which each part on disk bears.

    Raises:
        UsageError: The folder holds an audit with another plan, and `overwrite` is False.
        OSError: The plan cannot be read or written.
    """
    text = json.dumps(plan, sort_keys=True)
    existing = _read_plan(folder)
    if existing is not None and existing != plan:
        differ = [_NAMES.get(n, n.replace("_", " ")) for n in plan if existing.get(n) != plan[n]]
        if not overwrite:
            raise UsageError(
                f"{folder} holds an unfinished audit that differs in {', '.join(differ)}; finish "
                "it as it was begun, choose another --table, or give --overwrite to drop it"
            )
        end_run(folder)
        existing = None
    if existing is None:
        with written_whole(folder / RUN_STATE) as file:
            file.write(text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def end_run(folder: Path) -> None:
    """Remove all parts of an audit from its partial folder.

    Raises:
        OSError: A file cannot be removed.
    """
    shutil.rmtree(partial_folder(folder / SCORES), ignore_errors=True)
    clear(folder)


def _read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan of an unfinished audit; None if there is none, empty if it is damaged."""
    try:
        plan = json.loads((folder / RUN_STATE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return plan if isinstance(plan, dict) else {}


def _text(path: Path) -> str:
    return path_to_text(os.fsencode(path.resolve()))


def _version_of(data: Path) -> str:
    try:
        state = data.stat()
    except OSError as error:
        raise UsageError(f"cannot read {data}: {error.strerror}; check DATA") from None
    return "" if data.is_dir() else f"{state.st_size} bytes, {state.st_mtime_ns} ns"


def _hash_of(labels: Path | None) -> str:
    if labels is None:
        return ""
    try:
        return hashlib.sha256(labels.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {labels}: {error.strerror}; check --labels") from None
