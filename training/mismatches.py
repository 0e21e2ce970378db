"""What does not fit between labels and files, images without a label, and the order of classes."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import path_to_text, shown
from cxrbatch.model.card import check_classes
from cxrbatch.reading.outcomes import ReadingError
from cxrbatch.reading.sniffing import HEAD_BYTES, open_regular, sniff
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import folded
from cxrbatch.results.truth import files_below
from cxrbatch.training.split_report import write_listing

_SHOWN = 5
_LABEL_IT = "label the image to have it used"
_IMAGE_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
# A labels file may lie in a folder that holds much else, such as a home.
_MOST_LOOKED_AT = 1_000_000


class MismatchReason(StrEnum):
    """Why a label and a file do not match.

    Attributes:
        remedy: What a user can do about it.
    """

    remedy: str

    def __new__(cls, value: str, remedy: str) -> "MismatchReason":
        """Make a member with a text and a remedy."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.remedy = remedy
        return member

    NO_FILE = (
        "label without a file",
        "correct the path, say with --root what it is relative to, or take its line out",
    )
    TWO_FILES = (
        "label of several files",
        "write its path in full, give one --root, or rename one of two members of one name",
    )
    TWO_LABELS = "file with two labels", "keep the row that is right"
    TWO_ROWS = "file with contradicting rows", "give its rows one patient and one split"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A label without a file or with too many, or one that contradicts another of its file.

    Attributes:
        row: The file of labels and the number of the row, such as "labels.csv, line 7"; for class
            folders the folder.
        path: The path in the labels; "" where they name images by ids, which are not shown; of
            labels that contradict each other the path of their file.
        reason: What is wrong.
        detail: Why no file was found, or the files or labels that were, as text; may be empty.
    """

    row: str
    path: str
    reason: MismatchReason
    detail: str = ""


def order_classes(labelled: Sequence[LabelledFile], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the class names in the order of the logits.

    Args:
        labelled: All labelled files.
        wanted: All class names in the wanted order; if empty, they are sorted.

    Raises:
        LabelError: One class only, two spellings of one class, a label that is not in `wanted`,
            a wanted class without a label, or names that cannot be a model's classes.
    """
    counts = Counter(item.label for item in labelled)
    spellings: dict[str, str] = {}
    for name in sorted(counts):
        other = spellings.setdefault(folded(name), name)
        if other != name:
            raise LabelError(
                f"one class in two spellings: {shown(other)} ({counts[other]} images) and "
                f"{shown(name)} ({counts[name]}); write both alike, or give --map TEXT=CLASS"
            )
    order = tuple(wanted) or tuple(sorted(counts))
    if empty := [name for name in order if name not in counts]:
        raise LabelError(
            f"no image of {_listed(empty)}; label some, or take the name out of --classes"
        )
    if unknown := sorted(counts.keys() - set(order)):
        raise LabelError(
            f"the label {_listed(unknown)} is not in --classes; add it there, or remove its rows"
        )
    if len(counts) < 2:
        raise LabelError(f"all images are {_listed(counts)}; training needs at least two classes")
    try:
        check_classes(order)
    except ValueError as error:
        raise LabelError(
            f"{error}; rename its folder, or correct the labels or --classes"
        ) from None
    return order


def write_mismatches(mismatches: Sequence[Mismatch], unlabelled: Sequence[str], path: Path) -> None:
    """Write all mismatches, and the images without a label, to a CSV file.

    Its columns are path, row (the file of labels and the line), reason, detail and remedy.

    Args:
        mismatches: All mismatches.
        unlabelled: Paths of all images without a label.
        path: The file; an existing one is replaced.

    Raises:
        TableError: The file cannot be written.
    """
    rows = [(m.path, m.row, m.reason.value, m.detail, m.reason.remedy) for m in mismatches]
    rows += [(name, "", "file without a label", "", _LABEL_IT) for name in unlabelled]
    columns = ["path", "row", "reason", "detail", "remedy"]
    write_listing(pd.DataFrame(rows, columns=columns), path)


def refuse_mismatches(mismatches: Sequence[Mismatch]) -> None:
    """Raise LabelError if there are mismatches; do nothing if the sequence is empty.

    Raises:
        LabelError: There is a mismatch. The message has the count and remedy of each reason.
    """
    if counts := Counter(mismatch.reason for mismatch in mismatches):
        listed = "; ".join(f"{n:,} x {reason}: {reason.remedy}" for reason, n in counts.items())
        raise LabelError(
            f"labels and files do not fit: {listed}; --mismatches FILE lists all of them"
        )


def images_below(roots: Iterable[Path], known: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the paths of images below folders, without decoding them; containers are not opened.

    At most a million files are looked at; those that cannot be read, and names that start with a
    dot, are skipped. An image is a file named *.dcm, *.png, *.jpg or *.jpeg in any case, or one
    whose first bytes are those of such a file.

    Args:
        roots: The folders; each is walked once, without following links to folders.
        known: Device and inode of files that are left out. Those of the yielded ones are added, as
            folders may overlap.

    Yields:
        The absolute path as text, in which `path_to_text` escapes bytes that are no UTF-8.
    """
    folders = dict.fromkeys(os.path.abspath(root) for root in roots)
    below = (
        os.path.join(folder, name)
        for folder in folders
        for name in files_below(Path(folder), pass_unreadable=True)
    )
    for location in islice(below, _MOST_LOOKED_AT):
        place = _place_of_image(location)
        if place is not None and place not in known:
            known.add(place)
            yield path_to_text(os.fsencode(location))


def _place_of_image(location: str) -> tuple[int, int] | None:
    try:
        state = os.stat(location)
        place = state.st_dev, state.st_ino
        if not stat.S_ISREG(state.st_mode):
            return None
        if location.lower().endswith(_IMAGE_SUFFIXES):
            return place
        with open_regular(location) as stream:
            return place if sniff(stream.read(HEAD_BYTES), size=state.st_size) != "other" else None
    except (OSError, ReadingError):
        return None


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(shown, listed[:_SHOWN])) + (" …" if len(listed) > _SHOWN else "")
