"""Forged tables and files of labels: small files that claim or become gigabytes, given to commands.

Each command runs in a process of its own. Shows, for each forged file: it ends by itself with a
figure or with one line, without a traceback, and takes at most 1 GB beyond what a process has that
did nothing yet, 1.5 GB where it serves.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runs import check, write_checkpoint, write_films  # isort: skip

from forged_labels import damaged_labels, forged_labels
from forged_tables import Forger, forged_tables

import cxrbatch.reports.comparison
import cxrbatch.reports.page
import cxrbatch.reports.report
import cxrbatch.training.pipeline
import cxrbatch.training.train  # noqa: F401  so that forks have these loaded
from cxrbatch.cli import main as command
from cxrbatch.webapp.app import create_app
from cxrbatch.webapp.security import allowed_hosts

_TOKEN = "a-token-of-the-benchmark"
_MOST_SECONDS = 120
_ADDRESS_SPACE = 8 << 30


def measure(work: Callable[[], int]) -> tuple[str, float, float]:
    """Run something in a fork: what it came to, the most memory it took in MB, and seconds."""
    reader, writer = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(work, writer)
    os.close(writer)
    with os.fdopen(reader, "r", errors="replace") as stream:
        told = stream.read()
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - begun
    outcome = told.strip() or f"ended with status {status}"
    return outcome, usage.ru_maxrss / 1024, seconds


def _run(work: Callable[[], int], writer: int) -> None:
    signal.alarm(_MOST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    errors, output = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            code = work()
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("error")]
        text = lines[-1] if lines else output.getvalue().splitlines()[-1]
        told = f"{code} {text}"
    except BaseException as error:
        told = f"TRACEBACK {type(error).__name__}: {str(error)[:100]}"
    if "Traceback" in errors.getvalue():
        told = f"TRACEBACK {told}"
    os.write(writer, told.encode()[:2000])
    os._exit(0)


def _nothing() -> int:
    print("nothing")
    return 0


def serve(folder: Path) -> int:
    """Ask an app for every page of the table in a folder."""
    app = create_app(folder, token=_TOKEN, hosts=allowed_hosts("127.0.0.1"))
    client = app.test_client()
    head = {"Authorization": f"Bearer {_TOKEN}", "Host": "127.0.0.1"}
    (run,) = client.get("/api/v1/runs", headers=head).get_json()["runs"]
    page = f"/runs/{run['id']}"
    query = "sort=-path&path=x"
    codes = []
    for address in (
        *("/", page, f"{page}/rows", f"{page}/rows?layout=sheet", f"{page}/rows?{query}"),
        *(f"{page}/rows?sort=manufacturer", f"{page}/rows?flag=x&sex=y&outcome=scored"),
        *(f"{page}/images/0", f"{page}/images/5?sort=-path", f"{page}/images/0/heat/0.png"),
        *(f"/api/v1{page}/rows?per_page=500", f"/api/v1{page}/rows?{query}"),
        *(f"{page}/export.csv", f"{page}/export.parquet"),
    ):
        answer = client.get(address, headers=head, buffered=False)
        for _ in answer.response:
            pass
        answer.close()
        codes.append(answer.status_code)
    print("answers", *codes)
    return int(any(code >= 500 for code in codes))


def main() -> None:
    """Give every forged file to every command that reads one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--commands", default="report,compare,merge,update,serve,labels,train")
    parser.add_argument(
        "--damaged", type=int, default=300, help="number of damaged files of labels"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    wanted = options.commands.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        films = write_films(folder / "archive", 8, seed=options.seed)
        checkpoint = write_checkpoint(folder / "tiny.safetensors")
        score = ["score", str(folder / "archive"), "--checkpoint", str(checkpoint)]
        score += ["--workers", "1", "--shard"]
        real = folder / "real.parquet"
        outcome, _, _ = measure(lambda: command([*score, "1/2", "-o", str(real)]))
        check(real.exists(), f"no real table: {outcome}")
        other = folder / "other.parquet"
        measure(lambda: command([*score, "2/2", "-o", str(other)]))
        _, nothing, _ = measure(_nothing)
        labels = folder / "real.csv"
        rows = [f"{film.relative_to(folder / 'archive')},Normal" for film in films]
        rows[0] = rows[0].replace("Normal", "COVID-19")
        labels.write_text("\n".join(["path,label", *rows]))
        pairs = [(path, name) for path, name in (row.rsplit(",", 1) for row in rows)]
        bad = 0
        served = folder / "served"
        served.mkdir()
        table = served / "t.parquet"
        out = str(folder / "out")
        words: dict[str, Callable[[], int]] = {
            "report": lambda: command(["report", str(table), "-o", out + ".html", "--overwrite"]),
            "compare": lambda: command(["compare", str(real), str(table), "--labels", str(labels)]),
            "merge": lambda: command(
                ["merge", out + ".parquet", str(table), str(other), "--overwrite"]
            ),
            "update": lambda: command([*score, "1/2", "-o", str(table), "--update"]),
            "serve": lambda: serve(served),
        }
        file = folder / "labels"
        label_words: dict[str, Callable[[], int]] = {
            "labels": lambda: command(
                ["report", str(real), "-o", out + ".html", "--overwrite", "--labels", str(file)]
            ),
            "train": lambda: command(
                ["train", str(file), "--device", "cpu", "-o", out + ".safetensors", "--overwrite"]
            ),
        }
        for tables, place, commands in (
            (forged_tables(Forger(real)), table, words),
            (forged_labels(), file, label_words),
            (damaged_labels(pairs, options.damaged, options.seed), file, label_words),
        ):
            for what, write in tables:
                if options.only not in what or not commands.keys() & set(wanted):
                    continue
                write(place)
                # Some commands replace the table. Labels may be too large to be kept.
                content = place.read_bytes() if place is table else None
                for word, work in commands.items():
                    if word not in wanted:
                        continue
                    told, peak, seconds = measure(work)
                    peak -= nothing
                    most = 1500 if word == "serve" else 1000
                    good = told[:1].isdigit() and not told.startswith("1 answers") and peak < most
                    bad += not good
                    size = place.stat().st_size
                    print(
                        f"{'ok ' if good else 'BAD'} {word:8}{what[:44]:45}{size / 1e3:9.1f} kB"
                        f"{peak:8.0f} MB{seconds:6.1f} s  {told.replace(str(folder), '')[:150]}",
                        flush=True,
                    )
                    if content is not None:
                        place.write_bytes(content)
                place.unlink()
    sys.stdout.flush()
    check(not bad, f"{bad} commands failed, or took too much memory")


if __name__ == "__main__":
    main()
