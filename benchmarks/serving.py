"""Measure how long pages of a large table take, alone and beside an upload, and the memory.

    python benchmarks/serving.py                   # a million rows
    python benchmarks/serving.py --rows 100000

Times are also given as CPU seconds of the server, which a busy machine does not lengthen.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import bundled_checkpoint, read_card
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.scoring.table_writer import table_writer

TOKEN = "a-token-of-the-benchmark"
GROUP = 65_536
CELLS = 5
READERS = 50


def write_table(path: Path, rows: int) -> list[str]:
    """Write a labelled table of random scores; return its classes."""
    card = read_card(bundled_checkpoint())
    schema = table_schema(card.classes, heatmap_size=CELLS, labelled=True)
    provenance = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(card.classes),
        "heatmap_size": CELLS,
        "labelled": True,
        "card": card.to_json(),
        "recipe": card.recipe.to_card(),
        "archive_root": "/nowhere",
    }
    metadata = {PROVENANCE_KEY: json.dumps(provenance).encode()}
    with path.open("wb") as file, table_writer(file, schema.with_metadata(metadata)) as writer:
        for start in range(0, rows, GROUP):
            columns = random_columns(start, min(GROUP, rows - start), card)
            arrays = [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else pa.nulls(len(columns["path"]), field.type)
                for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return list(card.classes)


def random_columns(start: int, count: int, card: Card) -> dict[str, list[object]]:
    """Return column -> values for the rows `start` to `start + count`."""
    rng, classes = np.random.default_rng(start), list(card.classes)
    scores = rng.dirichlet(np.ones(len(classes)), count).astype(np.float32)
    logits = card.temperature * np.log(np.maximum(scores, 1e-30))
    predicted = np.array(classes)[scores.argmax(1)]
    numbers = range(start, start + count)
    is_scored = np.array([n % 50 != 0 for n in numbers])
    maps = rng.integers(0, 256, (count, len(classes) * CELLS**2), dtype=np.uint8)
    scored: dict[str, npt.NDArray[np.generic]] = {
        "prediction": predicted.astype(object),
        "heatmaps": np.array([row.tobytes() for row in maps], object),
        "heatmap_scale": np.ones(count, np.float32),
        **{f"p_{name}": scores[:, i] for i, name in enumerate(classes)},
        **{f"logit_{name}": logits[:, i] for i, name in enumerate(classes)},
    }
    return {
        "path": [f"site{n % 7}/study{n // 4:07d}/image{n:08d}.dcm" for n in numbers],
        "frame": [0] * count,
        "outcome": ["scored" if known else "corrupt" for known in is_scored],
        "truth": np.where(rng.random(count) < 0.8, predicted, rng.choice(classes, count)).tolist(),
        "image_flags": [["lateral"] if n % 9 == 0 else [] for n in numbers],
        "patient_sex": rng.choice(["F", "M"], count).tolist(),
        "patient_age_bin": rng.choice(["30-39", "40-49", "50-59"], count).tolist(),
        "patient_key": [f"{n // 4:032x}" for n in numbers],
        **{name: np.where(is_scored, column, None).tolist() for name, column in scored.items()},
    }


@contextmanager
def served(folder: Path) -> Iterator[tuple[int, str]]:
    """Serve a folder while the context lasts; yields process id and address."""
    words = ["-P", "-m", "cxrbatch", "serve", str(folder), "--port", "0", "--token", TOKEN]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.pid, server.stdout.readline().partition("/?")[0]
        finally:
            server.terminate()


def ask(url: str, body: bytes | None = None) -> bytes:
    """Fetch a page, or send a file as an upload; return the answer."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    if body is not None:
        headers["Content-Type"] = "multipart/form-data; boundary=b"
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        body = part + body + b"\r\n--b--\r\n"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        content: bytes = answer.read()
        return content


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mebibytes(pid: int) -> int:
    """Return the largest resident memory of a process so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def queries(classes: list[str], rng: random.Random) -> Iterator[str]:
    """Yield queries with random filters and orders, none of which the server has cached."""
    while True:
        name = rng.choice(classes)
        asked = {
            "sort": f"{rng.choice(['', '-'])}p_{name}",
            "prediction": rng.choice(classes),
            f"min[{name}]": f"{rng.random() / 4:.6f}",
            "sex": rng.choice("FM"),
            "page": str(rng.randint(1, 20)),
        }
        yield urllib.parse.urlencode(asked)


def print_times(name: str, milliseconds: list[float], cpu: float) -> None:
    """Print the 50th and 95th percentile, and the CPU time of each request."""
    p50, p95 = np.percentile(milliseconds, [50, 95])
    each = 1e3 * cpu / len(milliseconds)
    print(f"{name:<44} p50 {p50:5.0f} ms   p95 {p95:5.0f} ms   CPU {each:5.0f} ms each")


def main() -> None:
    """Write the table, serve it, and time requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    film = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 4096, (3000, 2500), dtype=np.uint16)
    Image.fromarray(noise * 16).save(film, "PNG", compress_level=1)
    with tempfile.TemporaryDirectory() as name:
        classes = write_table(Path(name) / "results.parquet", rows)
        with served(Path(name)) as (pid, address):
            run = json.loads(ask(f"{address}/api/v1/runs"))["runs"][0]["id"]
            page = f"{address}/runs/{run}/rows"
            print(f"first page {timed(lambda: ask(page)):.0f} ms")
            asked = queries(classes, random.Random(1))
            before = cpu_seconds(pid)
            alone = [timed(lambda: ask(f"{page}?{next(asked)}")) for _ in range(60)]
            print_times("filter, order and page, one reader", alone, cpu_seconds(pid) - before)
            print(f"peak memory {peak_mebibytes(pid)} MiB, before anything was scored")
            score = f"{address}/api/v1/score"
            print(f"first upload {timed(lambda: ask(score, film.getvalue())):.0f} ms")
            print(f"second upload {timed(lambda: ask(score, film.getvalue())):.0f} ms")
            runs = f"{address}/runs/{run}"
            before = cpu_seconds(pid)
            with ThreadPoolExecutor(READERS + 1) as threads:
                upload = threads.submit(ask, score, film.getvalue())
                beside = list(threads.map(lambda _: timed(lambda: ask(runs)), range(4 * READERS)))
                upload.result()
            print_times(
                f"a run's page, {READERS} readers beside an upload",
                beside,
                cpu_seconds(pid) - before,
            )
            print(f"peak memory {peak_mebibytes(pid)} MiB")


if __name__ == "__main__":
    main()
