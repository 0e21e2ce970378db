"""What the fault benchmarks share: a tiny checkpoint, archives, and runs that can be ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# One thread: on a machine with other work, threads that wait for each other tell nothing.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

import cxrbatch.scoring.engine  # noqa: F401  so that forks have it loaded
from cxrbatch.cli import main
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe


def write_checkpoint(path: Path) -> Path:
    """A network of random weights at 32 px: what is tested is not the model."""
    # In a fork: once torch has computed, its threads would be missing in later forks.
    pid = os.fork()
    if pid == 0:
        card = Card(
            name="tiny",
            architecture="resnet18",
            classes=("Normal", "COVID-19", "Viral Pneumonia"),
            recipe=Recipe(size=32),
            normalisation=Normalisation(mean=0.5, std=0.25),
            training={"data": "none: random weights"},
            limits=("Knows nothing.",),
        )
        torch.manual_seed(20)
        save_checkpoint(path, model=build_model(card).eval(), card=card)
        os._exit(0)
    os.waitpid(pid, 0)
    return path


def write_films(folder: Path, count: int, *, seed: int, smallest: int = 32) -> list[Path]:
    """Noise as PNGs, a hundred to a folder."""
    chance = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        path = folder / f"{number // 100:04d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (smallest + number % 31, smallest + 8 + number % 13)
        Image.fromarray(chance.integers(0, 256, shape, dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def write_small(folder: Path, count: int, *, films_in_100: int, seed: int) -> list[Path]:
    """Different small files, some of them films, the others notes."""
    folder.mkdir()
    films = iter(write_films(folder / "films", count * films_in_100 // 100 + 1, seed=seed))
    paths = []
    for number in range(count):
        if number % 100 < films_in_100:
            paths.append(next(films))
        else:
            paths.append(folder / f"{number}")
            paths[-1].write_text(f"note {number}")
    return paths


def link_many(folder: Path, files: Sequence[Path], count: int, *, to_a_folder: int = 1000) -> None:
    """Hard links to some files."""
    for number in range(count):
        inside = folder / f"{number // to_a_folder:05d}"
        if number % to_a_folder == 0:
            inside.mkdir(parents=True)
        os.link(files[number % len(files)], inside / f"{number:08d}")


@dataclass(slots=True)
class Run:
    """A run of the command in a process group of its own.

    Attributes:
        pid: Of the process, and of its group.
        log: Where its stdout and stderr go.
    """

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code as a shell gives it; None while it runs."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code
        return self.code

    def wait(self, seconds: float = 300.0) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: It did not end.
        """
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.signal_group(signal.SIGKILL)
                raise TimeoutError
            time.sleep(0.005)
        return code

    def signal_group(self, number: int) -> None:
        """Signal all processes of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def left_behind(self) -> list[str]:
        """Living processes of its group."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                name, _, rest = stat.read_text().rpartition(")")
                state, _, group = rest.split()[:3]
                if int(group) == self.pid and state not in "ZX":
                    found.append(name)
        return found

    def events(self) -> list[dict[str, Any]]:
        """The events of its log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def start(words: Sequence[str], log: Path, *, before: Callable[[], object] = bool) -> Run:
    """Call the command in a fork of this process, which has loaded torch but used none of it.

    A benchmark's hundreds of runs then begin with their work, so that kills at random moments
    fall on the work rather than on imports.
    """
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            before()
            code = main(list(words))
        finally:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(code)
    return Run(pid, log)


def start_fresh(words: Sequence[str], log: Path, *, variables: dict[str, str] | None = None) -> Run:
    """Call the command as a user does, in a new interpreter."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cxrbatch", *words],
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
        )
    process.returncode = 0  # it is waited for by its number
    return Run(process.pid, log)


def check(holds: bool, what: str) -> None:
    """End the benchmark where something does not hold."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")
