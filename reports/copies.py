"""Finds pictures that an archive holds more than once, equal or nearly equal, and their labels.

Equal pictures have one hash of the network's input. Nearly equal ones differ in at most
`MOST_BITS` bits of the 64-bit difference hash, and their logits, each less the image's mean, in at
most `MOST_APART`: chests of one build agree in the hash alone. Of 600 pairs of a film with copies
that were encoded anew, rescaled or brightened that finds two in three, and one false pair among
the 79,800 of 400 films of different persons. Hashes that near agree in at least three of six
blocks of bits, so that for each choice of three blocks, of which there are twenty, sorting brings
them together: no pair is missed, in near-linear time, but where very many hashes agree in three
blocks, of which each is compared with the next `_NEIGHBOURS` alone.

Source: Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import TableError
from cxrbatch.results.analysis import Positions
from cxrbatch.results.truth import UNKNOWN

MOST_BITS, MOST_APART = 2, 0.25
MOST_LISTED = 20

_BLOCKS = tuple(np.array_split(np.arange(64, dtype=np.uint64), 6))
_AGREEING = 3
_NEIGHBOURS, _COMPARED = 32, 4_000_000
_MOST_PAIRS = 200_000

_Classes = npt.NDArray[np.int16]
_Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SameGroup:
    """A group of images that are equal, or a pair of images that are nearly equal.

    Attributes:
        rows: Row numbers of the images in the table, from 1; at most the first `MOST_LISTED`.
        images: Number of images.
        labels: Names of their true classes, each once; empty where none is known.
        predictions: Names of their predicted classes, each once.
        bits: Bits of the difference hash in which the pair differs; 0 for equal images.
    """

    rows: tuple[int, ...]
    images: int
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    bits: int


@dataclass(frozen=True, slots=True)
class Copies:
    """Equal and nearly equal pictures of an archive.

    Attributes:
        groups: Number of groups of equal pictures.
        images: Number of images in these groups.
        conflicts: Number of groups whose images have more than one true class.
        listed: At most `MOST_LISTED` groups, conflicts first, then the largest groups first.
        near_pairs: Number of pairs that are nearly equal; of equal pictures one is paired.
        near_conflicts: Number of these pairs whose images have two true classes.
        near_listed: At most `MOST_LISTED` pairs, conflicts first, then by rising `bits`.
        complete: Whether all near pairs were found; False where a limit ended the search early.
    """

    groups: int
    images: int
    conflicts: int
    listed: tuple[SameGroup, ...]
    near_pairs: int
    near_conflicts: int
    near_listed: tuple[SameGroup, ...]
    complete: bool


def find_copies(
    pictures: npt.NDArray[np.integer],
    hashes: npt.NDArray[np.uint64],
    *,
    logits: _Logits,
    rows: Positions,
    truth: _Classes,
    predicted: _Classes,
    classes: Sequence[str],
) -> Copies:
    """Find groups of equal pictures and pairs of nearly equal ones among n images.

    Args:
        pictures: Shape (n,), equal numbers for equal pictures; images with -1 (hash unknown) are
            ignored.
        hashes: Shape (n,), 64-bit difference hashes.
        logits: Shape (n, classes).
        rows: Shape (n,), the images' row numbers in the table, from 0.
        truth: Shape (n,), class indices; `UNKNOWN` where no true class is known.
        predicted: Shape (n,), class indices.
        classes: Names of the classes.
    """
    images = pd.DataFrame({"picture": pictures, "row": rows, "predicted": predicted})
    images["truth"] = pd.Series(truth).where(truth != UNKNOWN)
    images = images[pictures >= 0]
    by_picture = images.groupby("picture")
    groups = by_picture["truth"].agg(["size", "nunique"])
    groups = groups[groups["size"] > 1]
    is_conflict = groups["nunique"] > 1
    first = np.lexsort((-groups["size"], ~is_conflict))[:MOST_LISTED]
    firsts = images.index[~images["picture"].duplicated()].to_numpy()
    firsts = firsts[np.argsort(pictures[firsts])]
    pairs, complete = near_pairs(hashes[firsts], logits[firsts])
    members = firsts[pairs]
    disagreeing = _disagree(truth[members])
    distance = np.bitwise_count(hashes[members[:, 0]] ^ hashes[members[:, 1]])
    near_first = np.lexsort((distance, ~disagreeing))[:MOST_LISTED]
    return Copies(
        groups=len(groups),
        images=int(groups["size"].sum()),
        conflicts=int(is_conflict.sum()),
        listed=tuple(_group(by_picture.get_group(g), classes) for g in groups.index[first]),
        near_pairs=len(pairs),
        near_conflicts=int(disagreeing.sum()),
        near_listed=tuple(
            _group(images.loc[members[pair]], classes, bits=int(distance[pair]))
            for pair in near_first
        ),
        complete=complete,
    )


def _group(members: pd.DataFrame, classes: Sequence[str], *, bits: int = 0) -> SameGroup:
    labels, predictions = (
        tuple(classes[int(number)] for number in sorted(members[name].dropna().unique()))
        for name in ("truth", "predicted")
    )
    rows = tuple((members["row"].iloc[:MOST_LISTED] + 1).tolist())
    return SameGroup(rows, len(members), labels, predictions, bits)


def as_bits(hashes: "pd.Series[str]") -> npt.NDArray[np.uint64]:
    """Convert difference hashes from the texts in a table to numbers.

    Args:
        hashes: The column `dhash` of n rows, each of 16 hexadecimal digits; null becomes 0.

    Returns:
        Shape (n,), 64 bits each.

    Raises:
        TableError: A text is something else.
    """
    texts = hashes.fillna("0" * 16).astype("string")
    if not texts.str.fullmatch("[0-9a-f]{16}").all():
        raise TableError("the table is damaged: a dhash is not 16 hexadecimal digits")
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64)


def near_pairs(hashes: npt.NDArray[np.uint64], logits: _Logits) -> tuple[Positions, bool]:
    """Find pairs of images whose difference hashes and logits are nearly equal.

    The hashes differ in at most `MOST_BITS` bits, and each logit, less the mean of its image's
    logits, by at most `MOST_APART`.

    Args:
        hashes: Shape (n,), 64-bit difference hashes.
        logits: Shape (n, classes).

    Returns:
        Shape (pairs, 2), positions, the smaller first, at most 200,000 pairs; and whether all
        pairs are sure to be among them.
    """
    centred = logits - logits.mean(axis=1, keepdims=True)
    reach = max(_NEIGHBOURS, _COMPARED // max(1, len(hashes)))
    masks = [sum(1 << int(bit) for bit in block) for block in _BLOCKS]
    found, complete, count = [np.empty((0, 2), np.int64)], True, 0
    for chosen in combinations(masks, _AGREEING):
        kept = hashes & np.uint64(sum(chosen))
        order = np.argsort(kept, kind="stable")
        kept, of = kept[order], hashes[order]
        for step in range(1, min(reach, len(hashes) - 1) + 1):
            together = kept[step:] == kept[:-step]
            if not together.any():
                break
            near = together & (np.bitwise_count(of[step:] ^ of[:-step]) <= MOST_BITS)
            complete &= step < reach
            places = np.flatnonzero(near)
            first, second = order[places], order[places + step]
            alike = np.abs(centred[first] - centred[second]).max(axis=1, initial=0) <= MOST_APART
            found.append(np.stack([first[alike], second[alike]], axis=1))
            count += int(alike.sum())
            if count > 10 * _MOST_PAIRS:
                return _unique(found)[:_MOST_PAIRS], False
    pairs = _unique(found)
    return pairs[:_MOST_PAIRS], complete and len(pairs) <= _MOST_PAIRS


def _unique(found: Sequence[Positions]) -> Positions:
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _disagree(labels: _Classes) -> npt.NDArray[np.bool_]:
    disagreeing: npt.NDArray[np.bool_] = (labels != UNKNOWN).all(axis=1) & (
        labels[:, 0] != labels[:, 1]
    )
    return disagreeing
