"""What finds the lungs for an audit: the lung finder that comes with the package."""

import hashlib
from typing import NamedTuple

from cxrbatch.auditing.passes import FindsLungs
from cxrbatch.lungs.finder import LungFinder
from cxrbatch.lungs.unet import bundled_lung_weights


class NamedFinder(NamedTuple):
    """A lung finder and what it is.

    Attributes:
        finder: Finds the lungs; None if there is none.
        words: What it is, for the metadata of a table; empty if there is none.
    """

    finder: FindsLungs | None
    words: str


def bundled_finder() -> NamedFinder:
    """Load the lung finder that comes with the package; its words have the hash of its weights.

    Raises:
        CheckpointError: Its weights are damaged.
    """
    path = bundled_lung_weights()
    return NamedFinder(LungFinder(), f"bundled {hashlib.sha256(path.read_bytes()).hexdigest()}")
