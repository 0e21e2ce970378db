"""Upload mutated files to a running server, and send what else a hostile client may send.

Mutants of the sample archive's DICOM, PNG and JPEG files: bytes changed, cut off, and one file's
start with another's end. Then many uploads at once, a body announced as 1 GB, and bodies that
never end.

Checks: every answer is a score, a refusal or 503, never a failure. The server and its child
processes keep running, their memory does not grow, and no file, descriptor or process is left.
"""

import argparse
import http.client
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from runs import Run, check, start_fresh, write_checkpoint
from soak import open_descriptors

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory import group_memory

from cxrbatch.reading.sniffing import HEAD_BYTES, sniff
from cxrbatch.sample.archive_writer import write_sample

_TOKEN = "a-token-of-the-uploads"
_ANSWERS = {200, 400, 415, 503}
_MOST_GROWTH = 20e6
_AT_ONCE = 50
_SETTLED = 30.0
_STARTED = 120.0
_LARGEST = 2_000_000


def read_sample(folder: Path) -> list[bytes]:
    """Return the sample archive's DICOM, PNG and JPEG files, except large ones."""
    write_sample(folder)
    files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        data
        for data in files
        if len(data) < _LARGEST and sniff(data[:HEAD_BYTES], size=len(data)) != "other"
    ]


def mutant(files: list[bytes], chance: random.Random) -> bytes:
    """Return a file cut off, joined with the end of another, or with changed bytes."""
    data = bytearray(chance.choice(files))
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:
        other = chance.choice(files)
        return bytes(data[: chance.randrange(len(data))]) + other[chance.randrange(len(other)) :]
    # Half of the changes are made in the header, which decides what a decoder does.
    within = len(data) if kind == 2 else min(len(data), 2000)
    for _ in range(chance.randint(1, 40)):
        data[chance.randrange(within)] = chance.randrange(256)
    return bytes(data)


class Client:
    """Sends files to a server."""

    def __init__(self, port: int) -> None:
        """Store the port; each method opens a connection."""
        self._port = port

    def upload(self, data: bytes) -> int:
        """Send one file; return the status."""
        name = b"../../<script>alert(1)</script>.dcm"
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % name
        return self._post(head + data + b"\r\n--b--\r\n")

    def announce(self, size: int) -> int:
        """Announce a body of a size and send none of it; return the status."""
        return self._post(b"", announced=size)

    def is_alive(self) -> bool:
        """Return whether the server answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with suppress(OSError), closing(connection):
            connection.request("GET", "/api/v1/runs", headers=self._headers())
            return connection.getresponse().status == 200
        return False

    def begin(self) -> socket.socket:
        """Open a connection and send the start of a body."""
        connection = socket.create_connection(("127.0.0.1", self._port))
        lines = [f"{name}: {value}" for name, value in self._headers(length=10_000).items()]
        head = "\r\n".join(["POST /api/v1/score HTTP/1.1", "Host: localhost", *lines, "", "--b"])
        connection.sendall(head.encode())
        return connection

    def _post(self, body: bytes, *, announced: int | None = None) -> int:
        length = len(body) if announced is None else announced
        with closing(
            http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        ) as connection:
            connection.request("POST", "/api/v1/score", body, self._headers(length=length))
            with connection.getresponse() as answer:
                answer.read()
                return answer.status

    def _headers(self, *, length: int | None = None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {_TOKEN}"}
        if length is not None:
            headers["Content-Type"] = "multipart/form-data; boundary=b"
            headers["Content-Length"] = str(length)
        return headers


def settled_descriptors(client: Client, group: int, expected: int) -> int:
    """Wait until the server has at most `expected` open descriptors; return their number."""
    end = time.monotonic() + _SETTLED
    while (count := open_descriptors(group)) > expected and time.monotonic() < end:
        time.sleep(0.5)
        check(client.is_alive(), "the server does not answer")
    return count


def send_all(server: Run, client: Client, files: list[bytes], *, count: int, seed: int) -> None:
    """Send mutants one by one, then many files at once, then bodies that stay incomplete."""
    end = time.monotonic() + _STARTED
    while not client.is_alive():
        check(time.monotonic() < end, "the server does not begin to answer")
        check(server.poll() is None, f"the server ended: {server.log.read_text()[-500:]}")
        time.sleep(0.2)
    for data in files:
        status = client.upload(data)
        check(status == 200, f"a whole file of the sample is refused: {status}")
    descriptors = open_descriptors(server.pid)
    chance = random.Random(seed)
    answers: Counter[int] = Counter()
    memory = []
    for _ in range(count):
        answers[client.upload(mutant(files, chance))] += 1
        memory.append(group_memory(server.pid))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        crowd = Counter(threads.map(client.upload, [files[0]] * _AT_ONCE))
    check(client.announce(1 << 30) == 413, "1 GB is not refused by its header")
    slow = [client.begin() for _ in range(_AT_ONCE)]
    check(client.is_alive(), "slow bodies keep others waiting")
    for connection in slow:
        connection.close()
    left = settled_descriptors(client, server.pid, descriptors)
    tenth = max(1, count // 10)
    first, last = float(np.median(memory[:tenth])), float(np.median(memory[-tenth:]))
    print(
        f"{count} mutants: {dict(answers)}; {_AT_ONCE} at once: {dict(crowd)}; memory "
        f"{first / 1e6:.0f} MB in the first tenth, {last / 1e6:.0f} MB in the last, "
        f"{max(memory) / 1e6:.0f} MB at most; descriptors {descriptors} before, {left} after"
    )
    check(answers.keys() | crowd.keys() <= _ANSWERS, "an answer is a failure")
    check(crowd[200] >= 1, "of many at once none is scored")
    check(last - first < _MOST_GROWTH, "memory grows")
    check(left <= descriptors, "descriptors are left")
    check(server.poll() is None, "the server is gone")


def main() -> None:
    """Serve an empty folder, send the uploads, and check what is left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary, served = folder / "tmp", folder / "served"
        temporary.mkdir()
        served.mkdir()
        files = read_sample(folder / "sample")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = ["serve", str(served), "--port", str(port), "--token", _TOKEN]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        variables = {"TMPDIR": str(temporary), "XDG_CONFIG_HOME": str(folder / "config")}
        server = start_fresh(words, folder / "log", variables=variables)
        try:
            send_all(server, Client(port), files, count=options.files, seed=options.seed)
            os.kill(server.pid, signal.SIGTERM)
            check(server.wait(30) == 0, "the server does not end in order")
        finally:
            server.signal_group(signal.SIGKILL)
        log = server.log.read_text()
        check(log.count("\n") == 2, f"the log has more than the address: {log[-500:]}")
        check(not any([*temporary.iterdir(), *served.iterdir()]), "a file is left")
        check(not server.left_behind(), "a process is left")


if __name__ == "__main__":
    main()
