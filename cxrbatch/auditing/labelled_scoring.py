"""Scores the files of an archive that labels name, and no others, into a results table."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from cxrbatch.errors import LabelError
from cxrbatch.files import claimed, path_to_text, writing
from cxrbatch.results.label_files import LabelOptions, LoadedLabels
from cxrbatch.results.label_names import KEYS
from cxrbatch.scoring.archive import ArchiveFile, Walk
from cxrbatch.scoring.run import Progress, ScoringOptions
from cxrbatch.scoring.score import READERS
from cxrbatch.workers.forkserver_client import Forkserver

FileNames = frozenset[str]
"""Names of files without their folders, in Unicode's composed form."""


def names_in(labels: LoadedLabels | None, options: LabelOptions) -> FileNames | None:
    """Return the names of the files that labels name.

    Where the labels name a side `test`, only its files count, as only they are audited.

    Args:
        labels: The labels; None without any.
        options: How labels are joined.

    Returns:
        The names; None if the labels may name files by anything else than path or name, or if there
        are none: then every file is to be read.
    """
    if labels is None or options.by not in (None, "path", "name"):
        return None
    frame = labels.frame[labels.frame["label"].notna()]
    others = [key for key in KEYS if key != "path" and key in frame]
    if "path" not in frame or (others and options.by is None):
        return None
    if "split" in frame and (frame["split"] == "test").any():
        frame = frame[frame["split"] == "test"]
    return frozenset(_name(text) for text in frame["path"].dropna() if _name(text))


def _name(path: str) -> str:
    return normalize("NFC", re.split(r"[/\\]", path)[-1])


@dataclass(slots=True)
class LabelledWalk(Walk):
    """The files of an archive that have one of some names.

    Attributes:
        names: The names; None for all files.
        hidden: Path, relative to `base`, of a folder whose files are left out; empty for none.
    """

    names: FileNames | None = None
    hidden: bytes = b""

    def __iter__(self) -> Iterator[ArchiveFile]:
        """Yield the files as `Walk` does, without those of other names.

        Raises:
            UsageError: The root cannot be listed.
        """
        # Not by super(): a dataclass with slots is another class than the one that was written.
        for file in Walk.__iter__(self):
            if self.hidden and file.path.startswith(self.hidden):
                continue
            text = path_to_text(file.path, file.member)
            if self.names is None or _name(text) in self.names:
                yield file


def score_labelled(
    archive: Path,
    output: Path,
    checkpoint: Path,
    *,
    names: FileNames | None,
    options: ScoringOptions,
    progress: Progress,
) -> None:
    """Score the files of some names into a results table, or go on with it; a whole one is kept.

    Args:
        archive: A folder or one file.
        output: The table; the folder that it is in is left out of the archive.
        checkpoint: The model.
        names: Names of the files; None for all.
        options: The run's options.
        progress: Receives the progress.

    Raises:
        LabelError: No file of the archive has one of the names.
        CxrbatchError: In the cases in which `scoring.score_archive` raises it.
    """
    walk = LabelledWalk(
        archive,
        follow_links=options.follow_links,
        names=names,
        hidden=_inside(output.parent, archive),
    )
    forkserver = Forkserver(preload=READERS) if options.workers else None
    with claimed(output), closing(forkserver) if forkserver else nullcontext():
        from cxrbatch.scoring.engine import Engine

        progress.loaded()
        if names is not None and not output.exists() and next(iter(walk), None) is None:
            raise LabelError(
                f"no file below {archive} has a name that the labels name; check DATA, or say with "
                "--path-column or --by what names the files"
            )
        engine = Engine(archive, output, checkpoint, options, progress)
        engine.walk = LabelledWalk(
            archive, follow_links=walk.follow_links, names=names, hidden=walk.hidden
        )
        digest = hashlib.sha256("\n".join(sorted(names or ())).encode()).hexdigest()
        engine.fingerprint["names_sha256"] = digest if names is not None else ""
        with writing(output):
            engine.run(forkserver=forkserver)


def _inside(folder: Path, archive: Path) -> bytes:
    """Return the path of a folder relative to an archive with a slash; empty if it is outside."""
    inner, outer = folder.resolve(), archive.resolve()
    if not outer.is_dir() or not inner.is_relative_to(outer):
        return b""
    return os.path.join(os.fsencode(inner.relative_to(outer)), b"")
