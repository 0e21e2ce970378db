"""The server as a process: hostile requests neither end it nor keep other clients waiting."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MULTIPART = {**BEARER, "Content-Type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="<script>.png"\r\n\r\n'

Served = Callable[..., AbstractContextManager[str]]
Place = tuple[str, int]


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def place(
    served: Served, scored_folder: Path, tiny_checkpoint: Path, temporary: Path
) -> Iterator[Place]:
    """Host and port of a server of `scored_folder` with its own folder of temporary files."""
    words = ["--checkpoint", str(tiny_checkpoint)]
    with served(scored_folder, *words, variables={"TMPDIR": str(temporary)}) as address:
        found = urlsplit(address)
        assert found.hostname is not None
        assert found.port is not None
        yield found.hostname, found.port


def ask(
    place: Place,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] = BEARER,
) -> tuple[int, dict[str, str]]:
    with closing(http.client.HTTPConnection(*place, timeout=120)) as connection:
        connection.request(method, path, body, headers)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status, dict(answer.getheaders())


def is_alive(place: Place) -> bool:
    return ask(place, "GET", "/api/v1/runs")[0] == 200


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(place: Place) -> None:
    headers = {**MULTIPART, "Content-Length": str(1 << 30)}
    assert ask(place, "POST", "/api/v1/score", b"", headers)[0] == 413
    assert is_alive(place)


@pytest.mark.parametrize("start", [b"", b"100000\r\n", b"0\r\n"])
def test_a_body_without_a_length_is_refused_before_it_is_sent(place: Place, start: bytes) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in MULTIPART.items())
    head = f"POST /api/v1/score HTTP/1.1\r\nHost: x\r\n{lines}Transfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with socket.create_connection(place, timeout=60) as connection:
        connection.sendall(head.encode() + start)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 411 ")
        with suppress(ConnectionError):  # it hangs up
            while sent < 1 << 30:
                sent += connection.send(bytes(1 << 20))
    assert sent < 1 << 26
    assert is_alive(place)


def test_slow_bodies_do_not_delay_other_clients(place: Place) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in MULTIPART.items())
    head = f"POST /api/v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n{lines}\r\n"
    slow = [socket.create_connection(place) for _ in range(60)]
    for connection in slow:
        connection.sendall(head.encode() + HEAD)
    assert is_alive(place)
    for connection in slow:
        connection.close()


def test_fifty_simultaneous_uploads_are_scored_or_refused(
    place: Place, scored_folder: Path, temporary: Path
) -> None:
    body = HEAD + (scored_folder / "archive/a.png").read_bytes() + b"\r\n--b--\r\n"

    def upload(_: int) -> tuple[int, dict[str, str]]:
        return ask(place, "POST", "/api/v1/score", body, MULTIPART)

    with ThreadPoolExecutor(50) as threads:
        answers = threads.map(upload, range(50))
        found = [(status, headers.get("Retry-After", "")) for status, headers in answers]
    assert {status for status, _ in found} <= {200, 503}
    assert all(wait.isdigit() == (status == 503) for status, wait in found)
    assert sum(status == 200 for status, _ in found) >= 5  # one at work, four that wait
    assert is_alive(place)
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    "request_line",
    [
        *(b"GET", b"GET / HTTP/9.9", b"\x00\xff\xfe", b"GET /../../etc/passwd HTTP/1.1"),
        *(b"GET http://evil.example/ HTTP/1.1", b"CONNECT evil.example:443 HTTP/1.1"),
        *(b"TRACE / HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /" + b"a" * 300_000 + b" HTTP/1.1"),
    ],
)
def test_a_malformed_request_is_refused(place: Place, request_line: bytes) -> None:
    with socket.create_connection(place, timeout=60) as connection:
        with suppress(ConnectionError):
            connection.sendall(request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                answer += data
    assert answer.split(b" ", 2)[1][:1] == b"4"
    assert b"root:" not in answer
    assert b"evil" not in answer
    assert is_alive(place)


def test_a_busy_server_ends_with_exit_code_0(
    served: Served, write_table: Callable[..., Path], tmp_path: Path
) -> None:
    write_table(tmp_path / "results.parquet", rows=500)
    found: set[int] = set()

    def export(place: Place, path: str) -> None:
        with suppress(OSError, http.client.HTTPException):  # it hangs up
            while True:
                found.add(ask(place, "GET", path)[0])

    # The end of `served` checks exit code and log.
    with ThreadPoolExecutor(6) as threads, served(tmp_path, ending=signal.SIGINT) as address:
        found_place = urlsplit(address)
        assert found_place.hostname is not None
        assert found_place.port is not None
        place = found_place.hostname, found_place.port
        with urlopen(Request(f"{address}/api/v1/runs", headers=BEARER)) as answer:
            (run,) = json.load(answer)["runs"]
        for form in ("csv", "parquet") * 3:
            threads.submit(export, place, f"/runs/{run['id']}/export.{form}")
        while 200 not in found:
            assert is_alive(place)
    assert found <= {200, 503}
