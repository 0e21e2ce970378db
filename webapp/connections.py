"""Connections and requests with deadlines, which a slow client cannot hold.

Waitress lets a connection live as long as a byte moves now and then. Here the head of a request,
its body and the fetching of an answer have deadlines. A connection answers one request after the
other.
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

DEADLINE_SECONDS = 20.0
"""Time for the head of a request, from the start of the connection or the last answer's end."""

MIN_BYTES_PER_SECOND = 8 << 10
"""Slowest rate of a body or of the fetching of an answer; `DEADLINE_SECONDS` are added."""

TokenCheck = Callable[[Mapping[str, str], str], bool]
"""Function of a request's headers, named as by waitress, and query: whether it shows the token."""


class _LengthRequired(BadRequest):
    code = 411
    reason = "Length Required"


class _DiscardingBuffer(OverflowableBuffer):
    """Buffer of a body of which nothing is kept."""

    def append(self, s: bytes) -> None:
        """Discard the bytes."""


class IncomingRequest(HTTPRequestParser):
    """Parses the bytes of one request; stores bytes that come after it for the next request.

    A body in chunks is refused, as no client of ours needs one: the size of a chunk is a line, and
    waitress searches all bytes received so far for its end each time some come. An endless line
    would keep all clients waiting for hours.

    Attributes:
        query: Query of the address, without the question mark; set when the head is complete.
        unread: Bytes that came after the request.
    """

    query: str
    proxy_netloc: str = ""  # the host in the address, if the client takes us for a proxy

    def __init__(self, adj: Adjustments, on_head: Callable[["IncomingRequest"], None]) -> None:
        """Create a request of which no byte has come.

        Args:
            adj: Waitress's settings, with the limits on a request.
            on_head: Called with this request when its head is complete.
        """
        super().__init__(adj)
        self.unread = b""
        self._on_head = on_head
        self._has_head = False

    def received(self, data: bytes) -> int:
        """Parse bytes that came from the client.

        `completed` becomes true when the whole request is here; and, with an `error`, when it is
        refused because its body comes in chunks, or its address and header Host differ.

        Returns:
            Number of bytes that are used, or are stored in `unread` as they come after the request.
        """
        consumed = super().received(data)
        if self.headers_finished and not self._has_head:
            self._has_head = True
            self._on_head(self)
            if self.proxy_netloc and self.proxy_netloc != self.headers.get("HOST"):
                # Only the header is checked later (RFC 9112 section 3.2.2).
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
        """Whether at least one byte of the request has come."""
        return bool(self.header_plus) or self.headers_finished

    def discard_body(self) -> None:
        """Receive the body without storing it; the app gets an empty body.

        To be called when the head is complete and before the body comes.
        """
        self.body_rcv = FixedStreamReceiver(self.content_length, _DiscardingBuffer(0))
        self.headers = {**self.headers, "CONTENT_LENGTH": "0"}


class ConnectionServer(TcpWSGIServer):
    """The part of a server that its connections use; `server.Server` implements it.

    Attributes:
        shows_token: Returns whether a request shows the token.
        is_ending: Whether no more requests are accepted.
    """

    shows_token: TokenCheck
    is_ending: bool

    def remove_stranger(self, connection: "ClientConnection") -> None:
        """Remove a connection from the list of those that have not shown the token.

        A connection calls this when it has shown the token or is closed; a subclass implements it.

        Args:
            connection: The connection; one that is not in the list is ignored.
        """
        raise NotImplementedError


class ClientConnection(HTTPChannel):
    """One connection of a client, which answers one request after the other.

    Attributes:
        is_known: Whether a request of the connection has shown the token.
        unread: Bytes that came after the request that is being answered.
        since: When the current phase began, by the monotonic clock. Phases are: waiting for a
            head, receiving a body, and sending an answer.
    """

    server: ConnectionServer
    request: IncomingRequest | None
    _moved: int

    def __init__(
        self,
        server: ConnectionServer,
        sock: socket.socket,
        addr: tuple[str, int],
        adj: Adjustments,
        map: Mapping[int, socket.socket] | None = None,
    ) -> None:
        """Create the connection of an accepted socket; the arguments are waitress's."""
        self.is_known = False
        self.unread = b""
        self._own_socket = sock  # waitress sets its own reference to None when it closes it
        self._is_working = False
        self._is_answering = False
        self._start_phase()
        super().__init__(server, sock, addr, adj, map=map)

    @property
    def is_replaceable(self) -> bool:
        """Whether the app works on no request of the connection, so that it may be closed."""
        return not self._is_working

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun to come or is in work, and nothing is to be sent."""
        has_begun = self.request is not None and self.request.has_begun
        return not (self.requests or self.unread or has_begun or self.total_outbufs_len)

    def is_overdue(self, now: float) -> bool:
        """Return whether the client is too slow, so that the connection is to be closed.

        The client has 20 s (`DEADLINE_SECONDS`) for each phase: to send a head, to send a body, and
        to fetch an answer. For a body and an answer it has one second more for each 8 KiB moved
        (`MIN_BYTES_PER_SECOND`). While the app works for the client, it is never overdue.

        Args:
            now: The time by the monotonic clock.
        """
        return self._lateness(now) > DEADLINE_SECONDS

    def stalled_seconds(self, now: float) -> float:
        """Return for how many seconds the client has been too slow; 0 while the app works for it.

        That is the time since the last byte moved or, if longer, the time of the phase beyond what
        the bytes moved allow for. `now` is the time by the monotonic clock.
        """
        return 0.0 if self.requests else max(self._lateness(now), now - self._moved_at)

    def refuse(self, status: str) -> None:
        """Close the connection, and first send an answer without a body if one is due.

        An answer is due if a request has begun to come and no part of its answer is queued or sent.

        Args:
            status: Status code and reason of the answer, such as "408 Request Timeout".
        """
        with self.outbuf_lock:
            is_open = self.connected and not self.total_outbufs_len
            if is_open and not self.is_idle and not (self.requests and self._is_answering):
                with suppress(OSError):
                    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                    self._own_socket.send(head.encode())
                    # To close a socket with unread bytes would discard the answer too.
                    self._own_socket.recv(1 << 16)
            self.handle_close()

    def check_client_disconnected(self) -> bool:  # type: ignore[override]  # stubs err
        """Return whether the client has closed the connection.

        Called by the thread that answers its request.
        """
        try:
            return self._own_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:  # the socket is closed
            return True

    def readable(self) -> bool:
        """Return whether to read from the socket; called by waitress's loop.

        False when the server ends, and while an answer is made or sent. If the bytes of the next
        request are here already, they are parsed first.
        """
        if self.server.is_ending or not self.connected:
            return False
        if self.unread and super().readable():
            data, self.unread = self.unread, b""
            self.received(data)
        return super().readable()

    def received(self, data: bytes) -> bool:
        """Parse bytes as a part of the current request, or of a new one if there is none.

        Returns:
            False if there are no bytes or the connection is about to close, else True.
        """
        request = self.request = self.request or IncomingRequest(self.adj, self._on_head)
        is_open = super().received(data)
        self.unread = request.unread
        return is_open

    def recv(self, buffer_size: int) -> bytes:
        """Read at most `buffer_size` bytes from the socket, and count them for the deadline.

        Returns:
            The bytes; none if the client has closed the connection.
        """
        data = super().recv(buffer_size)
        self._count(len(data))
        return data

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Write bytes to the socket as far as it takes them, and count them for the deadline.

        Args:
            data: The bytes.
            do_close: Whether to close the connection if the client has closed it.

        Returns:
            Number of bytes written.
        """
        count = super().send(data, do_close)
        self._count(count)
        return count

    def write_soon(self, data: bytes) -> int:
        """Queue a part of an answer to be sent; the client's time to fetch it begins now.

        Args:
            data: Bytes, or a buffer of waitress's.

        Returns:
            Number of bytes queued.
        """
        with self.outbuf_lock:
            self._is_answering = True
            self._start_phase()
        return super().write_soon(data)

    def handle_write(self) -> None:
        """Send queued bytes of answers as far as the socket takes them.

        Once all are sent, the client's time for the next request begins.
        """
        had_queued = self.total_outbufs_len
        super().handle_write()
        if had_queued and not self.total_outbufs_len:
            self._start_phase()

    def service(self) -> None:
        """Let the app answer the oldest request that has come; runs in a thread of the server."""
        self._is_working = True
        try:
            super().service()
        finally:
            self._is_working = False

    def del_channel(self, map: Mapping[int, socket.socket] | None = None) -> None:
        """Remove the closed connection from waitress's list and from the server's strangers.

        Strangers are the connections that have not shown the token.

        Args:
            map: Descriptor -> socket, as waitress's loop uses it; None for the connection's own.
        """
        super().del_channel(map)
        self.server.remove_stranger(self)

    def _lateness(self, now: float) -> float:
        """Return the seconds of the current phase beyond what the bytes moved allow for."""
        if self.requests:
            return 0.0
        is_body = self.request is not None and self.request.headers_finished
        moved = self._moved if is_body or self.total_outbufs_len else 0
        return now - self.since - moved / MIN_BYTES_PER_SECOND

    def _count(self, moved: int) -> None:
        if moved:
            self._moved += moved
            self._moved_at = time.monotonic()

    def _start_phase(self) -> None:
        self.since = self._moved_at = time.monotonic()
        self._moved = 0

    def _on_head(self, request: IncomingRequest) -> None:
        """Check the token before the body comes; the body of a stranger is discarded."""
        self._start_phase()
        self._is_answering = False
        if request.error is not None:
            return
        if not self.is_known and self.server.shows_token(request.headers, request.query):
            self.is_known = True
            self.server.remove_stranger(self)
        if request.body_rcv is not None and not request.chunked and not self.is_known:
            request.discard_body()
