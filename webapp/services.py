"""What the routes share: one of each in an app."""

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from werkzeug.exceptions import NotFound

from cxrbatch.webapp.children import Children
from cxrbatch.webapp.export import Exports
from cxrbatch.webapp.films import Films
from cxrbatch.webapp.library import Found, Library
from cxrbatch.webapp.opened import OpenedTable
from cxrbatch.webapp.scorer import Keeper, UploadScorer
from cxrbatch.webapp.summaries import Summaries

NAME = "cxrbatch"


@dataclass(frozen=True, slots=True)
class Services:
    """What an app works with.

    Attributes:
        library: The tables and reports.
        children: Read what is hostile.
        exports: Makes files of chosen rows.
        films: Films, read anew.
        keeper: Keeps uploads; None where they are not kept.
        scorer: Scores uploads.
        summaries: What tables add up to.
    """

    children: Children
    exports: Exports
    films: Films
    keeper: Keeper | None
    library: Library
    scorer: UploadScorer
    summaries: Summaries


def services() -> Services:
    """Those of the app that answers."""
    return cast(Services, current_app.extensions[NAME])


def close(app: Flask) -> None:
    """End the processes of an app."""
    own = cast(Services, app.extensions[NAME])
    own.summaries.close()
    own.children.close()


def asked_table(id: str) -> tuple[Found, OpenedTable]:
    """The table that an address names.

    Raises:
        NotFound: There is none.
        TableError: It is broken.
    """
    found = services().library.table(id)
    if found is None:
        raise NotFound("There is no such table any more.")
    return found, services().library.open(found)
