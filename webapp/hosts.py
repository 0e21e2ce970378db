"""The names by which a request may call this server: its own, and those of `--allow-host`.

A site can make its own name point at this machine (DNS rebinding). Its page then is of one origin
with this server, but the browser still sends that name as Host, and so gives it away.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

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
