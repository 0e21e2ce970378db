"""The app on a socket: answered by our waitress, ended in order by Ctrl-C and SIGTERM."""

import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

from flask import Flask

from cxrbatch.webapp.access import is_known
from cxrbatch.webapp.places import Server
from cxrbatch.webapp.services import close

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
