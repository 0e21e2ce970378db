"""What goes wrong, told in one line with an id: the same id is in the log, and nothing else of it.

The text of a foreign exception may quote a header, so it goes neither to the page nor to the log.
"""

import logging
import secrets
import traceback

from flask import Flask, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from cxrbatch.errors import CxrbatchError, TableError
from cxrbatch.webapp.children import Busy
from cxrbatch.webapp.export import NoRoom, Unwanted
from cxrbatch.webapp.scorer import NotKept
from cxrbatch.webapp.security import sign_in_page
from cxrbatch.webapp.services import services

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 2

_MEANINGS = {
    400: "The request does not make sense.",
    401: "A token is needed.",
    404: "There is no such page.",
    405: "That cannot be done here.",
    413: "The file is too large.",
    500: "Something went wrong in the server.",
}


def explain(app: Flask) -> None:
    """Install the handlers on an app."""
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(TableError, lambda error: _answer(409, str(error)))
    app.register_error_handler(CxrbatchError, lambda error: _answer(422, str(error)))
    app.register_error_handler(Busy, _busy)
    app.register_error_handler(NotKept, _not_kept)
    app.register_error_handler(NoRoom, _not_exported)
    app.register_error_handler(Unwanted, lambda error: _answer(503, "Nobody waits for it."))
    app.register_error_handler(Exception, _broken)


def _refused(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    if 300 <= code < 400:
        return error.get_response()
    is_ours = error.description is not None and error.description != type(error).description
    response = _answer(code, str(error.description) if is_ours else _MEANINGS.get(code, error.name))
    if code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if code == 405 and (methods := error.get_headers()):
        response.headers.extend([item for item in methods if item[0] == "Allow"])
    return response


def _busy(error: Busy) -> Response:
    response = _answer(503, f"{error}; try again in a moment.")
    response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def _not_kept(error: NotKept) -> Response:
    return _answer(507, f"The file was scored but cannot be kept: {error}. Nothing of it is left.")


def _not_exported(error: NoRoom) -> Response:
    return _answer(507, f"The export does not fit on the disk: {error}. Choose fewer rows.")


def _broken(error: Exception) -> Response:
    if services().children.is_closed:  # then much fails, and nobody is left to read of it
        return _answer(503, "The server is ending.")
    return _answer(500, _MEANINGS[500], error)


def _answer(code: int, message: str, error: Exception | None = None) -> Response:
    name = secrets.token_hex(4)
    if error is not None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error(
            "error %s: %s in %s, line %s", name, type(error).__name__, place.name, place.lineno
        )
    if request.path.startswith("/api/") or _is_script():
        response = jsonify({"error": message, "id": name})
    elif code == 401:
        response = Response(sign_in_page(refused=False))
    else:
        page = render_template("error.html", code=code, message=message, id=name)
        response = Response(page)
    response.status_code = code
    return response


def _is_script() -> bool:
    """Whether a script asks, which names what it takes, and no page among it."""
    accepted = request.headers.get("Accept", "*/*")
    return "application/json" in accepted and "html" not in accepted
