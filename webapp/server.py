"""The server: waitress with a limited number of connections, and an orderly end by a signal."""

import errno
import itertools
import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from cxrbatch.webapp.app import close_app
from cxrbatch.webapp.connections import ClientConnection, ConnectionServer, TokenCheck
from cxrbatch.webapp.security import shows_token

_THREADS = 24
_MAX_HEAD_BYTES = 32 << 10
# Connections that may wait in the system to be accepted; the system has a limit of its own.
_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 256
_STALL_SECONDS = 2.0
# Strangers of one address get at most this part of all places: a half.
_STRANGER_DIVISOR = 2

_MAX_PLACES, _MIN_PLACES = 200, 8
# A connection may have its socket and two files of what it sends or gets.
_DESCRIPTORS_PER_PLACE, _OTHER_DESCRIPTORS = 3, 64
_GRACE_SECONDS = 4.0
_JOIN_SECONDS = 2


class Server(ConnectionServer):
    """Waitress with a limited number of places for connections.

    A connection is known once it has shown the token, and a stranger's before that. Where all
    places are taken, a stranger's connection is closed for a newcomer before a known one is.
    """

    channel_class = ClientConnection
    active_channels: dict[int, ClientConnection]  # type: ignore[assignment]  # the stubs name no subclass

    def __init__(
        self, app: Flask, listener: socket.socket, *, places: int, shows_token: TokenCheck
    ) -> None:
        """Create the server and its threads; `run` accepts connections.

        Args:
            app: Answers the requests.
            listener: A bound socket.
            places: Largest number of connections.
            shows_token: Returns whether a request shows the token; its connection is known then.
        """
        self.is_ending = False
        self.shows_token = shows_token
        self._places = places
        self._is_hurried = False
        self._has_newcomers = False
        # Address -> its strangers' connections, the oldest first.
        self._strangers: dict[str, dict[ClientConnection, None]] = {}
        self._sockets: dict[int, socket.socket] = {}  # of waitress, by descriptor
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.set_thread_count(_THREADS)
        adjustments = Adjustments(
            threads=_THREADS,
            backlog=_BACKLOG,
            connection_limit=places + _ACCEPTED_AT_ONCE,  # never reached, as `places` is less
            cleanup_interval=1,
            asyncore_use_poll=True,
            max_request_header_size=_MAX_HEAD_BYTES,
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"],
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        address = listener.family, listener.type, listener.proto, listener.getsockname()
        super().__init__(
            app,
            self._sockets,
            _sock=listener,
            dispatcher=self._dispatcher,
            adj=adjustments,
            sockinfo=address,
            bind_socket=False,
        )

    def readable(self) -> bool:
        """Return whether another connection may be accepted: a place is free or can be freed.

        Waitress's loop calls this each time before it waits; this calls `maintenance` at most once
        a second.
        """
        return super().readable() and self._has_place()

    def handle_accept(self) -> None:
        """Remember that connections wait; they are accepted after the other events.

        To accept one now could give it the descriptor of a connection that was just closed, and
        with it an event of that connection.
        """
        self._has_newcomers = True

    def maintenance(self, now: float) -> None:
        """Close each connection whose client is too slow, by `ClientConnection.is_overdue`.

        If a part of a request has come and none of its answer was sent, the client gets 408 first.

        Args:
            now: The time of day, which waitress passes. It is not used: deadlines are kept by the
                monotonic clock.
        """
        for connection in [*self.active_channels.values()]:
            if connection.is_overdue(time.monotonic()):
                connection.refuse("408 Request Timeout")

    def remove_stranger(self, connection: ClientConnection) -> None:
        """Remove a connection from the list of those that have not shown the token.

        A connection calls this when it has shown the token or is closed.

        Args:
            connection: The connection; one that is not in the list is ignored.
        """
        strangers = self._strangers.get(connection.addr[0], {})
        strangers.pop(connection, None)
        if not strangers:
            self._strangers.pop(connection.addr[0], None)

    def run(self) -> None:
        """Accept connections and answer requests until `end` is called."""
        while not self.is_ending:
            self._handle_events(1.0)

    def end(self) -> None:
        """Make `run` return; a second call also makes `finish` return without further waiting.

        A signal handler may call this.
        """
        self._is_hurried = self.is_ending
        self.is_ending = True
        self.pull_trigger()

    def finish(self, seconds: float) -> None:
        """Stop accepting connections, and wait for the answers to the requests that have come.

        Other connections are closed, after 503 if a part of a request has come. A second call of
        `end` ends the wait.

        Args:
            seconds: Longest time to wait; a request of whose answer nothing is queued or sent then
                gets 503.
        """
        self._accept_newcomers()
        wasyncore.dispatcher.close(self)
        end = time.monotonic() + seconds
        while True:
            for connection in [*self.active_channels.values()]:
                if not (connection.requests or connection.total_outbufs_len):
                    connection.refuse("503 Service Unavailable")
            left = end - time.monotonic()
            if left <= 0 or self._is_hurried or not self.active_channels:
                break
            self._handle_events(min(left, 0.1))
        for connection in [*self.active_channels.values()]:
            connection.refuse("503 Service Unavailable")

    def join(self, seconds: int) -> None:
        """Wait until the threads that answer requests have ended.

        Args:
            seconds: Longest time to wait; threads that have not ended then go on.
        """
        self._dispatcher.shutdown(timeout=seconds)
        self.trigger.close()  # type: ignore[attr-defined]  # the stubs lack it

    def _handle_events(self, seconds: float) -> None:
        wasyncore.loop(seconds, use_poll=True, map=self._sockets, count=1)
        if self._has_newcomers:
            self._accept_newcomers()

    def _accept_newcomers(self) -> None:
        """Accept the connections that wait, and read from each at once to see its token."""
        self._has_newcomers = False
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._has_place():
                return
            try:
                accepted = self.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._free_descriptor()
                return
            if accepted is None:
                return
            self._admit(*accepted)

    def _admit(self, sock: socket.socket, address: tuple[str, int]) -> None:
        try:
            self.set_socket_options(sock)
        except OSError:  # the client is gone again
            sock.close()
            return
        connection = ClientConnection(self, sock, address, self.adj, map=self._sockets)
        same_address = self._strangers.setdefault(address[0], {})
        same_address[connection] = None
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if poll.poll(0):
            connection.handle_read()
        if len(same_address) > max(1, self._places // _STRANGER_DIVISOR):
            self._drop(next((old for old in same_address if old.is_replaceable), None))
        if len(self.active_channels) > self._places:
            self._drop(self._dispensable(newcomer=connection))

    def _has_place(self) -> bool:
        return len(self.active_channels) < self._places or self._dispensable() is not None

    def _dispensable(self, newcomer: ClientConnection | None = None) -> ClientConnection | None:
        """Return the connection to close first, other than the newcomer; None where none may be.

        It is the oldest stranger's of the address with the most strangers, so that no address
        crowds out the others. Without strangers it is the known connection that has been idle
        longest, and without idle ones the one that has stalled longest.
        """
        by_number = sorted(self._strangers.values(), key=len, reverse=True)
        for connection in itertools.chain(*by_number):
            if connection.is_replaceable and connection is not newcomer:
                return connection
        now = time.monotonic()
        known = [one for one in self.active_channels.values() if one is not newcomer]
        idle = [one for one in known if one.is_idle]
        stalled = [one for one in known if one.stalled_seconds(now) > _STALL_SECONDS]
        return max(idle or stalled, key=lambda one: one.stalled_seconds(now), default=None)

    def _drop(self, connection: ClientConnection | None) -> None:
        if connection is not None:
            connection.handle_close()

    def _free_descriptor(self) -> None:
        connection = self._dispensable()
        if connection is None:
            self._places = max(1, len(self.active_channels))
        self._drop(connection)


def serve_app(
    app: Flask, listener: socket.socket, *, token: str, on_ready: Callable[[], None]
) -> NoReturn:
    """Answer requests until SIGINT or SIGTERM, then end the process with exit code 0.

    After the signal it answers the requests that have come, for about four seconds at most. A body
    over the app's limit is refused by its header. Bodies are received and answers sent without a
    thread, so that a slow client keeps no other waiting.

    Args:
        app: Answers the requests; its child processes are ended too.
        listener: A bound socket.
        token: The token; connections that have shown it are kept where places are short.
        on_ready: Called once, when the signals are handled, just before requests are accepted.
    """

    def check_token(headers: Mapping[str, str], query: str) -> bool:
        return shows_token(app, headers, query, token=token)

    # Waitress would log malformed requests word for word.
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    server = Server(app, listener, places=_places(), shows_token=check_token)

    def end(number: int, frame: FrameType | None) -> None:
        server.end()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    on_ready()
    server.run()
    server.finish(_GRACE_SECONDS)
    close_app(app)
    server.join(_JOIN_SECONDS)
    # Arrow's threads cannot be joined. One that releases a buffer of Python's while the
    # interpreter ends would be unwound through a destructor, which ends the process by SIGABRT;
    # so would one of our threads that is still in native code.
    sys.stdout.flush()
    os._exit(0)


def _places() -> int:
    """Return the number of connections for which the limit of open files has room."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MAX_PLACES
    places = (limit - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_PLACE
    return max(_MIN_PLACES, min(_MAX_PLACES, places))
