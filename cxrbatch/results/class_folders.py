"""Labels: which class an image truly is, as the folder that it lies in says."""

import os
from collections.abc import Iterator
from pathlib import Path

from cxrbatch.errors import LabelError
from cxrbatch.paths import path_to_text, shown
from cxrbatch.results.labels import LabelledFile

_SHOWN = 5


def labels_from_folders(root: Path) -> list[LabelledFile]:
    """Label every file below `root` by the folder it is in: root/<class>/…/file.

    Files directly in `root` are not labelled. The order is sorted; paths are written as
    `paths.path_to_text` does.

    Raises:
        LabelError: `root` has no folder with a file, has one without, or cannot be listed.
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
        listed = ", ".join(map(shown, empty[:_SHOWN]))
        raise LabelError(f"empty class folders in {root}: {listed}; fill or remove them")
    return [
        LabelledFile(f"{label}/{path_to_text(os.fsencode(name))}", label)
        for label, names in ((path_to_text(os.fsencode(f)), names) for f, names in found.items())
        for name in names
    ]


def files_below(folder: Path, *, pass_unreadable: bool = False) -> Iterator[str]:
    """Yield the path, relative to `folder`, of all that is below it and no folder.

    The order is sorted, files before the folders beside them. Links to folders are not followed,
    and names that start with a dot are passed over: they belong to the desktop, not to the images.

    Args:
        folder: Where to look.
        pass_unreadable: Pass over folders that cannot be listed too.

    Raises:
        OSError: A folder cannot be listed.
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
