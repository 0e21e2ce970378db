"""Access control: refuses requests without the token, and changes that another site asks for.

The server prints a token once when it starts. A browser exchanges it for a cookie; a program sends
it with each request in the header Authorization. The header Host is checked against a list, which
ends DNS rebinding. On all requests that may change something Origin is checked, and a secret of the
session unless the header Authorization has the token.
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

OPEN_ENDPOINTS = frozenset({"static"})
"""Endpoints that need no token: the style sheet, the scripts and the icons."""

# RFC 3986 section 3.2.2; the underscore occurs in names of containers.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{0,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAIN_PATH = re.compile(r"/(?:[\w.~-][\w.~/-]*)?", re.ASCII)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that a request may name as this server.

    Attributes:
        names: Names and addresses, spelled as `split_host` returns them.
        ports: Pairs of a name and the port that browsers use for it, where a proxy leaves the port
            out of the header Host.
    """

    names: frozenset[str]
    ports: frozenset[tuple[str, int]] = field(default=frozenset())

    def __contains__(self, host: str) -> bool:
        """Return whether a header Host names an allowed host, with any port."""
        try:
            return split_host(host)[0] in self.names
        except ValueError:
            return False

    def is_same_site(self, origin: str, *, host: str) -> bool:
        """Return whether the page that sends a request is of the host that the request is sent to.

        Args:
            origin: The header Origin of the request, which names the page's host and port. Its
                scheme may be http or https, as a proxy with TLS hides which one is used.
            host: The header Host of the request.

        Returns:
            True if the names are equal and the ports are too, or the port is one of `ports`; a port
            that is left out is 80 for http and 443 for https. False also if one of them is no host.

        Source: RFC 6454 section 5.
        """
        scheme, _, rest = origin.lower().partition("://")
        try:
            (name, port), (own_name, own_port) = split_host(rest), split_host(host)
            default = _DEFAULT_PORTS[scheme]
        except (ValueError, KeyError):
            return False
        port = port or default
        is_own_port = port == (own_port or default) or (name, port) in self.ports
        return name == own_name and is_own_port


def allowed_hosts(listen_address: str, more: Sequence[str] = ()) -> AllowedHosts:
    """Return the hosts by which clients may call a server.

    localhost, 127.0.0.1, ::1 and the address that the server listens at are always allowed.

    Args:
        listen_address: The address that the server listens at. For 0.0.0.0 and :: this machine's
            host name, its full name, and the addresses that the host name resolves to are allowed
            too; any other needs `more`.
        more: Values of `--allow-host`, which are allowed too.

    Raises:
        UsageError: A value of `more` is no host.
    """
    names = {"localhost", "127.0.0.1", "::1", listen_address}
    if listen_address in ("0.0.0.0", "::"):
        own_name = socket.gethostname()
        names |= {own_name, socket.getfqdn()}
        with suppress(OSError):  # the machine may not know its own name
            names |= {str(info[4][0]) for info in socket.getaddrinfo(own_name, None)}
    parsed = [parse_host(text) for text in more]
    return AllowedHosts(
        frozenset([*map(_normalise, names), *(name for name, _ in parsed)]),
        frozenset((name, port) for name, port in parsed if port is not None),
    )


def parse_host(text: str) -> tuple[str, int | None]:
    """Read a value of `--allow-host`: a name or an address, and perhaps a port.

    Returns:
        The name, spelled as `split_host` returns it, and the port; None if there is none.

    Raises:
        UsageError: The value has a wildcard or a scheme, or is no host.
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
        # Browsers send names in other scripts so encoded (RFC 3490).
        encoded = name if name.startswith("[") else name.encode("idna").decode("ascii")
        if not name.isascii() and encoded.encode().decode("idna") != name.lower():
            # A letter such as ß, which browsers encode by newer rules (RFC 5891).
            raise UsageError(f"--allow-host {text}: give the name as browsers send it, with xn--")
        host, number = split_host(encoded + colon + port)
        if number is not None and not 1 <= number <= 65_535:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--allow-host {text}: no host; give a name such as cxr.example or an address, "
            "each with a port or without"
        ) from None
    return host, number


def split_host(text: str) -> tuple[str, int | None]:
    """Split the header Host of a request into host and port.

    Returns:
        The host, in lower case, without brackets and a final dot, an IPv6 address as in RFC 5952;
        and the port, a number of up to five digits, or None if the text has none.

    Raises:
        ValueError: The text does not have the form of a host.
    """
    match = _HOST.fullmatch(text.lower())
    if match is None:
        raise ValueError("no host")
    name = _normalise(match[1].strip("[]"))
    if not name or (match[1].startswith("[") and ":" not in name):
        raise ValueError("no host")
    return name, int(match[2]) if match[2] else None


def _normalise(name: str) -> str:
    """Return the one spelling of a name, or of an IPv6 address (RFC 5952)."""
    if ":" in name:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(name))
    return name.lower().removesuffix(".")


def guard(app: Flask, *, token: str, hosts: AllowedHosts) -> None:
    """Check every request before its route runs, and add security headers to every response.

    A request is refused with 400 if its header Host names no allowed host; if its method may change
    something, with 403 if it may come from another site or comes from a page that is too old; and
    with 401 if it shows neither the token nor the cookie of a client that showed it. Static files
    need no token. A GET request with a token in its address, and not the right one in a header,
    gets the cookie and a redirect if the token is right, else 401.

    Args:
        app: The app.
        token: The token that a client must show.
        hosts: The hosts that a request may name.
    """

    def check() -> ResponseReturnValue | None:
        _check_host(request, hosts)
        if request.method not in _SAFE_METHODS:
            _check_origin(request, hosts)
        if request.endpoint in OPEN_ENDPOINTS or _has_bearer(request, token):
            return None
        if request.method == "GET" and "token" in request.args:
            return _sign_in(request.args["token"], token)
        if not session.get("admitted"):
            raise Unauthorized(www_authenticate=None)
        if request.method not in _SAFE_METHODS:
            _check_secret(request)
        return None

    app.before_request(check)
    app.after_request(_add_headers)
    app.context_processor(lambda: {"session_secret": session.get("secret", "")})


def shows_token(app: Flask, headers: Mapping[str, str], query: str, *, token: str) -> bool:
    """Return whether a request shows the token, or a session cookie of a client that showed it.

    The token may be in the header Authorization or in the query.

    Args:
        app: The app that the request is for.
        headers: The request's headers, named as in WSGI without `HTTP_`: `COOKIE`.
        query: The query of its address, without the question mark.
        token: The token.
    """
    names = [name for name in ("AUTHORIZATION", "COOKIE") if name in headers]
    if not names and "token=" not in query:
        return False
    parsed = app.request_class(
        {"QUERY_STRING": query, **{f"HTTP_{name}": headers[name] for name in names}}
    )
    if _has_bearer(parsed, token) or _is_equal(parsed.args.get("token", ""), token):
        return True
    cookie = app.session_interface.open_session(app, parsed)
    return cookie is not None and bool(cookie.get("admitted"))


def sign_in_page(*, refused: bool) -> str:
    """Return the HTML of the page that asks for the token.

    Args:
        refused: Whether the page says that the token sent last was wrong.
    """
    return render_template("sign_in.html", refused=refused)


def _check_host(request: Request, hosts: AllowedHosts) -> None:
    if request.environ.get("HTTP_HOST", "") not in hosts:
        raise BadRequest(
            "The header Host of the request is no name of this server: start the server with "
            "--allow-host NAME if that name is right."
        )


def _check_origin(request: Request, hosts: AllowedHosts) -> None:
    origin = request.headers.get("Origin")
    if origin == "null":
        # Our pages send no referrer, so their forms have no origin; this header names the site.
        if request.headers.get("Sec-Fetch-Site") == "same-origin":
            return
    elif origin is None:
        if "Authorization" in request.headers:
            return  # a program, not a browser
    elif hosts.is_same_site(origin, host=request.environ["HTTP_HOST"]):
        return
    raise Forbidden("The request comes from another site.")


def _check_secret(request: Request) -> None:
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
    if not _is_equal(given, str(session.get("secret", ""))):
        raise Forbidden("The page is too old; load it again.")


def _has_bearer(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and _is_equal(given.strip(), token)


def _sign_in(given: str, token: str) -> ResponseReturnValue:
    """Exchange a token in the address for a cookie, and redirect to the address without it."""
    if not _is_equal(given, token):
        return sign_in_page(refused=True), 401
    session.clear()
    session["admitted"] = True
    session["secret"] = secrets.token_urlsafe(24)
    # Werkzeug leaves out tabs and the like: "/\t/name" would lead to another site.
    path = request.path if _PLAIN_PATH.fullmatch(request.path) else "/"
    return redirect(path, code=303)


def _is_equal(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Cache-Control"] = "no-store"
    return response
