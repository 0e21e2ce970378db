"""An uploaded file is read in a child process; imports little, as each child imports it anew."""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.rows import FileReader, LoadedFiles
from cxrbatch.webapp.drawing import png

MOST_FRAMES = 16
"""Frames of a file that are looked at."""

_LONGEST_SHOWN = 1600


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file, for a child process.

    Attributes:
        reader: Makes rows of it, as a run would.
        file: The file, where `reader` finds it.
    """

    reader: FileReader
    file: ArchiveFile


@dataclass(frozen=True, slots=True)
class ReadUpload:
    """What was made of it.

    Attributes:
        loaded: The rows of its first frames, with their inputs.
        picture: The first frame as PNG, made smaller; empty where it gave no image.
    """

    loaded: LoadedFiles
    picture: bytes


def read_upload(upload: Upload) -> ReadUpload:
    """Read each frame once, to its row, its input and the first one's picture."""
    reader, file = upload.reader, upload.file
    pairs, picture = [], b""
    for reading in islice(reader.readings(file), MOST_FRAMES):
        pairs.append(reader.row(file, reading))
        if len(pairs) == 1 and reading.image is not None:
            picture = png(reading.image, longest=_LONGEST_SHOWN)
    inputs = [prepared for _, prepared in pairs if prepared is not None]
    size = reader.recipe.size
    loaded = LoadedFiles(
        [row for row, _ in pairs],
        [prepared is not None for _, prepared in pairs],
        np.stack(inputs) if inputs else np.empty((0, size, size), np.uint8),
    )
    return ReadUpload(loaded, picture)
