"""The app on a socket: answered by our waitress, ended in order by Ctrl-C and SIGTERM."""

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

from cxrbatch.webapp.connections import Channel, Knows, Reception
from cxrbatch.webapp.security import is_known
from cxrbatch.webapp.services import close

_THREADS = 24
_LONGEST_HEAD = 32 << 10
# So many may wait to be accepted; the system has a limit of its own.
_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 256
_PATIENCE_SECONDS = 2.0
_MOST_OF_A_PEER = 2
"""Strangers of one address get at most this part of all places: a half."""


class Server(Reception):
    """Waitress with a limited number of places, in which who knows the token comes first."""

    channel_class = Channel
    active_channels: dict[int, Channel]  # type: ignore[assignment]  # stubs err

    def __init__(self, app: Flask, listener: socket.socket, *, places: int, knows: Knows) -> None:
        """Begin to listen.

        Args:
            app: Answers.
            listener: A bound socket.
            places: Connections at a time.
            knows: Tells who is no stranger.
        """
        self.is_ending = False
        self.knows = knows
        self._places = places
        self._is_hurried = False
        self._is_awaited = False
        # By address, the oldest first.
        self._strangers: dict[str, dict[Channel, None]] = {}
        self._watched: dict[int, socket.socket] = {}  # by waitress, by descriptor
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.set_thread_count(_THREADS)
        adjustments = Adjustments(
            threads=_THREADS,
            backlog=_BACKLOG,
            connection_limit=places + _ACCEPTED_AT_ONCE,  # ours is reached first
            cleanup_interval=1,
            asyncore_use_poll=True,
            max_request_header_size=_LONGEST_HEAD,
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"],
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        address = listener.family, listener.type, listener.proto, listener.getsockname()
        super().__init__(
            app,
            self._watched,
            _sock=listener,
            dispatcher=self._dispatcher,
            adj=adjustments,
            sockinfo=address,
            bind_socket=False,
        )

    def readable(self) -> bool:
        """Whether another connection may be accepted."""
        return super().readable() and self._has_place()

    def handle_accept(self) -> None:
        """Note that somebody waits to be accepted.

        That waits until all events are handled: a connection that is closed meanwhile has one that
        its descriptor's next owner would get.
        """
        self._is_awaited = True

    def maintenance(self, now: float) -> None:
        """Close connections that let us wait too long; called once a second."""
        for channel in [*self.active_channels.values()]:
            if channel.is_overdue(time.monotonic()):
                channel.refuse("408 Request Timeout")

    def forget(self, channel: Channel) -> None:
        """Count a connection as a stranger's no more."""
        strangers = self._strangers.get(channel.addr[0], {})
        strangers.pop(channel, None)
        if not strangers:
            self._strangers.pop(channel.addr[0], None)

    def run(self) -> None:
        """Answer until `end` is called."""
        while not self.is_ending:
            self._turn(1.0)

    def end(self) -> None:
        """Let `run` return; called again, let `finish` return. For handlers of signals."""
        self._is_hurried = self.is_ending
        self.is_ending = True
        self.pull_trigger()

    def finish(self, seconds: float) -> None:
        """Answer requests that have come, those that take too long with 503; take no more.

        Args:
            seconds: How long they may take.
        """
        self._accept_all()
        wasyncore.dispatcher.close(self)
        end = time.monotonic() + seconds
        while True:
            for channel in [*self.active_channels.values()]:
                if not (channel.requests or channel.total_outbufs_len):
                    channel.refuse("503 Service Unavailable")
            left = end - time.monotonic()
            if left <= 0 or self._is_hurried or not self.active_channels:
                break
            self._turn(min(left, 0.1))
        for channel in [*self.active_channels.values()]:
            channel.refuse("503 Service Unavailable")

    def join(self, seconds: int) -> None:
        """Wait for the threads that answer.

        Args:
            seconds: How long to wait at most.
        """
        self._dispatcher.shutdown(timeout=seconds)
        self.trigger.close()  # type: ignore[attr-defined]  # stubs err

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(seconds, use_poll=True, map=self._watched, count=1)
        if self._is_awaited:
            self._accept_all()

    def _accept_all(self) -> None:
        """Accept those who wait; each is read from at once, so that it can show the token."""
        self._is_awaited = False
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

    def _admit(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            self.set_socket_options(connection)
        except OSError:  # it has gone again
            connection.close()
            return
        channel = Channel(self, connection, address, self.adj, map=self._watched)
        own = self._strangers.setdefault(address[0], {})
        own[channel] = None
        data = select.poll()
        data.register(connection, select.POLLIN)
        if data.poll(0):
            channel.handle_read()
        if len(own) > max(1, self._places // _MOST_OF_A_PEER):
            self._drop(next((old for old in own if old.is_replaceable), None))
        if len(self.active_channels) > self._places:
            self._drop(self._dispensable(newcomer=channel))

    def _has_place(self) -> bool:
        return len(self.active_channels) < self._places or self._dispensable() is not None

    def _dispensable(self, newcomer: Channel | None = None) -> Channel | None:
        """The connection that has to go first, if any may.

        That is the oldest of the address that has most strangers, so that no address crowds out
        the others; then the one that has been idle for longest, then the one that has stalled for
        longest.
        """
        by_number = sorted(self._strangers.values(), key=len, reverse=True)
        for channel in itertools.chain(*by_number):
            if channel.is_replaceable and channel is not newcomer:
                return channel
        now = time.monotonic()
        known = [end for end in self.active_channels.values() if end is not newcomer]
        idle = [channel for channel in known if channel.is_idle]
        stalled = [channel for channel in known if channel.stalled(now) > _PATIENCE_SECONDS]
        return max(idle or stalled, key=lambda channel: channel.stalled(now), default=None)

    def _drop(self, channel: Channel | None) -> None:
        if channel is not None:
            channel.handle_close()

    def _free_descriptor(self) -> None:
        channel = self._dispensable()
        if channel is None:
            self._places = max(1, len(self.active_channels))
        self._drop(channel)


_PLACES, _FEWEST_PLACES = 200, 8
# A connection may have its socket and two files of what it sends or gets.
_DESCRIPTORS_EACH, _DESCRIPTORS_BESIDE = 3, 64
_GRACE = 4.0
_LAST_WAIT = 2


def serve(
    app: Flask, listener: socket.socket, *, token: str, ready: Callable[[], None]
) -> NoReturn:
    """Answer until interrupted, then answer what has come, close the app and end the process.

    A body over the app's limit is refused by its header. A body is collected and an answer sent
    without a thread, so that a slow client keeps nobody waiting.

    Args:
        app: Answers.
        listener: A bound socket.
        token: Who shows it keeps its connection where connections are too many.
        ready: Called when requests are accepted and signals end the server in order.
    """

    def knows(headers: Mapping[str, str], query: str) -> bool:
        return is_known(app, headers, query, token=token)

    # It would log requests that are malformed, word for word.
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    server = Server(app, listener, places=_places(), knows=knows)

    def end(number: int, frame: FrameType | None) -> None:
        server.end()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    ready()
    server.run()
    server.finish(_GRACE)
    close(app)
    server.join(_LAST_WAIT)
    # Arrow's threads cannot be joined. One that lets go of a buffer of Python's while the
    # interpreter ends would be unwound through a destructor, which ends the process by SIGABRT;
    # so would one of ours that is still in native code.
    sys.stdout.flush()
    os._exit(0)


def _places() -> int:
    """Connections that the limit of open files has room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _PLACES
    return max(_FEWEST_PLACES, min(_PLACES, (limit - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_EACH))
