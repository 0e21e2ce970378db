"""Who gets in: every request is refused here unless it is known to be welcome.

A token, printed once when the server starts, is exchanged for a cookie as in notebooks, or comes
with each call of a program in the header Authorization. The Host is checked against a list, which
ends DNS rebinding; Origin and a secret of the session are checked on all that is not a mere look.
"""

import hmac
import ipaddress
import secrets
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from flask import Flask, Request, Response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, Forbidden, Unauthorized

OPEN_ENDPOINTS = frozenset({"static"})
"""What is answered without a token: stylesheet, scripts and icon."""

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


def guard(app: Flask, *, token: str, hosts: frozenset[str]) -> None:
    """Put the checks in front of every route of an app, and its headers behind.

    Args:
        app: The app.
        token: What a visitor has to know.
        hosts: Names that a request may address, in lower case, without a port.
    """

    def check() -> ResponseReturnValue | None:
        _check_host(request, hosts)
        if request.method not in _LOOKING:
            _check_origin(request)
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


def allowed_hosts(listening: str) -> frozenset[str]:
    """Names by which a server that listens at an address may be called."""
    names = {"localhost", "127.0.0.1", "::1", listening.lower()}
    if listening in ("0.0.0.0", "::"):
        own = socket.gethostname().lower()
        names |= {own, socket.getfqdn().lower()}
        with suppress(OSError):  # it need not know its own name
            names |= {str(found[4][0]) for found in socket.getaddrinfo(own, None)}
    return frozenset(names)


def sign_in_page(*, refused: bool) -> str:
    """The page that asks for the token."""
    return render_template("sign_in.html", refused=refused)


def _check_host(request: Request, hosts: frozenset[str]) -> None:
    try:
        host = urlsplit(f"//{request.environ.get('HTTP_HOST', '')}").hostname or ""
    except ValueError:
        host = ""
    if host.lower() not in hosts and not _is_own_address(host, request):
        raise BadRequest("This server does not go by that name.")


def _is_own_address(host: str, request: Request) -> bool:
    """Whether the host is the very address that the server was started with, as a number."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(
            request.environ.get("SERVER_NAME", "")
        )
    except ValueError:
        return False


def _check_origin(request: Request) -> None:
    origin = request.headers.get("Origin")
    if origin == "null":
        # A form of a page that sends no referrer has no origin; the browser tells otherwise.
        if request.headers.get("Sec-Fetch-Site") == "same-origin":
            return
    elif origin is None:
        if "Authorization" in request.headers:
            return  # a program, not a browser
    elif origin.lower() in (f"http://{request.host}".lower(), f"https://{request.host}".lower()):
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
    return redirect(request.path, code=303)


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Cache-Control"] = "no-store"
    return response
