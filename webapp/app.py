"""The application factory."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from flask import Flask

from cxrbatch import __version__
from cxrbatch.scoring.isolation import Limits
from cxrbatch.webapp import api, failures, images, runs
from cxrbatch.webapp.access import guard
from cxrbatch.webapp.children import Children, Queue
from cxrbatch.webapp.films import Films
from cxrbatch.webapp.library import Library
from cxrbatch.webapp.services import NAME, Services
from cxrbatch.webapp.summaries import Summaries

MOST_BYTES = 100 << 20
"""Largest body that is taken."""

_SECONDS = 30.0  # that a film may take; a visitor has left by then


def create_app(
    folder: Path, *, token: str, hosts: frozenset[str], cookie: str = "cxrbatch"
) -> Flask:
    """Make the app; it looks at no file before it is asked for one.

    Args:
        folder: Where the tables and reports are.
        token: What a visitor has to know.
        hosts: Names that a request may address, in lower case, without a port.
        cookie: Name of the session's cookie, which browsers share between ports.
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME=cookie,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=MOST_BYTES,
        MAX_FORM_PARTS=8,
    )
    children = Children(Limits(seconds=_SECONDS))
    app.extensions[NAME] = Services(
        children=children,
        films=Films(children, Queue(at_work=2, waiting=10)),
        library=Library(folder),
        summaries=Summaries(),
    )
    guard(app, token=token, hosts=hosts)
    failures.explain(app)
    app.jinja_env.filters.update(percent=_percent, day=_day, thousands=_thousands)
    app.jinja_env.globals.update(version=__version__)
    for feature in (runs, images, api):
        app.register_blueprint(feature.blueprint)
    return app


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _thousands(number: int) -> str:
    return f"{number:,}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
