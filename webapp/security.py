"""Who gets in: every request is refused here unless it is known to be welcome.

A token, printed once when the server starts, is exchanged for a cookie as in notebooks, or comes
with each call of a program in the header Authorization. The Host is checked against a list, which
ends DNS rebinding; Origin and a secret of the session are checked on all that is not a mere look.
"""

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from flask import Flask, Request, Response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, Forbidden, Unauthorized

from cxrbatch.errors import UsageError

# RFC 3986 3.2.2; the underscore is in names of containers.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts by which a server may be called.

    Attributes:
        names: Names and addresses, as `split_host` gives them.
        ports: (name, port) that a browser's address has where the header Host lacks the port.
    """

    names: frozenset[str]
    ports: frozenset[tuple[str, int]] = field(default=frozenset())

    def __contains__(self, host: str) -> bool:
        """Whether the value of a header Host names one of them, whatever its port."""
        try:
            return split_host(host)[0] in self.names
        except ValueError:
            return False

    def has_origin(self, origin: str, *, host: str) -> bool:
        """Whether a page comes from the host that its request addresses (RFC 6454 5).

        Args:
            origin: The header Origin.
            host: The header Host. A proxy with TLS hides the scheme, so that both are good.
        """
        scheme, _, rest = origin.lower().partition("://")
        try:
            (name, port), (asked, asked_port) = split_host(rest), split_host(host)
            usual = _PORTS[scheme]
        except (ValueError, KeyError):
            return False
        port = port or usual
        return name == asked and (port == (asked_port or usual) or (name, port) in self.ports)


def allowed_hosts(listening: str, further: Sequence[str] = ()) -> Hosts:
    """Give the hosts by which a server may be called.

    Args:
        listening: The address that it listens at.
        further: Values of `--allow-host`.

    Raises:
        UsageError: One of `further` is no host.
    """
    names = {"localhost", "127.0.0.1", "::1", listening}
    if listening in ("0.0.0.0", "::"):
        own = socket.gethostname()
        names |= {own, socket.getfqdn()}
        with suppress(OSError):  # it need not know its own name
            names |= {str(found[4][0]) for found in socket.getaddrinfo(own, None)}
    given = [parse_host(text) for text in further]
    return Hosts(
        frozenset([*map(_plain, names), *(name for name, _ in given)]),
        frozenset((name, port) for name, port in given if port is not None),
    )


def parse_host(text: str) -> tuple[str, int | None]:
    """Read a value of `--allow-host`: a name or an address, and perhaps a port.

    Raises:
        UsageError: It is none.
    """
    if "*" in text:
        raise UsageError(
            f"--allow-host {text}: name each host; with a wildcard any site could make a name "
            "of its own point here"
        )
    if "://" in text:
        raise UsageError(f"--allow-host {text}: give the host alone, without http:// or https://")
    with suppress(ValueError):
        return str(ipaddress.IPv6Address(text)), None
    name, colon, port = text.rpartition(":") if re.search(r":[0-9]+$", text) else (text, "", "")
    try:
        # So browsers send names of other scripts (RFC 3490).
        encoded = name if name.startswith("[") else name.encode("idna").decode("ascii")
        if not name.isascii() and encoded.encode().decode("idna") != name.lower():
            # Such as ß, which browsers encode by newer rules (RFC 5891).
            raise UsageError(f"--allow-host {text}: give the name as browsers send it, with xn--")
        found, number = split_host(encoded + colon + port)
        if number is not None and not 1 <= number <= 65_535:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--allow-host {text}: no host; give a name such as cxr.example or an address, "
            "each with a port or without"
        ) from None
    return found, number


def split_host(text: str) -> tuple[str, int | None]:
    """Take a header Host apart: the host in lower case without a dot at its end, and the port.

    Raises:
        ValueError: It is no host.
    """
    match = _HOST.fullmatch(text.lower())
    if match is None:
        raise ValueError("no host")
    name = _plain(match[1].strip("[]"))
    if not name or (match[1].startswith("[") and ":" not in name):
        raise ValueError("no host")
    return name, int(match[2]) if match[2] else None


def _plain(name: str) -> str:
    """One spelling of a name, or of an address of version 6 (RFC 5952)."""
    if ":" in name:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(name))
    return name.lower().removesuffix(".")


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
