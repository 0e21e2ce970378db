"""Labels of images: whose names match which class, and the labels that class folders give."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import LabelError
from cxrbatch.files import path_to_text, shown
from cxrbatch.results.label_names import class_of_meaning, meaning_of, without_accents

SPLITS = ("train", "val", "test")
_MOST_LABELS_SHOWN, _MOST_FOLDERS_SHOWN = 8, 5


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its label.

    Attributes:
        path: Path relative to the folder of the labels, or absolute, with forward slashes.
        label: Class name as written.
        patient: An id that all images of one person share; None where unknown.
        split: "train", "val" or "test"; None where the label names no split.
        source: The collection that the image comes from; None where unknown.
    """

    path: str
    label: str
    patient: str | None = None
    split: str | None = None
    source: str | None = None


def class_numbers(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Map each label to the index of the class that it names, see `find_classes`.

    Args:
        labels: Labels as written.
        classes: Class names of the model.

    Returns:
        Label -> index into `classes`.

    Raises:
        LabelError: A label names no class; the message lists such labels and the classes.
    """
    found = find_classes(labels, classes)
    if unknown := sorted(label for label, number in found.items() if number < 0):
        listed = ", ".join(map(shown, unknown[:_MOST_LABELS_SHOWN]))
        more = " …" if unknown[_MOST_LABELS_SHOWN:] else ""
        raise LabelError(
            f"{len(unknown)} labels name no class of the model: {listed}{more}; "
            f"its classes are {', '.join(map(shown, classes))}: rename or remove those rows"
        )
    return found


def find_classes(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Map each label to the index of the class that it names, or to -1.

    A class of exactly this name comes first, then one whose `folded` name is equal: case, accents,
    spaces, hyphens and underscores are ignored, except where two classes differ by them alone. Last
    comes a class that is known by the same usual words: "kein Befund" is Normal.

    Args:
        labels: Labels as written.
        classes: Class names of the model.

    Returns:
        Label -> index into `classes`, or -1 where it names none.
    """
    exact = {name: number for number, name in enumerate(classes)}
    alike, usual = folded_numbers(classes), class_of_meaning(classes)
    found = {}
    for label in labels:
        number = exact.get(label, alike.get(folded(label)))
        found[label] = usual.get(meaning_of(label) or "", -1) if number is None else number
    return found


def folded_numbers(classes: Sequence[str]) -> dict[str, int]:
    """Map the folded name (see `folded`) of each class to the index of the class in `classes`.

    A folded name that two classes share maps to -1.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        numbers[folded(name)] = -1 if folded(name) in numbers else number
    return numbers


def folded(name: str) -> str:
    """Return a form of `name` that is equal for names that differ in case or separators alone.

    Spaces, hyphens, dashes and underscores inside the name are separators, and are removed; between
    two digits they become one space: "stage 1-1" is not "stage 11". Accents are removed. Unicode
    compatibility forms (NFKC) count as equal.
    """
    plain = without_accents(name).casefold().replace("_", " ").strip()
    parts = [part for part in re.split(r"(?<=\w)[\s_\u2010-\u2015-]+(?=\w)", plain) if part]
    folded = ""
    for part in parts:
        between_digits = folded[-1:].isdigit() and part[0].isdigit()
        folded += f" {part}" if between_digits else part
    return folded


def labels_from_folders(root: Path) -> list[LabelledFile]:
    """Label every file below `root` with the name of the top folder it is in: root/<class>/…/file.

    Files directly in `root` get no label. Files and folders whose names start with a dot are
    skipped. All other files are labelled, whether they are images or not.

    Returns:
        The labels, folder by folder in sorted order; paths are relative to `root` and written as
        `cxrbatch.files.path_to_text` writes them.

    Raises:
        LabelError: No folder in `root` holds a file (at any depth), one of them holds none, or a
            folder cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            folders = sorted(e.name for e in entries if not _is_hidden(e) and os.path.isdir(e.path))
        found = {folder: list(files_below(root / folder)) for folder in folders}
    except OSError as error:
        place = root if error.filename is None else os.fsdecode(error.filename)
        raise LabelError(
            f"cannot list {shown(str(place))}: {error.strerror}; check its permissions"
        ) from None
    if not any(found.values()):
        raise LabelError(f"{root} has no class folders with files (expected {root}/<class>/…)")
    if empty := [folder for folder, names in found.items() if not names]:
        listed = ", ".join(map(shown, empty[:_MOST_FOLDERS_SHOWN]))
        raise LabelError(f"empty class folders in {root}: {listed}; fill or remove them")
    return [
        LabelledFile(f"{label}/{path_to_text(os.fsencode(name))}", label)
        for label, names in ((path_to_text(os.fsencode(f)), names) for f, names in found.items())
        for name in names
    ]


def files_below(folder: Path, *, pass_unreadable: bool = False) -> Iterator[str]:
    """Yield the path of every file below `folder`, relative to `folder`.

    The order is sorted, the files of a folder before its folders. Links to folders are not
    followed. Names that start with a dot are skipped: file managers write them, and they are no
    images.

    Args:
        folder: The folder to walk.
        pass_unreadable: Whether a folder that cannot be listed is skipped.

    Raises:
        OSError: A folder cannot be listed, and `pass_unreadable` is false.
    """
    # An explicit stack: folders may be nested deeper than Python recurses.
    stack = [""]
    while stack:
        inside = stack.pop()
        try:
            folders, files = _listed(folder, inside)
        except OSError:
            if pass_unreadable:
                continue
            raise
        yield from files
        stack += reversed(folders)


def _listed(root: Path, inside: str) -> tuple[list[str], list[str]]:
    """The folders and the files in one folder, each sorted."""
    folders, files = [], []
    with os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            if _is_hidden(entry):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(os.path.join(inside, entry.name))
            elif not os.path.isdir(entry.path):
                files.append(os.path.join(inside, entry.name))
    return sorted(folders), sorted(files)


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".")
