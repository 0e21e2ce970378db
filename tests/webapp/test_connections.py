"""Connections of clients that are slow, many or greedy, at a server in this process."""

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

import pytest
from flask import Flask, request

from cxrbatch.webapp import connections
from cxrbatch.webapp import server as places
from cxrbatch.webapp.connections import DEADLINE_SECONDS, LEAST_BYTES_A_SECOND, Channel
from cxrbatch.webapp.server import Server

TOKEN = {"Authorization": "Bearer known"}
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
KNOWN_HEAD = HEAD + b"Authorization: Bearer known\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
PLACES = 8


class Served:
    """A server in a thread, and the way to it."""

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
        self.server = Server(self.app, listener, places=PLACES, knows=self._knows)
        self.thread = threading.Thread(target=self.server.run)
        self.opened: list[socket.socket] = []

    def connect(self, data: bytes = b"", *, address: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(self.place, 60, source_address=(address, 0))
        self.opened.append(connection)
        connection.sendall(data)
        return connection

    def crowd(self) -> list[socket.socket]:
        """Many more slow connections than there are places."""
        return [self.connect(HEAD) for _ in range(10 * PLACES)]

    def ask(self, body: bytes | None = None, headers: Mapping[str, str] = TOKEN) -> str:
        with closing(http.client.HTTPConnection(*self.place, timeout=60)) as connection:
            connection.request("GET" if body is None else "POST", "/", body, dict(headers))
            return connection.getresponse().read().decode()

    def channel_of(self, connection: socket.socket) -> Channel:
        """The server's end of a connection that was opened before."""
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
    """Read one answer whole."""
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other end hangs up."""
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found


def test_who_knows_the_token_gets_in_between_slow_ones(served: Served) -> None:
    slow = served.crowd()
    assert served.ask() == "0 bytes "
    assert len(served.server.active_channels) <= PLACES
    # Those that came last are there still: dropping them would lock out every newcomer.
    slow[-1].sendall(b"\r\n")
    assert status(slow[-1]) == 200
    assert everything(slow[0]) == b""


def test_a_connection_that_has_shown_the_token_is_kept(served: Served) -> None:
    known = served.connect(KNOWN_HEAD + b"\r\n")
    assert status(known) == 200
    served.crowd()
    assert served.ask() == "0 bytes "
    known.sendall(HEAD + b"\r\n")
    assert status(known) == 200


def test_one_address_does_not_crowd_out_another(served: Served) -> None:
    other = served.connect(HEAD, address="127.0.0.2")
    served.crowd()
    assert served.ask() == "0 bytes "
    other.sendall(b"\r\n")
    assert status(other) == 200


def test_a_connection_that_works_keeps_its_place_from_idle_ones(served: Served) -> None:
    at_work = served.connect(WAIT)
    served.at_work.wait(60)
    for _ in range(2 * PLACES):
        served.connect(KNOWN_HEAD + b"\r\n")
    assert served.ask() == "0 bytes "
    served.goes_on.set()
    assert status(at_work) == 200


def test_known_ones_that_stall_leave_their_places(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_PATIENCE_SECONDS", 0.0)
    for _ in range(2 * PLACES):
        slow = served.connect(KNOWN_HEAD.replace(b"/", b"/large", 1) + b"\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert served.ask() == "0 bytes "


def test_a_head_has_a_deadline_that_bytes_do_not_move(served: Served) -> None:
    slow = served.connect(HEAD)
    slow.sendall(b"X: " + b"a" * 9000)
    channel = served.channel_of(slow)
    assert not channel.is_overdue(channel.since + DEADLINE_SECONDS)
    assert channel.is_overdue(channel.since + DEADLINE_SECONDS + 0.01)


def test_a_body_has_as_long_as_its_bytes_are_worth(served: Served) -> None:
    size = 1 << 20
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * size)
    slow = served.connect(head)
    channel = served.channel_of(slow)
    slow.sendall(bytes(size))
    while (moved := channel._moved) < size:
        served.ask()
    fair = DEADLINE_SECONDS + moved / LEAST_BYTES_A_SECOND
    assert not channel.is_overdue(channel.since + fair)
    assert channel.is_overdue(channel.since + fair + 0.01)
    slow.sendall(bytes(size))
    assert status(slow) == 200


def test_an_answer_has_to_be_taken(served: Served) -> None:
    slow = served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
    channel = served.channel_of(slow)
    while channel.requests:
        served.ask()
    fair = DEADLINE_SECONDS + channel._moved / LEAST_BYTES_A_SECOND
    assert not channel.is_overdue(channel.since + fair / 2)
    assert channel.is_overdue(channel.since + fair + 1)


def test_who_works_or_waits_for_the_server_is_never_overdue(served: Served) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    channel = served.channel_of(waiting)
    assert not channel.is_overdue(channel.since + 1e6)


def test_who_is_overdue_is_told_and_hung_up_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, silent = served.connect(HEAD), served.connect()
    served.ask()
    monkeypatch.setattr(connections, "DEADLINE_SECONDS", -1.0)
    assert everything(begun).startswith(b"HTTP/1.1 408 ")
    assert everything(silent) == b""


def test_a_stranger_s_body_is_not_kept(served: Served) -> None:
    body = bytes(3 << 20)
    assert served.ask(body, TOKEN) == f"{len(body)} bytes "
    assert served.ask(body, {}) == "0 bytes "


def test_requests_in_bulk_are_answered_one_by_one_in_their_order(served: Served) -> None:
    asked = [b"GET /?n=%d HTTP/1.1\r\nHost: x\r\n" % n for n in range(100)]
    bulk = b"\r\n".join(asked) + b"Connection: close\r\n\r\n"
    connection = served.connect(bulk)
    answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 100
    found = [answers.index(b"bytes %d" % n) for n in range(100)]
    assert found == sorted(found)
    assert served.most_together == 1


def test_a_client_that_has_gone_is_noticed(served: Served) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    channel = served.channel_of(waiting)
    assert not channel.check_client_disconnected()
    waiting.close()
    assert channel.check_client_disconnected()


def test_the_end_answers_what_has_come_and_takes_no_more(served: Served) -> None:
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
def test_the_end_waits_for_nobody_who_takes_too_long(served: Served, is_hurried: bool) -> None:
    waiting = served.connect(WAIT)
    served.at_work.wait(60)
    served.server.end()
    served.thread.join()
    if is_hurried:  # as by a second signal
        served.server.end()
    served.server.finish(3600 if is_hurried else 0)
    assert everything(waiting).startswith(b"HTTP/1.1 503 ")
