"""Trains the lung finder of `cxrbatch.lungs` and writes its weights with a card.

Usage: lungs.py LUNGS.csv ADULTS.csv OUT.safetensors [--steps N] [--hold-out]

LUNGS.csv has the columns path, mask and split (train, val, test) of children's films; trained on is
train. ADULTS.csv has path, mask, patient and licence of adults' films; trained on are those of
licence `permissive`. Paths are relative to the CSV's folder. With --hold-out a fifth of those adult
patients is left out and measured with val, to choose settings by; without it all are trained on.

Six of each 32 films are adults. Films are turned, scaled (each axis by itself, as films that were
squeezed or padded differ), shifted and mirrored; their grey levels are bent, tilted, clouded, made
noisy, blurred and passed through JPEG. The loss is the binary cross entropy plus 1 - Dice; the
weights are a moving average. Everything random follows --seed.
"""

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import (
    affine_grid,
    avg_pool2d,
    binary_cross_entropy_with_logits,
    grid_sample,
    interpolate,
)

from cxrbatch.lungs.lung_card import LungCard
from cxrbatch.lungs.shape import MEASURES, lungs_in, measure_lungs, resized_mask
from cxrbatch.lungs.unet import (
    LungUNet,
    lung_probability,
    standardised,
    without_norms,
    write_lung_weights,
)
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.display import GreyImage
from cxrbatch.reading.radiograph import iterate_radiographs

Bytes = NDArray[np.uint8]
Chance = np.random.Generator

SIZE = 128
SOURCE_SIZE = 192
"""Edge of the stored films, from which inputs of `SIZE` are drawn."""
BATCH, ADULTS = 32, 6
"""Films of a batch, and how many of them are adults."""
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 4e-3, 1e-3, 60
AVERAGING = 0.995
"""Share of the moving average that each step keeps, once there were enough steps."""
ADULTS_HELD_OUT = 5
"""With --hold-out, patients whose number has the rest 0 by this are left out."""

MOVES = 20
"""How often each film's true mask is moved to find the usual shapes."""
USUAL = 0.005, 0.995
"""Quantiles of each measure; a mask outside is doubted."""
CAUTIONS = (
    "Research only: not a medical device, and no measure of a lung's volume.",
    "Trained on frontal chest films of children of one to five years and of 36 adults.",
    "Lung that the heart or the diaphragm covers is guessed; so is lung that is opaque.",
    "A mask without doubts can be wrong.",
)


@dataclass(frozen=True)
class Films:
    """Films with their masks, all read.

    Attributes:
        stored: Shape (n, SOURCE_SIZE, SOURCE_SIZE), uint8.
        stored_masks: The share of lung in each pixel times 255, the same shape.
        inputs: Shape (n, SIZE, SIZE), uint8: what the finder sees of each film.
        masks: Masks at their own size.
    """

    stored: Bytes
    stored_masks: Bytes
    inputs: Bytes
    masks: list[NDArray[np.bool_]]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV with the columns path and mask; both become whole paths."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row.update({name: str(path.parent / row[name]) for name in ("path", "mask")})
    return rows


def read_films(rows: list[dict[str, str]]) -> Films:
    """Read films and masks of rows that `read_rows` returned."""
    stored, stored_masks, inputs, masks = [], [], [], []
    for row in rows:
        image = next(iterate_radiographs(row["path"])).image
        assert image is not None, row["path"]
        with Image.open(row["mask"]) as file:
            mask = np.asarray(file.convert("L")) > 0
        stored.append(Recipe(SOURCE_SIZE).prepare(image))
        stored_masks.append(Recipe(SOURCE_SIZE).prepare(GreyImage(mask.astype(np.float32))))
        inputs.append(Recipe(SIZE).prepare(image))
        masks.append(mask)
    return Films(np.stack(stored), np.stack(stored_masks), np.stack(inputs), masks)


def placed(stored: Bytes, masks: Bytes, chance: Chance) -> tuple[Tensor, Tensor]:
    """Turn, scale, shift and mirror films and their masks alike.

    Args:
        stored: Shape (n, SOURCE_SIZE, SOURCE_SIZE), uint8.
        masks: As `Films.stored_masks`, the same shape.
        chance: Source of the random numbers.

    Returns:
        Films and masks, each of shape (n, 1, SIZE, SIZE), in [0, 1].
    """
    count = len(stored)
    angle = np.radians(chance.normal(0, 6, count) + (chance.random(count) < 0.1) * 10)
    zoom = np.exp(chance.normal(0, 0.10, count)).clip(0.75, 1.35)  # over 1: the film is smaller
    aspect = np.exp(chance.normal(0, 0.10, count)).clip(0.75, 1.33)
    across, down = zoom * np.sqrt(aspect), zoom / np.sqrt(aspect)
    # As with "pad": black borders left and right, or above and below.
    border, upright = chance.random(count), chance.random(count) < 0.5
    bordered = chance.random(count) < 0.2
    across = np.where(bordered & upright, 1 + 0.35 * border, across)
    down = np.where(bordered & ~upright, 1 + 0.35 * border, down)
    mirror = np.where(chance.random(count) < 0.5, -1, 1)
    shift = chance.normal(0, 0.06, (2, count)) * ~bordered
    theta = np.empty((count, 2, 3), np.float32)
    theta[:, 0] = np.stack([mirror * across * np.cos(angle), -across * np.sin(angle), shift[0]], 1)
    theta[:, 1] = np.stack([mirror * down * np.sin(angle), down * np.cos(angle), shift[1]], 1)
    both = torch.from_numpy(np.stack([stored, masks], 1)).float() / 255
    # Beyond the film there is black, now and then grey or white.
    beyond = np.where(chance.random(count) < 0.8, 0, chance.random(count)).astype(np.float32)
    fill = torch.from_numpy(np.stack([beyond, np.zeros_like(beyond)], 1))[:, :, None, None]
    grid = affine_grid(torch.from_numpy(theta), [count, 2, SIZE, SIZE], align_corners=False)
    moved = grid_sample(both - fill, grid, align_corners=False) + fill
    return moved[:, :1].clamp(0, 1), moved[:, 1:].clamp(0, 1)


def exposed(films: Tensor, chance: Chance) -> Tensor:
    """Change the grey levels of films, shape (n, 1, SIZE, SIZE), in [0, 1], at random.

    Returns:
        The same shape, within [0, 1].
    """
    count = len(films)

    def drawn(values: NDArray[np.floating[Any]]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))[:, None, None, None]

    def clouds(cells: int) -> Tensor:
        coarse = torch.from_numpy(chance.normal(0, 1, (count, 1, cells, cells)).astype(np.float32))
        return interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=True)

    films = films ** drawn(np.exp(chance.normal(0, 0.35, count)).clip(0.4, 2.5))
    # A slope over the film, and consolidations: lung that is as bright as soft tissue.
    films = films + clouds(2) * drawn(0.08 * chance.random(count))
    dense = (clouds(6) - 0.8).clamp(0, 1) * drawn(0.7 * (chance.random(count) < 0.35))
    films = films + dense * (films.amax((2, 3), keepdim=True) * 0.9 - films).clamp(min=0)
    # A window that is too narrow: up to a tenth is cut off at both ends.
    low, high = drawn(chance.random(count) * 0.1), drawn(1 - chance.random(count) * 0.1)
    films = (films - low) / (high - low)
    soft = avg_pool2d(films, 3, stride=1, padding=1, count_include_pad=False)
    films = torch.lerp(films, soft, drawn(chance.uniform(-0.5, 1, count)))
    noise = torch.from_numpy(chance.standard_normal(films.shape, np.float32))
    return (films + noise * drawn(0.04 * chance.random(count) ** 2)).clamp(0, 1)


def as_jpeg(levels: Bytes, quality: int) -> Bytes:
    """Encode one film as JPEG, and decode it."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def draw_batch(films: Films, chosen: NDArray[np.int64], chance: Chance) -> tuple[Tensor, Tensor]:
    """Change the chosen films at random.

    Returns:
        The network's inputs, and the share of lung in each pixel, both (n, 1, SIZE, SIZE).
    """
    moved, masks = placed(films.stored[chosen], films.stored_masks[chosen], chance)
    levels = (exposed(moved, chance)[:, 0] * 255).round().byte().numpy()
    for place in np.flatnonzero(chance.random(len(levels)) < 0.3):
        levels[place] = as_jpeg(levels[place], int(chance.integers(30, 90)))
    return standardised(levels), masks


def loss_of(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the binary cross entropy plus 1 - Dice, the mean over the films."""
    probability = logits.sigmoid()
    both = (probability * masks).sum((1, 2, 3))
    sizes = probability.sum((1, 2, 3)) + masks.sum((1, 2, 3))
    dice = (2 * both + 1) / (sizes + 1)
    return binary_cross_entropy_with_logits(logits, masks) + (1 - dice).mean()


def train(films: Films, adults: NDArray[np.bool_], *, steps: int, seed: int) -> LungUNet:
    """Train the network, and return the moving average of its weights, without batch norms.

    Args:
        films: The films, children and adults.
        adults: Which of them are adults, shape (n,).
        steps: Batches to train on.
        seed: Decides all that is random.
    """
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    network = LungUNet(normed=True).to(memory_format=torch.channels_last)
    average = deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    groups = np.flatnonzero(~adults), np.flatnonzero(adults)
    start, shown = time.monotonic(), 0.0
    for step in range(steps):
        rate = min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * rate
        drawn = zip(groups, (BATCH - ADULTS, ADULTS), strict=True)
        chosen = np.concatenate([chance.choice(group, count) for group, count in drawn])
        inputs, masks = draw_batch(films, chosen, chance)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs)
        loss = loss_of(logits.float(), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        keep = min(AVERAGING, (step + 1) / (step + 10))
        with torch.no_grad():
            values = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
            for mean, value in values:
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - keep)
                else:
                    mean.copy_(value)
        shown = loss.item() if not step else shown + 0.05 * (loss.item() - shown)
        if step % 50 == 49:
            print(f"step {step + 1} loss {shown:.4f} {time.monotonic() - start:.0f} s", flush=True)
    return without_norms(average.eval()).to(memory_format=torch.channels_last)


def probabilities(network: LungUNet, inputs: Bytes) -> NDArray[np.float32]:
    """Return the probability of lung in each pixel of inputs, shape (n, SIZE, SIZE)."""
    return np.stack([lung_probability(network, prepared) for prepared in inputs])


def dice_of(probability: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the Dice of a film at its mask's own size."""
    found = resized_mask(probability, lungs_in(probability), mask.shape)
    return float(2 * (found & mask).sum() / (found.sum() + mask.sum()))


def mean_interval(values: NDArray[np.float64], groups: list[str]) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by resampling groups of values, such as patients."""
    chance = np.random.default_rng(0)
    numbers = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    drawn = chance.integers(0, len(counts), (2000, len(counts)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def measure_films(network: LungUNet, rows: list[dict[str, str]], films: Films) -> dict[str, Any]:
    """Return the mean Dice over films with its interval; patients are resampled where known."""
    found = probabilities(network, films.inputs)
    dice = np.array([dice_of(*pair) for pair in zip(found, films.masks, strict=True)])
    groups = [row.get("patient", row["path"]) for row in rows]
    return {
        "films": len(dice),
        "dice": round(float(dice.mean()), 4),
        "interval_95": [round(end, 4) for end in mean_interval(dice, groups)],
        "lowest_tenth": round(float(np.quantile(dice, 0.1)), 4),
    }


def moved_masks(films: Films, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield the true mask of each film, `MOVES` times, moved as in training."""
    chance = np.random.default_rng(seed)
    for _ in range(MOVES):
        for start in range(0, len(films.stored), BATCH):
            part = slice(start, start + BATCH)
            moved = placed(films.stored[part], films.stored_masks[part], chance)[1]
            yield from (moved[:, 0] >= 0.5).numpy()


def limits_of(network: LungUNet, groups: list[Films], seed: int) -> dict[str, tuple[float, float]]:
    """Choose the limits of the measures, outside of which a mask is doubted.

    They are the quantiles `USUAL`, the wider of any group's: for entropy of the network's masks
    for the films as they are, with no lower limit, for all else of the true masks moved as in
    training.
    """
    limits: dict[str, tuple[float, float]] = {}
    for films in groups:
        true = [measure_lungs(mask.astype(np.float32), mask) for mask in moved_masks(films, seed)]
        found = [measure_lungs(p, lungs_in(p)) for p in probabilities(network, films.inputs)]
        for name in MEASURES:
            measured = [getattr(m, name) for m in (found if name == "entropy" else true)]
            low, high = (float(np.quantile(measured, share)) for share in USUAL)
            known = limits.get(name, (low, high))
            limits[name] = min(low, known[0]), max(high, known[1])
    # Whole numbers of parts; and it is no fault to be sure.
    limits["parts"] = float(math.floor(limits["parts"][0])), float(math.ceil(limits["parts"][1]))
    limits["entropy"] = 0.0, limits["entropy"][1]
    return {name: (round(low, 4), round(high, 4)) for name, (low, high) in limits.items()}


def main() -> None:
    """Read the arguments; train; measure; write the weights with their card."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("lungs", type=Path)
    parser.add_argument("adults", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold-out", action="store_true")
    given = parser.parse_args()
    children, adults = read_rows(given.lungs), read_rows(given.adults)
    free = [row for row in adults if row["licence"] == "permissive"]
    patients = sorted({row["patient"] for row in free})
    left_out = set(patients[::ADULTS_HELD_OUT]) if given.hold_out else set()
    trained_on = [row for row in children if row["split"] == "train"]
    grown = [row for row in free if row["patient"] not in left_out]
    films = read_films(trained_on + grown)
    are_adults = np.arange(len(films.stored)) >= len(trained_on)
    print(f"{len(trained_on)} children, {len(grown)} adults", flush=True)
    network = train(films, are_adults, steps=given.steps, seed=given.seed)
    measured = {
        "children, val": [row for row in children if row["split"] == "val"],
        "adults held out": [row for row in free if row["patient"] in left_out],
    }
    if not given.hold_out:
        measured["children, test"] = [row for row in children if row["split"] == "test"]
        measured["adults of other licences"] = [row for row in adults if row not in free]
    figures = {
        name: measure_films(network, rows, read_films(rows))
        for name, rows in measured.items()
        if rows
    }
    print(json.dumps(figures, indent=2))
    groups = [read_films(measured["children, val"]), read_films(grown)]
    card = LungCard(
        name=f"U-Net of {sum(p.numel() for p in network.parameters()):,} parameters",
        recipe=Recipe(SIZE),
        limits=limits_of(network, groups, given.seed),
        training={
            "data": [
                f"{len(trained_on)} films of children and their masks, CC BY 4.0",
                f"{len(grown)} films of adults and their masks, of permissive licences",
            ],
            "options": {"steps": given.steps, "batch": BATCH, "seed": given.seed},
            "figures": figures,
        },
        cautions=CAUTIONS,
    )
    print(json.dumps(dict(card.limits), indent=2))
    write_lung_weights(given.output, network, card)


if __name__ == "__main__":
    main()
