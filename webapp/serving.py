"""The app on a socket: waitress, ended in order by Ctrl-C and SIGTERM."""

import logging
import signal
import socket
from types import FrameType

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer, create_server
from waitress.utilities import BadRequest

from cxrbatch.webapp.services import close

# Uploads and pictures that wait take some of these; pages need one for milliseconds.
_THREADS = 24
_CONNECTIONS = 200
_IDLE_SECONDS = 30


class _LengthRequired(BadRequest):
    code = 411
    reason = "Length Required"


class _Parser(HTTPRequestParser):
    """Takes no body in chunks, which nothing that we serve needs.

    A chunk's size is a line. Waitress looks for the end of one in all that it has got, each time
    that something comes: an endless one would keep everybody waiting for hours.
    """

    def received(self, data: bytes) -> int:
        consumed = super().received(data)
        if self.chunked and self.error is None:
            self.error = _LengthRequired("Send the length of the body.")
            self.completed = True
        return consumed


class _Channel(HTTPChannel):
    parser_class = _Parser


def serve(app: Flask, listener: socket.socket) -> None:
    """Answer until interrupted, then close the app.

    A body over the app's limit is refused by its header. A body is collected without a thread, so
    that a slow client keeps nobody waiting.
    """
    # It would log requests that are malformed, word for word.
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    server = create_server(
        app,
        sockets=[listener],
        threads=_THREADS,
        connection_limit=_CONNECTIONS,
        channel_timeout=_IDLE_SECONDS,
        max_request_body_size=app.config["MAX_CONTENT_LENGTH"],
        ident=None,
        clear_untrusted_proxy_headers=True,
    )
    assert isinstance(server, BaseWSGIServer)  # as there is one socket
    server.channel_class = _Channel
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        server.run()  # waitress takes SystemExit for the wish to end
    finally:
        signal.signal(signal.SIGTERM, previous)
        server.close()
        close(app)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit
