"""What does not fit between labels and files: told on a screen, and listed whole in a file."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cxrbatch.errors import LabelError
from cxrbatch.results.paths import shown
from cxrbatch.scoring.claim import writing
from cxrbatch.scoring.durable import written_whole

_LINES = 20
_NAMES = 3


class Reason(StrEnum):
    """Why a label and a file do not fit."""

    remedy: str

    def __new__(cls, value: str, remedy: str) -> "Reason":
        """Make a member that is its text and carries a remedy."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.remedy = remedy
        return member

    NO_FILE = "label without a file", "correct the path, or say with --root what it is relative to"
    TWO_FILES = "file under two roots", "write its path in full, or give one --root of the two"
    TWO_LABELS = "file with two labels", "keep the row that is right"
    TWO_ROWS = "file named twice", "keep one of the rows"
    NO_LABEL = "file without a label", "label the image to have it used"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A label that does not fit a file, or a file that has none.

    Attributes:
        path: As the labels name it; of a file without a label, where it lies.
        reason: What is wrong.
        detail: What was found instead; empty for a file without a label.
    """

    path: str
    reason: Reason
    detail: str = ""

    @property
    def is_fatal(self) -> bool:
        """Whether nothing can be trained on before it is put right."""
        return self.reason is not Reason.NO_LABEL


def write_mismatches(mismatches: Sequence[Mismatch], path: Path) -> None:
    """List all of them in a CSV file; without any, remove the list of an earlier run.

    Raises:
        TableError: The disk refuses.
    """
    with writing(path):
        if not mismatches:
            path.unlink(missing_ok=True)
            return
        with written_whole(path) as file:
            text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["path", "reason", "detail", "remedy"])
            table.writerows([m.path, m.reason, m.detail, m.reason.remedy] for m in mismatches)
            text.detach()


def describe_mismatches(mismatches: Sequence[Mismatch], *, listing: Path) -> Iterator[str]:
    """Lines for a person: the first of each kind, their number, and where all are."""
    for reason in Reason:
        of_kind = [mismatch for mismatch in mismatches if mismatch.reason is reason]
        if reason is not Reason.NO_LABEL:
            yield from (f"{reason}: {shown(m.path)} ({m.detail})" for m in of_kind[:_LINES])
            if len(of_kind) > _LINES:
                yield f"{reason}: {len(of_kind) - _LINES} more in {listing}"
        elif of_kind:
            names = ", ".join(shown(mismatch.path) for mismatch in of_kind[:_NAMES])
            yield (
                f"warning: images without a label are left out: {len(of_kind)}, such as {names}; "
                f"all are in {listing}; {reason.remedy}"
            )


def refuse_mismatches(mismatches: Sequence[Mismatch], *, listing: Path) -> None:
    """Go no further where labels and files do not fit.

    Raises:
        LabelError: Some of them are fatal; the counts and the remedies.
    """
    counts = Counter(mismatch.reason for mismatch in mismatches if mismatch.is_fatal)
    if counts:
        told = "; ".join(f"{n} x {reason}: {reason.remedy}" for reason, n in counts.items())
        raise LabelError(f"labels and files do not fit: {told} (all are in {listing})")
