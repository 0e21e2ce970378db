"""Who gets in: every request is refused here unless it is known to be welcome.

A token, printed once when the server starts, is exchanged for a cookie as in notebooks, or comes
with each call of a program in the header Authorization. The Host is checked against a list, which
ends DNS rebinding; Origin and a secret of the session are checked on all that is not a mere look.
"""

import hmac
import re
import secrets
from collections.abc import Mapping

from flask import Flask, Request, Response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, Forbidden, Unauthorized

from cxrbatch.webapp.hosts import Hosts

OPEN_ENDPOINTS = frozenset({"static"})
"""What is answered without a token: stylesheet, scripts and icon."""

_PLAIN_PATH = re.compile(r"/(?:[\w.~-][\w.~/-]*)?", re.ASCII)
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(app: Flask, *, token: str, hosts: Hosts) -> None:
    """Put the checks in front of every route of an app, and its headers behind.

    Args:
        app: The app.
        token: What a visitor has to know.
        hosts: Hosts that a request may address.
    """

    def check() -> ResponseReturnValue | None:
        _check_host(request, hosts)
        if request.method not in _LOOKING:
            _check_origin(request, hosts)
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        if _is_bearer(request, token):
            return None
        if request.method == "GET" and "token" in request.args:
            return _exchange(request.args["token"], token)
        if not session.get("admitted"):
            raise Unauthorized(www_authenticate=None)
        if request.method not in _LOOKING:
            _check_secret(request)
        return None

    app.before_request(check)
    app.after_request(_with_headers)
    app.context_processor(lambda: {"session_secret": session.get("secret", "")})


def is_known(app: Flask, headers: Mapping[str, str], query: str, *, token: str) -> bool:
    """Whether a request shows the token, or the cookie that it was exchanged for.

    Args:
        app: The app that it is for.
        headers: Its headers, named as in `HTTP_COOKIE` but without `HTTP_`.
        query: What follows the question mark in its address.
        token: The token.
    """
    names = [name for name in ("AUTHORIZATION", "COOKIE") if name in headers]
    if not names and "token=" not in query:
        return False
    asked = app.request_class(
        {"QUERY_STRING": query, **{f"HTTP_{name}": headers[name] for name in names}}
    )
    if _is_bearer(asked, token) or _same(asked.args.get("token", ""), token):
        return True
    kept = app.session_interface.open_session(app, asked)
    return kept is not None and bool(kept.get("admitted"))


def sign_in_page(*, refused: bool) -> str:
    """The page that asks for the token."""
    return render_template("sign_in.html", refused=refused)


def _check_host(request: Request, hosts: Hosts) -> None:
    if request.environ.get("HTTP_HOST", "") not in hosts:
        raise BadRequest(
            "This server does not go by the name in the request's header Host: start it with "
            "--allow-host NAME if that name is right."
        )


def _check_origin(request: Request, hosts: Hosts) -> None:
    origin = request.headers.get("Origin")
    if origin == "null":
        # A form of a page that sends no referrer has no origin; the browser tells otherwise.
        if request.headers.get("Sec-Fetch-Site") == "same-origin":
            return
    elif origin is None:
        if "Authorization" in request.headers:
            return  # a program, not a browser
    elif hosts.has_origin(origin, host=request.environ["HTTP_HOST"]):
        return
    raise Forbidden("The request comes from another site.")


def _check_secret(request: Request) -> None:
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
    if not _same(given, str(session.get("secret", ""))):
        raise Forbidden("The page is too old; load it again.")


def _is_bearer(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and _same(given.strip(), token)


def _exchange(given: str, token: str) -> ResponseReturnValue:
    """A token in the address becomes a cookie and leaves the address."""
    if not _same(given, token):
        return sign_in_page(refused=True), 401
    session.clear()
    session["admitted"] = True
    session["secret"] = secrets.token_urlsafe(24)
    # Werkzeug leaves out tabs and the like: "/\t/name" would lead to another site.
    path = request.path if _PLAIN_PATH.fullmatch(request.path) else "/"
    return redirect(path, code=303)


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Cache-Control"] = "no-store"
    return response
