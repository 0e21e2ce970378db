"""Time of an epoch of training against a bare loop, and memory over epochs.

The bare loop is what no training can do without: forward, backward and step on augmented batches
that lie ready as tensors, with the same optimiser. Ours draws, loads and augments by the
DataLoader, clips, averages and schedules beside that; an epoch is counted with its validation and
its state on the disk, and without. The two alternate in short turns, so that other work on the
machine falls on both alike. `--most 1.15` ends with 1 if a step of ours takes longer than 1.15 bare
ones.
"""

import argparse
import itertools
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
from cxrbatch.training.dataset import ImageSubset, training_loader
from cxrbatch.training.loop import EpochMetrics, TrainingListener, fit
from cxrbatch.training.sampling import DrawSampler
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup

_CLASSES = ("A", "B", "C", "D")
_BATCH, _READY = 32, 8


def card_for(size: int) -> Card:
    """A card of four classes."""
    return Card("bare", "resnet18", _CLASSES, Recipe(size), Normalisation(0.5, 0.25))


def noise(count: int, size: int) -> ImageSubset:
    """Images and labels of no meaning."""
    chance = np.random.default_rng(0)
    inputs = chance.integers(0, 256, (count, size, size), dtype=np.uint8)
    return ImageSubset(inputs, np.arange(count) % len(_CLASSES))


def ready_batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented batches of ours, normalised and in the memory format of the network."""
    train = noise(_BATCH * _READY, size)
    chance = torch.Generator().manual_seed(0)
    sampler = DrawSampler(train.truth, steps=_READY, batch_size=_BATCH, generator=chance)
    loader = training_loader(train, sampler, flip=False, device=torch.device("cpu"), workers=0)
    norm = card_for(size).normalisation
    return [
        (
            ((images - norm.mean) / norm.std).contiguous(memory_format=torch.channels_last),
            truth,
        )
        for images, truth, _ in loader
    ]


def bare_steps(size: int, precision: Precision) -> Iterator[float]:
    """Seconds of one bare step after the other."""
    model = build_model(card_for(size)).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for images, truth in itertools.cycle(ready_batches(size)):
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


def compare(size: int, precision: Precision, options: argparse.Namespace) -> float:
    """Print one line; return how many bare steps a step of ours takes."""
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
    return float(step)


def main() -> None:
    """Compare at each size and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[112, 160])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turn", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=float, help="end with 1 above this ratio of the steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    ratios = [
        compare(size, precision, options)
        for size in options.size
        for precision in options.precision or ["bf16", "fp32"]
    ]
    if options.most is not None and max(ratios) > options.most:
        raise SystemExit(f"a step takes {max(ratios):.3f} bare ones, more than {options.most}")


if __name__ == "__main__":
    main()
