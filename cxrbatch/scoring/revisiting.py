"""Reads the image of a table's row once more, for the report and the web app."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from cxrbatch.files import text_to_path, text_to_place
from cxrbatch.model.preprocessing import Recipe, image_hash
from cxrbatch.reading.containers.listing import members_named
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_member, iterate_radiographs
from cxrbatch.results.table import Table

UNKNOWN_ORIGIN = "the table does not say where its images are and how they were read"
MISSING = "not in the archive any more"
CHANGED = "changed since it was scored"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the images of a results table are, and how they were read when they were scored.

    Attributes:
        root: The archive's folder, absolute.
        recipe: How display images became inputs.
        options: How files were read; other modalities are rendered too.
        follow_links: Whether links were followed; if not, a path that a link leads out of the
            folder is not read.
    """

    root: bytes
    recipe: Recipe
    options: ReadingOptions
    follow_links: bool = False

    @classmethod
    def of(cls, table: Table, *, root: bytes | None = None) -> "Origin | None":
        """Take the origin from a table's metadata.

        Args:
            table: The table.
            root: The archive's folder now; None for the one it was scored in.

        Returns:
            The origin; None if the metadata is incomplete or invalid, or the folder is not
            absolute.
        """
        made = table.provenance
        try:
            recipe = Recipe.from_card(made["recipe"])
            limit = int(made.get("max_pixels", ReadingOptions().max_pixels))
            root = text_to_path(str(made["archive_root"])) if root is None else root
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not os.path.isabs(root):
            return None
        options = ReadingOptions(
            render_all=True,
            max_pixels=limit,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if made.get("fast_decode") is True else None,
        )
        return cls(root, recipe, options, follow_links=made.get("follow_links") is True)


def revisit(origin: Origin, path: str, frame: int, hashed: str) -> Reading | str:
    """Read the image of a table's row from the archive once more, and check that it is the same.

    Call it in a child process: files may be hostile.

    Args:
        origin: Where the table's images are.
        path: The row's `path`.
        frame: The row's `frame`.
        hashed: The row's `image_hash`.

    Returns:
        A Reading whose image has this hash. Or a text for a person: `CHANGED` if the frame is there
        but has no image or one of another hash; `MISSING` if the file or frame is not there, cannot
        be read, or lies outside of the archive.
    """
    failure = MISSING
    for readings in _files(origin, path):
        reading = next(islice(readings, frame, None), None)
        if reading is None or reading.outcome is Outcome.UNREADABLE_FILE:
            continue
        image = reading.image
        if image is not None and image_hash(origin.recipe.prepare(image)) == hashed:
            return reading
        failure = CHANGED
    return failure


def _files(origin: Origin, path: str) -> Iterator[Iterator[Reading]]:
    """Yield the readings of each file that has the row's path, as members may share a name."""
    try:
        place, member = text_to_place(path)
    except ValueError:
        return
    if place.startswith(b"/") or b".." in place.split(b"/") or posixpath.normpath(place) != place:
        return
    location = os.path.join(origin.root, place)
    if not os.path.isfile(location):
        return
    if not origin.follow_links and not _is_within(location, origin.root):
        return
    if member is None:
        yield iterate_radiographs(location, origin.options)
        return
    with suppress(ReadingError, OSError):  # a container that is damaged or none
        for entry in members_named(location, member):
            if entry.kind == "file" and entry.fault is None:
                yield iterate_member(location, member, entry.offset, origin.options)


def _is_within(location: bytes, folder: bytes) -> bool:
    inside = os.path.join(os.path.realpath(folder), b"")
    return os.path.realpath(location).startswith(inside)
