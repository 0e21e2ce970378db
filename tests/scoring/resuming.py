"""Runs that are stopped on the way, for the tests of going on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.run import Progress, ScoringOptions, Summary
from cxrbatch.scoring.score import score_archive

SHARD = 8


class Killed(BaseException):
    """In place of the end of a process."""


class Watcher(Progress):
    """Progress that is kept, and that stops the run after so many files."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.begun_with = 0
        self.files = 0
        self.failures: list[tuple[int, str]] = []

    def start(self, files: int, *, done: int) -> None:
        """Note what is done."""
        self.begun_with = done

    def advance(self, files: int) -> None:
        """Stop at the chosen file."""
        self.files += files
        if self.files == self.stop_after:
            raise Killed

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Note a failure."""
        self.failures.append((number, outcome))


def write_film(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30 + seed % 7), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    os.utime(path, ns=(0, seed))


def run_of(archive: Path, output: Path, checkpoint: Path) -> Callable[..., Summary]:
    def run(
        *,
        stop_after: int | None = None,
        watcher: Watcher | None = None,
        overwrite: bool = False,
        update: bool = False,
        **changed: object,
    ) -> Summary:
        options: dict[str, Any] = {"workers": 0, "precision": "fp32", "device": "cpu"}
        options |= {"batch_size": SHARD, "commit_every": SHARD}
        return score_archive(
            archive,
            output,
            checkpoint=checkpoint,
            options=ScoringOptions(**{**options, **changed}),
            progress=watcher or Watcher(stop_after),
            overwrite=overwrite,
            update=update,
        )

    return run
