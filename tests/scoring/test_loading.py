"""Loading keeps the order and every file, whatever a file does to the process that reads it."""

import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.scoring import loading
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.rows import FileReader, LoadedFiles

SIZE = 32


@dataclass(frozen=True, slots=True)
class PoisonedReader(FileReader):
    """Reads names instead of files; some names kill or block the process that reads them."""

    def load(self, files: list[ArchiveFile]) -> LoadedFiles:
        for file in files:
            if file.path.startswith(b"crash"):
                os.kill(os.getpid(), signal.SIGKILL)
            if file.path.startswith(b"hang"):
                time.sleep(600)
        rows = [
            super(PoisonedReader, self).failed(f, loading.Outcome.NOT_AN_IMAGE, "") for f in files
        ]
        inputs = np.stack([np.full((SIZE, SIZE), f.size % 256, np.uint8) for f in files])
        return LoadedFiles([row.rows[0] for row in rows], [True] * len(files), inputs)


@pytest.fixture
def reader() -> PoisonedReader:
    return PoisonedReader(b"/nowhere", Recipe(SIZE), ReadingOptions(), b"secret")


def read(names: list[bytes], reader: FileReader, *, workers: int) -> list[tuple[str, str]]:
    files = (ArchiveFile(name, number) for number, name in enumerate(names))
    loaded = loading.load_files(files, reader, workers=workers)
    return [(row.path, row.outcome) for portion in loaded for row in portion.rows]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_is_kept(workers: int, reader: PoisonedReader) -> None:
    names = [b"%03d" % i for i in range(100)]
    assert [path for path, _ in read(names, reader, workers=workers)] == [
        name.decode() for name in names
    ]


def test_a_crash_costs_one_row(reader: PoisonedReader) -> None:
    names = [b"%03d" % i for i in range(120)]
    names[37] = b"crash-1"
    names[90] = b"crash-2"
    rows = read(names, reader, workers=2)
    assert [path for path, _ in rows] == [name.decode() for name in names]
    crashed = [path for path, outcome in rows if outcome == "decoder_crashed"]
    assert crashed == ["crash-1", "crash-2"]
    assert sum(outcome == "not_an_image" for _, outcome in rows) == 118


def test_a_hang_costs_one_row(reader: PoisonedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "STALLED_AFTER", 2.0)
    monkeypatch.setattr(loading, "FILE_DEADLINE", 2.0)
    names = [b"%03d" % i for i in range(40)]
    names[20] = b"hang"
    rows = read(names, reader, workers=1)
    assert [path for path, _ in rows] == [name.decode() for name in names]
    assert [path for path, outcome in rows if outcome == "decoder_timeout"] == ["hang"]
    assert sum(outcome == "not_an_image" for _, outcome in rows) == 39


def test_a_crash_does_not_interrupt_the_consumer(reader: PoisonedReader) -> None:
    names = [b"%03d" % i for i in range(64)]
    names[40] = b"crash"
    seen = 0
    for portion in loading.load_files((ArchiveFile(name, 0) for name in names), reader, workers=2):
        # A handler that raises where a worker dies would raise in here.
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            seen += 0
        seen += len(portion.rows)
    assert seen == 64
