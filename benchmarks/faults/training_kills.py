"""Trainings killed at random moments and gone on with until they are done.

Shows: the losses of all epochs and the final weights are those of the unbroken training, the best
checkpoint so far is whole after each kill, and nothing is left behind.
"""

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from runs import check, start

import cxrbatch.training.pipeline  # noqa: F401  so that forks have it loaded
from cxrbatch.model.checkpoint import load_checkpoint, read_card


def write_levels(folder: Path, count: int, *, seed: int) -> None:
    """Two classes, darker and brighter noise, that are not quite told apart."""
    chance = np.random.default_rng(seed)
    for name, level in (("dark", 120), ("bright", 128)):
        (folder / name).mkdir(parents=True)
        for number in range(count // 2):
            grey = level + chance.normal(0, 4) + chance.integers(-40, 41, (32, 32))
            image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number:04}.png")


def difference(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of losses and of weights between two checkpoints."""
    losses = [
        np.array([[epoch["loss"], epoch["val_loss"]] for epoch in read_card(p).training["history"]])
        for p in (one, other)
    ]
    check(losses[0].shape == losses[1].shape, "another number of epochs")
    states = [load_checkpoint(path).tensors for path in (one, other)]
    weights = max(float((states[0][n] - states[1][n]).abs().max()) for n in states[0])
    return float(np.abs(losses[0] - losses[1]).max()), weights


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_levels(folder / "archive", options.images, seed=options.seed)
        words = ["train", str(folder / "archive"), "--size", "32", "--batch-size", "8"]
        words += ["--epochs", str(options.epochs), "--precision", "fp32", "--device", "cpu"]
        words += ["--workers", "0", "--name", "levels", "-o"]
        unbroken = folder / "unbroken.safetensors"
        begun = time.monotonic()
        check(start([*words, str(unbroken)], folder / "log").wait() == 0, "the unbroken training")
        duration = time.monotonic() - begun
        output, states = folder / "model.safetensors", folder / "model.training"
        kills = finished = same = 0
        worst = (0.0, 0.0)
        while kills < options.kills or output.exists():
            run = start([*words, str(output), "--resume"], folder / "log")
            # The last one is left to end.
            moment = chance.uniform(0, duration) if kills < options.kills else float("inf")
            while run.poll() is None and time.monotonic() - run.started < moment:
                time.sleep(0.002)
            if run.poll() is None:
                run.signal_group(signal.SIGKILL)
                run.wait()
                kills += 1
                if (best := states / "best.safetensors").exists():
                    load_checkpoint(best)
            else:
                check(run.code == 0, f"exit {run.code}: {run.log.read_text()[-300:]}")
            if output.exists():
                found = difference(output, unbroken)
                worst = (max(worst[0], found[0]), max(worst[1], found[1]))
                finished += 1
                same += output.read_bytes() == unbroken.read_bytes()
                if run.code == 0:
                    check(not states.exists(), "a folder is left")
                output.unlink()
                if kills >= options.kills:
                    break
    print(
        f"{kills} kills of trainings of {options.epochs} epochs ({duration:.1f} s unbroken), "
        f"{finished} of them gone on with to their end: losses differ by {worst[0]:.1e} at most, "
        f"weights by {worst[1]:.1e}, checkpoints byte-identical {same}"
    )
    check(max(worst) <= 1e-6, "that is more than 1e-6")


if __name__ == "__main__":
    main()
