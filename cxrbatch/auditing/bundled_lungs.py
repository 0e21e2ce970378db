"""What finds the lungs for an audit: the lung finder that comes with the package, if it does."""

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, cast

from cxrbatch.auditing.passes import FindsLungs


class NamedFinder(NamedTuple):
    """A lung finder and what it is.

    Attributes:
        finder: Finds the lungs; None if there is none.
        words: What it is, for the metadata of a table; empty if there is none.
    """

    finder: FindsLungs | None
    words: str


def bundled_finder() -> NamedFinder:
    """Load the lung finder that comes with the package."""
    if find_spec("cxrbatch.lungs") is None:
        return NamedFinder(None, "")
    module = import_module("cxrbatch.lungs.finder")
    return NamedFinder(cast(FindsLungs, module.LungFinder()), "bundled")
