"""The application factory."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from flask import Flask

from cxrbatch.version import VERSION
from cxrbatch.webapp import api, failures, images, runs, uploads
from cxrbatch.webapp.children import Children, Queue
from cxrbatch.webapp.export import Exports
from cxrbatch.webapp.films import Films
from cxrbatch.webapp.library import Library
from cxrbatch.webapp.scorer import Keeper, UploadScorer
from cxrbatch.webapp.security import Hosts, guard
from cxrbatch.webapp.services import NAME, Services
from cxrbatch.webapp.summaries import Summaries
from cxrbatch.webapp.uploads import UploadRequest
from cxrbatch.workers.worker import WorkerLimits

MOST_BYTES = 100 << 20
"""Largest body that is taken."""


def create_app(
    folder: Path,
    *,
    token: str,
    hosts: Hosts,
    checkpoint: Path | None = None,
    keep_uploads: Path | None = None,
    cookie: str = "cxrbatch",
) -> Flask:
    """Make the app; it looks at no file before it is asked for one.

    Args:
        folder: Where the tables and reports are.
        token: What a visitor has to know.
        hosts: Hosts that a request may address.
        checkpoint: What scores uploads; the bundled one by default.
        keep_uploads: A private folder where uploads stay; None for nowhere.
        cookie: Name of the session's cookie, which browsers share between ports.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        UsageError: The folder for uploads cannot be used.
    """
    app = Flask(__name__)
    app.request_class = UploadRequest
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME=cookie,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=MOST_BYTES,
        MAX_FORM_PARTS=8,
    )
    children = Children(WorkerLimits())
    app.extensions[NAME] = Services(
        children=children,
        exports=Exports(Queue(at_work=2, waiting=4)),
        films=Films(children, Queue(at_work=2, waiting=10)),
        keeper=Keeper(keep_uploads) if keep_uploads else None,
        library=Library(folder),
        scorer=UploadScorer(checkpoint, children, Queue(at_work=1, waiting=4)),
        summaries=Summaries(children),
    )
    guard(app, token=token, hosts=hosts)
    failures.explain(app)
    app.jinja_env.filters.update(percent=_percent, day=_day, thousands=_thousands)
    app.jinja_env.globals.update(version=VERSION)
    for feature in (runs, images, uploads, api):
        app.register_blueprint(feature.blueprint)
    return app


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _thousands(number: int) -> str:
    return f"{number:,}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
