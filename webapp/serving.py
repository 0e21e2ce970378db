"""The app on a socket: waitress, ended in order by Ctrl-C and SIGTERM."""

import logging
import signal
import socket
from types import FrameType

from flask import Flask
from waitress.server import create_server

from cxrbatch.webapp.services import close

# Uploads and pictures that wait take some of these; pages need one for milliseconds.
_THREADS = 24
_CONNECTIONS = 200
_IDLE_SECONDS = 30


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
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        server.run()  # waitress takes SystemExit for the wish to end
    finally:
        signal.signal(signal.SIGTERM, previous)
        server.close()
        close(app)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit
