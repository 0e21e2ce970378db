"""Leaks planted in the images of a labels file, among decoys: how many are found, and how surely.

Each round takes films of different patients and plants five leaks by patient, five by the same
image encoded anew or rescaled, and five cropped by 1 % or with other brightness or contrast. The
decoys are the films of two patients that are most alike among all that were drawn. Where a labels
file gives copies of one film to two patients, such a pair is found too: look at what is printed.
"""

import argparse
import io
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.display import GreyImage
from cxrbatch.reading.radiograph import ReadingOptions, iterate_radiographs
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_lists import read_labels
from cxrbatch.training.duplicates import near_duplicates
from cxrbatch.training.split import LeakError, split_files

EACH = 5
Change = Callable[[Image.Image, random.Random], Image.Image]


def encoded(image: Image.Image, chance: random.Random) -> Image.Image:
    """As JPEG of a quality from 50 to 95."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=chance.randint(50, 95))
    return Image.open(file).convert("L")


def rescaled(image: Image.Image, chance: random.Random) -> Image.Image:
    """To 0.5 to 1.5 times its size."""
    factor = chance.uniform(0.5, 1.5)
    return image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(image: Image.Image, chance: random.Random) -> Image.Image:
    """Without 1 % at one side or at all."""
    width, height = image.size
    side = chance.randrange(5)
    left, top, right, bottom = (0.01 * (side in (i, 4)) for i in range(4))
    return image.crop(
        (
            round(left * width),
            round(top * height),
            round((1 - right) * width),
            round((1 - bottom) * height),
        )
    )


def toned(image: Image.Image, chance: random.Random) -> Image.Image:
    """With brightness and contrast changed by up to 20 %."""
    brighter = ImageEnhance.Brightness(image).enhance(chance.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(brighter).enhance(chance.uniform(0.8, 1.2))


SAME: tuple[Change, ...] = (encoded, rescaled, lambda i, c: encoded(rescaled(i, c), c))
CHANGED: tuple[Change, ...] = (cropped, toned, lambda i, c: encoded(toned(cropped(i, c), c), c))


def film(path: Path, recipe: Recipe) -> Image.Image:
    """The display image of a file."""
    reading = next(iterate_radiographs(os.fsencode(path), ReadingOptions(no_voi=recipe.no_voi)))
    if reading.image is None:
        raise SystemExit(f"{path}: {reading.outcome.value}")
    return Image.fromarray(np.rint(255 * reading.image.whole()).astype(np.uint8))


def prepared(image: Image.Image, recipe: Recipe) -> npt.NDArray[np.uint8]:
    """The network's input."""
    return recipe.prepare(GreyImage(np.asarray(image, np.float32) / 255))


def most_alike(
    inputs: npt.NDArray[np.uint8], patients: Sequence[str], count: int
) -> list[tuple[int, int]]:
    """Disjoint pairs of other patients whose plain thumbnails correlate best."""
    small = np.stack(
        [np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BOX)) for i in inputs]
    )
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    correlation = np.triu(flat @ flat.T, 1)
    pairs: list[tuple[int, int]] = []
    for place in np.argsort(-correlation, axis=None):
        a, b = map(int, np.unravel_index(place, correlation.shape))
        if patients[a] != patients[b] and not {a, b} & {i for pair in pairs for i in pair}:
            pairs.append((a, b))
        if len(pairs) == count:
            return pairs
    raise SystemExit("too few images of different patients")


def trial(
    labelled: Sequence[LabelledFile], root: Path, recipe: Recipe, seed: int, drawn: int
) -> tuple[int, int, int]:
    """Count the leaks and the decoys that were found, and the leaks of the split before."""
    chance = random.Random(seed)
    per_patient = {file.patient or file.path: file for file in labelled}
    chosen = chance.sample(sorted(per_patient.values(), key=lambda f: f.path), drawn)
    films = [film(root / file.path, recipe) for file in chosen]
    inputs = np.stack([prepared(image, recipe) for image in films])
    decoys = most_alike(inputs, [f.patient or f.path for f in chosen], 3 * EACH)
    beside = [i for i in range(drawn) if i not in {i for pair in decoys for i in pair}]
    sided = [replace(file, split="train", patient=f"p{i}") for i, file in enumerate(chosen)]
    for _, second in decoys:
        sided[second] = replace(sided[second], split="val")
    # Every class stands on both sides, so that nothing but leaks is refused.
    for label in sorted({file.label for file in sided}):
        for side in ("train", "val"):
            index = next(i for i in beside if sided[i].label == label)
            beside.remove(index)
            sided[index] = replace(sided[index], split=side)
    clean = leaking(sided, inputs)
    planted, copies = [], []
    for number, index in enumerate(chance.sample(beside, 3 * EACH)):
        kind = number // EACH
        if kind == 0:
            copy = inputs[beside[-1 - number]][::-1, ::-1]
            patient = sided[index].patient
        else:
            change = chance.choice((SAME, CHANGED)[kind - 1])
            copy, patient = prepared(change(films[index], chance), recipe), f"copy{number}"
        planted.append((sided[index].path, f"copy{number}"))
        copies.append(copy)
        sided.append(replace(sided[index], path=f"copy{number}", patient=patient, split="test"))
    found = leaking(sided, np.concatenate([inputs, np.stack(copies)]))
    missed = [pair for pair in planted if pair not in found]
    decoyed = [(chosen[a].path, chosen[b].path) for a, b in decoys]
    fooled = [pair for pair in decoyed if pair in found or pair[::-1] in found]
    for name, pairs in (("missed", missed), ("decoys found", fooled), ("in the clean", clean)):
        if pairs:
            print(f"  {name}: {sorted(pairs)}")
    return len(planted) - len(missed), len(fooled), len(clean)


def leaking(files: Sequence[LabelledFile], inputs: npt.NDArray[np.uint8]) -> set[tuple[str, str]]:
    """Paths of the pairs for which the split is refused."""
    try:
        split_files(files, near_duplicates(inputs), seed=0)
    except LeakError as error:
        return {(leak.first.path, leak.second.path) for leak in error.leaks}
    return set()


def main() -> None:
    """Print the counts per seed; end with an error where a leak is missed or a decoy found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="a labels file; paths relative to its folder")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--geometry", choices=["squeeze", "pad"], default="squeeze")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--drawn", type=int, default=400, help="films of different patients")
    options = parser.parse_args()
    labelled = read_labels(options.labels)
    recipe = Recipe(options.size, options.geometry)
    drawn = min(options.drawn, len({file.patient or file.path for file in labelled}))
    wrong = 0
    for seed in range(options.seeds):
        start = time.perf_counter()
        found, fooled, clean = trial(labelled, options.labels.parent, recipe, seed, drawn)
        wrong += (3 * EACH - found) + fooled + clean
        print(
            f"seed {seed}: {found} of {3 * EACH} leaks found, {fooled} of {3 * EACH} decoys, "
            f"{clean} in the split without leaks, of {drawn} films in "
            f"{time.perf_counter() - start:.1f} s"
        )
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
