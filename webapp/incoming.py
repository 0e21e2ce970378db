"""A request as it comes in: nothing of a stranger's body is kept, and none comes in chunks."""

from collections.abc import Callable

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
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
