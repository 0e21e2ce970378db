"""A connection that its client cannot hold by being slow.

Waitress gives each connection as long as it wants as long as a byte moves. Here a request's head,
its body and the taking of an answer have deadlines, and one request is answered after the other.
"""

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.utilities import BadRequest


class _LengthRequired(BadRequest):
    code = 411
    reason = "Length Required"


class _Nowhere(OverflowableBuffer):
    """Takes a stranger's body, of which nothing is kept."""

    def append(self, s: bytes) -> None:
        """Keep nothing."""


class IncomingRequest(HTTPRequestParser):
    """Reads one request, and leaves what comes behind it for later.

    It takes no body in chunks, which nothing that we serve needs. A chunk's size is a line, and
    waitress looks for its end in all that it has got, each time that something comes: an endless
    one would keep everybody waiting for hours.

    Attributes:
        query: What follows the question mark in its address, once its head has come.
        unread: What has come behind it.
    """

    query: str
    proxy_netloc: str = ""  # of an address that names a server, as for a proxy

    def __init__(self, adj: Adjustments, head_read: Callable[["IncomingRequest"], None]) -> None:
        """Wait for its first byte.

        Args:
            adj: The limits on it.
            head_read: Called when its head has come.
        """
        super().__init__(adj)
        self.unread = b""
        self._head_read = head_read
        self._has_head = False

    def received(self, data: bytes) -> int:
        """Add bytes; gives how many belong to it, or are kept in `unread`."""
        consumed = super().received(data)
        if self.headers_finished and not self._has_head:
            self._has_head = True
            self._head_read(self)
            if self.proxy_netloc and self.proxy_netloc != self.headers.get("HOST"):
                # Of two names for the server only one is checked (RFC 9112 section 3.2.2).
                self.error = BadRequest("The address and the header Host name two servers.")
                self.completed = True
        if self.chunked and self.error is None:
            self.error = _LengthRequired("Send the length of the body.")
            self.completed = True
        if not self.completed:
            return consumed
        self.expect_continue = False
        self.unread = data[consumed:]
        return len(data)

    @property
    def has_begun(self) -> bool:
        """Whether something of the request has come."""
        return bool(self.header_plus) or self.headers_finished

    def swallow_body(self) -> None:
        """Let the body come, but keep nothing of it."""
        self.body_rcv = FixedStreamReceiver(self.content_length, _Nowhere(0))
        self.headers = {**self.headers, "CONTENT_LENGTH": "0"}


DEADLINE_SECONDS = 20.0
"""For a request's head, from the connection's begin or the previous answer's end."""

LEAST_BYTES_A_SECOND = 8 << 10
"""What a body has to come by, and an answer to go by, after the first `DEADLINE_SECONDS`."""

Knows = Callable[[Mapping[str, str], str], bool]
"""Whether a request shows the token, by its headers as waitress names them and its query."""


class Reception(TcpWSGIServer):
    """What a connection asks of its server.

    Attributes:
        knows: Tells who is no stranger.
        is_ending: Whether no more requests are taken.
    """

    knows: Knows
    is_ending: bool

    def forget(self, channel: "Channel") -> None:
        """Count a connection as a stranger's no more."""
        raise NotImplementedError


class Channel(HTTPChannel):
    """One connection, which answers one request after the other.

    Attributes:
        is_known: Whether it has shown the token.
        unread: What has come behind the request that is being answered.
        since: When it began what it does now, by the monotonic clock.
    """

    server: Reception
    request: IncomingRequest | None
    _moved: int

    def __init__(
        self,
        server: Reception,
        sock: socket.socket,
        addr: tuple[str, int],
        adj: Adjustments,
        map: Mapping[int, socket.socket] | None = None,
    ) -> None:
        """Take over a connection that was accepted."""
        self.is_known = False
        self.unread = b""
        self._own_socket = sock  # waitress drops its own where it closes it
        self._is_at_work = False
        self._is_answering = False
        self._restart_clock()
        super().__init__(server, sock, addr, adj, map=map)

    @property
    def is_replaceable(self) -> bool:
        """Whether nothing that is at work is lost with it."""
        return not self._is_at_work

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        has_begun = self.request is not None and self.request.has_begun
        return not (self.requests or self.unread or has_begun or self.total_outbufs_len)

    def is_overdue(self, now: float) -> bool:
        """Whether the client lets a request or an answer wait longer than it may."""
        return self._behind(now) > DEADLINE_SECONDS

    def stalled(self, now: float) -> float:
        """Seconds for which the client has moved too little; 0 where it waits for the server."""
        return 0.0 if self.requests else max(self._behind(now), now - self._moved_at)

    def refuse(self, status: str) -> None:
        """Answer a request that has begun and has no answer yet, and close the connection."""
        with self.outbuf_lock:
            is_open = self.connected and not self.total_outbufs_len
            if is_open and not self.is_idle and not (self.requests and self._is_answering):
                with suppress(OSError):
                    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                    self._own_socket.send(head.encode())
                    self._own_socket.recv(
                        1 << 16
                    )  # what is unread at a close takes the answer along
            self.handle_close()

    def check_client_disconnected(self) -> bool:  # type: ignore[override]  # stubs err
        """Whether the client has gone; for the thread that answers it."""
        try:
            return self._own_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:  # it is closed
            return True

    def readable(self) -> bool:
        """Whether more may be read; begins the next request where it has come already."""
        if self.server.is_ending or not self.connected:
            return False
        if self.unread and super().readable():
            data, self.unread = self.unread, b""
            self.received(data)
        return super().readable()

    def received(self, data: bytes) -> bool:
        """Add what has come to the request."""
        request = self.request = self.request or IncomingRequest(self.adj, self._head_read)
        is_open = super().received(data)
        self.unread = request.unread
        return is_open

    def recv(self, buffer_size: int) -> bytes:
        """Read, and count the bytes."""
        data = super().recv(buffer_size)
        self._count(len(data))
        return data

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send, and count the bytes."""
        count = super().send(data, do_close)
        self._count(count)
        return count

    def write_soon(self, data: bytes) -> int:
        """Send an answer, or a part of it."""
        with self.outbuf_lock:
            self._is_answering = True
            self._restart_clock()
        return super().write_soon(data)

    def handle_write(self) -> None:
        """Send what waits; the time for the next request begins when all is sent."""
        waited = self.total_outbufs_len
        super().handle_write()
        if waited and not self.total_outbufs_len:
            self._restart_clock()

    def service(self) -> None:
        """Answer one request."""
        self._is_at_work = True
        try:
            super().service()
        finally:
            self._is_at_work = False

    def del_channel(self, map: Mapping[int, socket.socket] | None = None) -> None:
        """Leave the server's lists."""
        super().del_channel(map)
        self.server.forget(self)

    def _behind(self, now: float) -> float:
        if self.requests:
            return 0.0
        is_body = self.request is not None and self.request.headers_finished
        moved = self._moved if is_body or self.total_outbufs_len else 0
        return now - self.since - moved / LEAST_BYTES_A_SECOND

    def _count(self, moved: int) -> None:
        if moved:
            self._moved += moved
            self._moved_at = time.monotonic()

    def _restart_clock(self) -> None:
        self.since = self._moved_at = time.monotonic()
        self._moved = 0

    def _head_read(self, request: IncomingRequest) -> None:
        """See who asks, before a body comes."""
        self._restart_clock()
        self._is_answering = False
        if request.error is not None:
            return
        if not self.is_known and self.server.knows(request.headers, request.query):
            self.is_known = True
            self.server.forget(self)
        if request.body_rcv is not None and not request.chunked and not self.is_known:
            request.swallow_body()
