"""End a busy server by SIGTERM and SIGINT at random moments.

Clients ask for exports as CSV and Parquet, pages of rows, thumbnails and scores of uploads, some
slowly, while a signal comes.

Checks each time: the server ends in time with exit code 0, writes nothing to stderr, and leaves no
process and no file. Each request is answered, refused with 503, or its connection is closed.
"""

import argparse
import http.client
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from runs import Run, check, start_fresh, write_checkpoint, write_films

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving import write_table

_TOKEN = "a-token-of-the-endings"
_HEADERS = {"Authorization": f"Bearer {_TOKEN}"}
# The grace, the last wait for threads, and a busy machine.
_MOST_SECONDS = 15.0
_STARTED = 60.0
_GONE = 5.0
_CLIENTS = 12
_ANSWERS = {200, 503}


class Load:
    """Clients of one server, each sending requests until the server is gone."""

    def __init__(self, port: int, film: bytes, *, seed: int) -> None:
        """Store the arguments; `start` starts the clients."""
        self._port = port
        self._film = film
        self._chance = random.Random(seed)
        self._threads: list[threading.Thread] = []
        self._ends = threading.Event()
        self.answers: Counter[int | str] = Counter()

    def start(self) -> None:
        """Wait until the server answers, then start the clients."""
        end = time.monotonic() + _STARTED
        while True:
            with suppress(OSError, http.client.HTTPException):
                _, page = self._ask("GET", "/api/v1/runs")
                break
            check(time.monotonic() < end, "the server does not begin to answer")
            time.sleep(0.05)
        run = page.partition(b'"id":"')[2].partition(b'"')[0].decode()
        asked = [f"/runs/{run}/export.csv", f"/runs/{run}/export.parquet", f"/runs/{run}/rows"]
        asked += [f"/api/v1/runs/{run}/rows", f"/runs/{run}/images/0/thumbnail.webp", "/score"]
        for number in range(_CLIENTS):
            words = asked[number % len(asked)], self._chance.random(), number >= len(asked)
            self._threads.append(threading.Thread(target=self._send_requests, args=words))
            self._threads[-1].start()

    def join(self) -> None:
        """Wait until the clients end; they do when the server is gone."""
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _send_requests(self, path: str, start: float, is_slow: bool) -> None:
        chance = random.Random(start)
        while not self._ends.is_set():
            try:
                if path == "/score":
                    answer, _ = self._ask("POST", "/api/v1/score", is_slow=is_slow)
                else:
                    # Another filter each time, as the server caches pages.
                    asked = f"{path}?min%5BNormal%5D={chance.random() / 4:.6f}"
                    query = path if "images" in path else asked
                    answer, _ = self._ask("GET", query, is_slow=is_slow)
                self.answers[answer] += 1
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException):
                self.answers["cut off"] += 1

    def _ask(self, method: str, path: str, *, is_slow: bool = False) -> tuple[int, bytes]:
        place = "127.0.0.1", self._port
        with closing(http.client.HTTPConnection(*place, timeout=30)) as connection:
            body, headers = None, dict(_HEADERS)
            if method == "POST":
                part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
                body = part + self._film + b"\r\n--b--\r\n"
                headers["Content-Type"] = "multipart/form-data; boundary=b"
            connection.request(method, path, body, headers)
            with connection.getresponse() as answer:
                if is_slow:
                    time.sleep(0.2)
                return answer.status, answer.read()


def end_one(folder: Path, served: Path, number: int, *, seed: int) -> Counter[int | str]:
    """Start a server and clients, end it by a signal, and check its end; return the answers."""
    chance = random.Random(seed)
    temporary = folder / "tmp"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["serve", str(served), "--port", str(port), "--token", _TOKEN]
    words += ["--checkpoint", str(folder / "tiny.safetensors")]
    variables = {"TMPDIR": str(temporary), "XDG_CONFIG_HOME": str(folder / "config")}
    server = start_fresh(words, folder / "log", variables=variables)
    load = Load(port, next((folder / "films").rglob("*.png")).read_bytes(), seed=seed)
    try:
        load.start()
        time.sleep(chance.uniform(0.0, 3.0))
        begun = time.monotonic()
        os.kill(server.pid, number)
        code = server.wait()
        took = time.monotonic() - begun
    finally:
        server.signal_group(signal.SIGKILL)
        load.join()
    log = server.log.read_text()
    check(code == 0, f"exit {code} after signal {number}: {log[-500:]}")
    check(log.count("\n") == 2, f"the log has more than the address: {log[-500:]}")
    check(took < _MOST_SECONDS, f"the end took {took:.1f} s")
    check(load.answers.keys() <= _ANSWERS | {"cut off"}, f"an answer is a failure: {load.answers}")
    check(not any(temporary.iterdir()), "a file is left")
    _check_processes(server)
    load.answers["longest end, ms"] = round(1e3 * took)
    return load.answers


def _check_processes(server: Run) -> None:
    # The system ends helpers whose parent has gone, but not in the same moment.
    end = time.monotonic() + _GONE
    while (left := server.left_behind()) and time.monotonic() < end:
        time.sleep(0.05)
    check(not left, f"left behind: {left}")


def main() -> None:
    """Write a table, then start and end servers of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    answers: Counter[int | str] = Counter()
    longest = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served = folder / "served"
        served.mkdir()
        (folder / "tmp").mkdir()
        write_checkpoint(folder / "tiny.safetensors")
        write_films(folder / "films", 1, seed=options.seed, smallest=1500)
        write_table(served / "results.parquet", options.rows)
        for run in range(options.runs):
            number = (signal.SIGTERM, signal.SIGINT)[run % 2]
            found = end_one(folder, served, number, seed=options.seed + run)
            longest = max(longest, found.pop("longest end, ms"))
            answers += found
    print(
        f"{options.runs} endings of a server under load by SIGTERM and SIGINT: exit 0 each time, "
        f"nothing on stderr, nothing left; the longest took {longest / 1e3:.1f} s; answers: "
        f"{dict(answers)}"
    )


if __name__ == "__main__":
    main()
