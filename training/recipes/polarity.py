"""Learns the template of `cxrbatch.reading.polarity` and measures it.

Usage: polarity.py FOLDER, where FOLDER/labels.csv has the columns path and split (train, val,
test) and its images are frontal chest radiographs of the right polarity.

A logistic regression without intercept tells the ranks of thumbnails from those of their negatives,
on train; the left half of its weights, made symmetric, is printed to be pasted. Then the template
that is in use: numbers of the upright images of each split as they are, and of val and test under
each disturbance. A negative has the opposite number, so that one list tells both false alarms and
detections.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate
from scipy.optimize import minimize

from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.polarity import SIDE, SUSPECT, measure_polarity, thumbnail_ranks
from cxrbatch.reading.radiograph import iterate_radiographs

Chance = np.random.Generator
Disturbance = Callable[[Display, Chance], Display]
Weights = NDArray[np.float64]

RIDGE = 1e-3


def as_it_is(image: Display, _chance: Chance) -> Display:
    """Return the image itself: no disturbance."""
    return image


def mirrored(image: Display, _chance: Chance) -> Display:
    """Return the image with left and right exchanged."""
    return image[:, ::-1]


def turned(image: Display, chance: Chance) -> Display:
    """Turn the image at random by up to 10 degrees; the shape stays, the corners become black."""
    turned: Display = rotate(image, chance.uniform(-10, 10), order=1, reshape=False)
    return np.clip(turned, 0, 1)


def cropped(image: Display, chance: Chance, most: float = 0.12) -> Display:
    """Cut each side of the image at random, by at most `most` of its longer side."""
    top, bottom, left, right = (int(most * chance.random() * size) for size in image.shape * 2)
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


def cropped_hard(image: Display, chance: Chance) -> Display:
    """Cut each side of the image at random, by at most a quarter of its longer side."""
    return cropped(image, chance, most=0.25)


def framed(image: Display, chance: Chance) -> Display:
    """Pad each side or not, at random, by up to a quarter of the size: black, white or grey."""
    shares = chance.random((2, 2)) * 0.25 * (chance.random((2, 2)) < 0.6)
    sizes = (shares * np.array(image.shape)[:, None]).astype(int)
    return np.pad(image, sizes, constant_values=chance.choice([0, 0.5, 1]))


def collimated(image: Display, chance: Chance) -> Display:
    """Cover up to 15 % at sides chosen at random, dark or bright; add slight noise to all."""
    rows, columns = image.shape
    widths = chance.random(4) * 0.15 * (chance.random(4) < 0.6)
    top, bottom, left, right = (widths * [rows, rows, columns, columns]).astype(int)
    covered = np.full_like(image, chance.choice([0.02, 0.9]))
    inside = np.s_[top : rows - bottom, left : columns - right]
    covered[inside] = image[inside]
    return np.clip(covered + chance.normal(0, 0.01, image.shape), 0, 1).astype(np.float32)


def exposed(image: Display, chance: Chance) -> Display:
    """Raise the grey levels, in [0, 1], to a random power from 0.5 to 2."""
    return image ** np.float32(2 ** chance.uniform(-1, 1))


def windowed(image: Display, chance: Chance) -> Display:
    """Stretch the grey levels so that up to a quarter of the pixels is clipped at each end."""
    low, high = np.quantile(image, [chance.uniform(0, 0.25), chance.uniform(0.75, 1)])
    windowed: Display = np.clip((image - low) / max(high - low, 1e-3), 0, 1).astype(np.float32)
    return windowed


SINGLE = (mirrored, turned, cropped, exposed, windowed, collimated, framed)


def mixed(image: Display, chance: Chance) -> Display:
    """Apply each disturbance of `SINGLE`, in order, with a chance of 0.4."""
    for disturb in SINGLE:
        image = disturb(image, chance) if chance.random() < 0.4 else image
    return image


def read_split(folder: Path, split: str) -> list[Display]:
    """Read the first frame of each file of a split in FOLDER/labels.csv that has an image."""
    with (folder / "labels.csv").open(newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream) if row["split"] == split]
    displays = (next(iterate_radiographs(folder / path)).display for path in paths)
    return [display for display in displays if display is not None]


def learn(images: list[Display]) -> Weights:
    """Fit the template to upright images, each as it is and disturbed at random.

    Returns:
        The left half of the symmetric weights, shape (SIDE, SIDE // 2), whole numbers from -100 to
        100.
    """
    chance = np.random.default_rng(0)
    ranks = [
        thumbnail_ranks(GreyImage(disturb(i, chance)))
        for i in images
        for disturb in (as_it_is, mixed)
    ]
    rows = np.array(ranks) / np.linalg.norm(ranks, axis=1, keepdims=True) * (SIDE / 8)

    def loss(weights: Weights) -> tuple[float, Weights]:
        margins = rows @ weights
        slope = -(rows / (1 + np.exp(margins))[:, None]).mean(axis=0) + RIDGE * weights
        return np.logaddexp(0, -margins).mean() + RIDGE / 2 * (weights @ weights), slope

    fitted = minimize(loss, np.zeros(SIDE * SIDE), jac=True, method="L-BFGS-B").x
    square = fitted.reshape(SIDE, SIDE)
    half = (square + np.fliplr(square))[:, : SIDE // 2]
    whole: Weights = np.rint(100 * half / np.abs(half).max()) + 0.0  # no -0
    return whole


def show(name: str, images: list[Display], disturb: Disturbance = as_it_is) -> None:
    """Print one line: how many images, disturbed, and negatives are doubted, and quantiles.

    Args:
        name: Text at the start of the line.
        images: Upright images of the right polarity.
        disturb: Changes each image first, with a fixed seed.
    """
    chance = np.random.default_rng(1)
    numbers = np.array([measure_polarity(GreyImage(disturb(image, chance))) for image in images])
    alarms, detections = (numbers < SUSPECT).sum(), (-numbers < SUSPECT).sum()
    low, few, middle = np.quantile(numbers, [0, 0.05, 0.5])
    print(
        f"{name:20} n {numbers.size:5}, upright doubted {alarms}, negatives doubted {detections} "
        f"({detections / numbers.size:.1%}); upright least {low:.2f}, 5 % {few:.2f}, "
        f"median {middle:.2f}"
    )


def main(folder: Path) -> None:
    """Learn the template from train and print it; then print its figures on all splits."""
    train = read_split(folder, "train")
    for row in learn(train):
        print("    [" + ", ".join(f"{weight:4.0f}" for weight in row) + "],")
    show("train", train)
    for split in ("val", "test"):
        images = read_split(folder, split)
        for disturb in (as_it_is, *SINGLE, cropped_hard, mixed):
            show(f"{split} {disturb.__name__}", images, disturb)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
