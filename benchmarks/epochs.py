"""Time of an epoch of training against a bare loop, and memory over epochs.

The bare loop is what no training can do without: forward, backward and step on batches that lie
ready, of the same shape, with the same optimiser. Ours draws, augments, clips, averages and
schedules beside that; an epoch is counted with its validation and its state on the disk, and
without. The two alternate in short turns, so that other work on the machine falls on both alike.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.inference import Precision
from cxrbatch.model.network import build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.process import keep_freed_memory
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.loop import EpochMetrics, TrainingListener, fit
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup

_CLASSES = ("A", "B", "C", "D")
_BATCH = 32


def card_for(size: int) -> Card:
    """A card of four classes."""
    return Card("bare", "resnet18", _CLASSES, Recipe(size), Normalisation(0.5, 0.25))


def noise(count: int, size: int) -> ImageSubset:
    """Images and labels of no meaning."""
    chance = np.random.default_rng(0)
    inputs = chance.integers(0, 256, (count, size, size), dtype=np.uint8)
    return ImageSubset(inputs, np.arange(count) % len(_CLASSES))


def bare_steps(size: int, precision: Precision) -> Iterator[float]:
    """Seconds of one bare step after the other."""
    model = build_model(card_for(size)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(_BATCH, 1, size, size).contiguous(memory_format=torch.channels_last)
    truth = torch.arange(_BATCH) % len(_CLASSES)
    while True:
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = nn.functional.cross_entropy(model(images).float(), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        loss.item()
        yield time.perf_counter() - begun


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def compare(size: int, precision: Precision, options: argparse.Namespace) -> None:
    """Print one line."""
    bare = bare_steps(size, precision)
    next(bare)
    ours: list[float] = []
    theirs: list[float] = []
    epochs: list[float] = []
    memory: list[float] = []
    turns = options.turn
    clock = time.perf_counter()

    class Clock(TrainingListener):
        def stepped(self, images: int) -> None:
            nonlocal clock
            ours.append(time.perf_counter() - clock)
            if len(ours) % turns == 0:
                theirs.extend(next(bare) for _ in range(turns))
            clock = time.perf_counter()

        def epoch_done(self, metrics: EpochMetrics) -> None:
            nonlocal clock
            epochs.append(time.perf_counter() - clock)  # validation and writing
            memory.append(resident())
            clock = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        setup = TrainingSetup(
            card=card_for(size),
            options=TrainingOptions(
                size=size, epochs=options.epochs, batch_size=_BATCH, precision=precision
            ),
            device=torch.device("cpu"),
            folder=Path(folder),
        )
        val = noise(_BATCH * options.steps // 10, size)
        train = noise(_BATCH * options.steps, size)
        fit(build_model(card_for(size)), train, val, setup, Clock())
    # Each turn of ours against the bare one after it; the first of each warms up.
    ours_by_turn, bare_by_turn = (np.reshape(t, (-1, turns))[1:].mean(1) for t in (ours, theirs))
    step, bare_step = np.median(ours_by_turn / bare_by_turn), np.median(bare_by_turn)
    whole = step + np.median(epochs) / (bare_step * options.steps)
    print(
        f"{size} px {precision}: bare step {bare_step * 1e3:.0f} ms, ratio of ours {step:.3f}; "
        f"epoch of {options.steps} steps with validation on a tenth and its state on the disk: "
        f"{np.median(epochs):.2f} s more, ratio {whole:.3f}; resident after each epoch "
        f"{', '.join(f'{m:.0f}' for m in memory)} MB",
        flush=True,
    )


def main() -> None:
    """Compare at each size and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[112, 160])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turn", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for size in options.size:
        for precision in options.precision or ["bf16", "fp32"]:
            compare(size, precision, options)


if __name__ == "__main__":
    main()
