"""Slow, many and greedy clients of a server in this process."""

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

import pytest
from flask import Flask, request

from cxrbatch.webapp import connections
from cxrbatch.webapp import server as places
from cxrbatch.webapp.connections import DEADLINE_SECONDS, MIN_BYTES_PER_SECOND, ClientConnection
from cxrbatch.webapp.server import Server

TOKEN = {"Authorization": "Bearer known"}
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
KNOWN_HEAD = HEAD + b"Authorization: Bearer known\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
PLACES = 8


class Served:
    """A server that runs in a thread, and clients of it."""

    def __init__(self) -> None:
        self.app = Flask(__name__)
        self.app.config["MAX_CONTENT_LENGTH"] = 1 << 24
        self.at_work, self.goes_on = threading.Event(), threading.Event()
        self.together, self.most_together = 0, 0
        self.app.add_url_rule("/", view_func=self._answer, methods=["GET", "POST"])
        self.app.add_url_rule("/wait", view_func=self._wait)
        self.app.add_url_rule("/large", view_func=lambda: bytes(1 << 25))
        listener = socket.create_server(("127.0.0.1", 0))
        self.place = listener.getsockname()
        self.server = Server(self.app, listener, places=PLACES, shows_token=self._knows)
        self.thread = threading.Thread(target=self.server.run)
        self.opened: list[socket.socket] = []

    def connect(self, data: bytes = b"", *, address: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(self.place, 60, source_address=(address, 0))
        self.opened.append(connection)
        connection.sendall(data)
        return connection

    def crowd(self) -> list[socket.socket]:
        """Open ten times as many slow connections as there are places."""
        return [self.connect(HEAD) for _ in range(10 * PLACES)]

    def ask(self, body: bytes | None = None, headers: Mapping[str, str] = TOKEN) -> str:
        with closing(http.client.HTTPConnection(*self.place, timeout=60)) as connection:
            connection.request("GET" if body is None else "POST", "/", body, dict(headers))
            return connection.getresponse().read().decode()

    def channel_of(self, connection: socket.socket) -> ClientConnection:
        """Return the server's end of a client's connection."""
        self.ask()  # whoever came before is accepted before
        ends = self.server.active_channels.values()
        return next(end for end in ends if end.addr == connection.getsockname())

    def _knows(self, headers: Mapping[str, str], query: str) -> bool:
        return headers.get("AUTHORIZATION") == "Bearer known"

    def _answer(self) -> str:
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        answer = f"{len(request.get_data())} bytes {request.args.get('n', '')}"
        self.together -= 1
        return answer

    def _wait(self) -> str:
        self.at_work.set()
        self.goes_on.wait(60)
        return "done"


@contextmanager
def running() -> Iterator[Served]:
    served = Served()
    served.thread.start()
    try:
        yield served
    finally:
        served.goes_on.set()
        if not served.server.is_ending:
            served.server.end()
            served.thread.join()
            served.server.finish(0)
        served.server.join(10)
        assert not served.server.task_dispatcher.threads
        for connection in served.opened:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    with running() as found:
        yield found


def status(connection: socket.socket) -> int:
    """Read one answer; return its status."""
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def everything(connection: socket.socket) -> bytes:
    """Return all bytes that come until the server closes the connection."""
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def test_a_client_with_the_token_gets_in_among_slow_strangers(served: Served) -> None:
    slow = served.crowd()
    assert served.ask() == "0 bytes "
    assert len(served.server.active_channels) <= PLACES
    # Those that came last are there still: dropping them would lock out every newcomer.
    slow[-1].sendall(b"\r\n")
    assert status(slow[-1]) == 200
    assert everything(slow[0]) == b""


def test_a_connection_that_has_shown_the_token_is_not_replaced(served: Served) -> None:
    known = served.connect(KNOWN_HEAD + b"\r\n")
    assert status(known) == 200
    served.crowd()
    assert served.ask() == "0 bytes "
    known.sendall(HEAD + b"\r\n")
    assert status(known) == 200


def test_strangers_of_one_address_do_not_crowd_out_another(served: Served) -> None:
    other = served.connect(HEAD, address="127.0.0.2")
    served.crowd()
    assert served.ask() == "0 bytes "
    other.sendall(b"\r\n")
    assert status(other) == 200


def test_a_connection_whose_request_is_worked_on_is_not_replaced(served: Served) -> None:
    at_work = served.connect(WAIT)
    served.at_work.wait(60)
    for _ in range(2 * PLACES):
        served.connect(KNOWN_HEAD + b"\r\n")
    assert served.ask() == "0 bytes "
    served.goes_on.set()
    assert status(at_work) == 200


def test_stalled_known_connections_are_replaced(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_STALL_SECONDS", 0.0)
    for _ in range(2 * PLACES):
        slow = served.connect(KNOWN_HEAD.replace(b"/", b"/large", 1) + b"\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert served.ask() == "0 bytes "


def test_bytes_do_not_extend_the_deadline_of_a_head(served: Served) -> None:
    slow = served.connect(HEAD)
    slow.sendall(b"X: " + b"a" * 9000)
    channel = served.channel_of(slow)
    assert not channel.is_overdue(channel.since + DEADLINE_SECONDS)
    assert channel.is_overdue(channel.since + DEADLINE_SECONDS + 0.01)


def test_bytes_extend_the_deadline_of_a_body(served: Served) -> None:
    size = 1 << 20
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * size)
    slow = served.connect(head)
    channel = served.channel_of(slow)
    slow.sendall(bytes(size))
    while (moved := channel._moved) < size:
        served.ask()
    fair = DEADLINE_SECONDS + moved / MIN_BYTES_PER_SECOND
    assert not channel.is_overdue(channel.since + fair)
    assert channel.is_overdue(channel.since + fair + 0.01)
    slow.sendall(bytes(size))
    assert status(slow) == 200


def test_an_answer_that_is_not_fetched_has_a_deadline(served: Served) -> None:
    slow = served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    channel = served.channel_of(slow)
    while channel.requests:
        served.ask()
    fair = DEADLINE_SECONDS + channel._moved / MIN_BYTES_PER_SECOND
    assert not channel.is_overdue(channel.since + fair / 2)
    assert channel.is_overdue(channel.since + fair + 1)


def test_a_client_that_waits_for_the_server_has_no_deadline(served: Served) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    channel = served.channel_of(waiting)
    assert not channel.is_overdue(channel.since + 1e6)


def test_a_client_past_its_deadline_gets_408(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, silent = served.connect(HEAD), served.connect()
    served.ask()
    monkeypatch.setattr(connections, "DEADLINE_SECONDS", -1.0)
    assert everything(begun).startswith(b"HTTP/1.1 408 ")
    assert everything(silent) == b""


def test_the_body_of_a_stranger_is_discarded(served: Served) -> None:
    body = bytes(3 << 20)
    assert served.ask(body, TOKEN) == f"{len(body)} bytes "
    assert served.ask(body, {}) == "0 bytes "


def test_pipelined_requests_are_answered_one_by_one_in_order(served: Served) -> None:
    asked = [b"GET /?n=%d HTTP/1.1\r\nHost: x\r\n" % n for n in range(100)]
    bulk = b"\r\n".join(asked) + b"Connection: close\r\n\r\n"
    connection = served.connect(bulk)
    answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 100
    found = [answers.index(b"bytes %d" % n) for n in range(100)]
    assert found == sorted(found)
    assert served.most_together == 1


def test_a_client_that_disconnects_is_noticed(served: Served) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    channel = served.channel_of(waiting)
    assert not channel.check_client_disconnected()
    waiting.close()
    assert channel.check_client_disconnected()


def test_the_end_answers_received_requests_and_accepts_no_more(served: Served) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    begun, idle = served.connect(HEAD), served.connect(KNOWN_HEAD + b"\r\n")
    assert status(idle) == 200
    served.server.end()
    served.thread.join()
    unread = served.connect(HEAD)  # it came while nobody accepts
    finishing = threading.Thread(target=served.server.finish, args=(60.0,))
    finishing.start()
    for refused in (begun, unread):
        assert everything(refused).startswith(b"HTTP/1.1 503 ")
    assert everything(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        served.connect()
    served.goes_on.set()
    assert everything(waiting).startswith(b"HTTP/1.1 200 ")
    finishing.join()


@pytest.mark.parametrize("is_hurried", [False, True])
def test_the_end_refuses_requests_that_take_too_long(served: Served, is_hurried: bool) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    served.server.end()
    served.thread.join()
    if is_hurried:  # as by a second signal
        served.server.end()
    served.server.finish(3600 if is_hurried else 0)
    assert everything(waiting).startswith(b"HTTP/1.1 503 ")
