"""Decides which scored images count in figures, and counts the others by the reason.

An image is left out for the first of these reasons that holds: its true class is unknown; it is not
on the side `test` of the split, and an image of known class is; it has one of the flags
`NOT_COUNTED`; or an image before it in the table counts already and is equal. Images are equal if
they have one SOP Instance UID and frame number, or one hash of the network's input, and if both are
equal to a third.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrbatch.errors import TableError
from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.frames import Results
from cxrbatch.results.label_names import SPLITS
from cxrbatch.results.truth import UNKNOWN, ClassNumbers

NOT_COUNTED = (Flag.LATERAL, Flag.NOT_CHEST_TAG)
"""Flags of images that are no frontal chest radiographs."""

MOST_BITS, MOST_APART = 2, 0.25

Positions = npt.NDArray[np.int64]

_BLOCKS = tuple(np.array_split(np.arange(64, dtype=np.uint64), 6))
_AGREEING = 3
_NEIGHBOURS, _COMPARED = 32, 4_000_000
_MOST_PAIRS = 200_000


@dataclass(frozen=True, slots=True)
class ExclusionStep:
    """A number of images that are not analysed, all for one reason.

    Attributes:
        name: Code of the reason: an outcome code, a side of the split or "no side of the split", a
            flag, "same_picture" or "same_uid".
        meaning: The reason in words, for a reader.
        count: Number of images.
    """

    name: str
    meaning: str
    count: int


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Counts from scored images to images analysed.

    Scored = unlabelled + aside + flagged + copies + analysed.

    Attributes:
        scored: Number of images with a score; in a comparison, with a score in both tables.
        unlabelled: Number of scored images whose true class is unknown; 0 without a truth.
        aside: Images with a true class that are not on the side test of the split, by side; empty
            if none of them is on that side.
        flagged: Images left out for a flag, by the first of `NOT_COUNTED` that they have.
        copies: Images left out as an equal image before them in the table counts: those whose
            picture another scored image has, then those with an equal SOP Instance UID alone.
        analysed: Number of images that the figures describe.
        side: "test" if only that side of the split is analysed, else None.
        not_held_out: Number of analysed images on the side train or val of the split: a model may
            have learned from them, or been chosen by them.
        shared_uids: Number of images, analysed or left out as copies, whose SOP Instance UID and
            frame number another of them has with another picture.
        contradictions: Number of groups of equal images, analysed or left out as copies, that have
            several true classes.
    """

    scored: int
    unlabelled: int
    aside: tuple[ExclusionStep, ...]
    flagged: tuple[ExclusionStep, ...]
    copies: tuple[ExclusionStep, ...]
    analysed: int
    side: str | None
    not_held_out: int
    shared_uids: int
    contradictions: int


class CountedImages(NamedTuple):
    """The images that count, and how many do not.

    Attributes:
        counts: Counts of all images by what became of them.
        analysed: Positions of the images that count, ascending.
        all_images: These, and the positions of those left out for a flag or as copies, ascending.
    """

    counts: ImageCounts
    analysed: Positions
    all_images: Positions


class ImageFacts(NamedTuple):
    """What decides whether n images count, apart from their truth.

    Attributes:
        flags: Shape (n,), index into `NOT_COUNTED` of the first of these flags that the image has;
            2, their number, where it has none.
        pictures: Shape (n,), equal numbers for equal image hashes, from 0; -1 where unknown.
        instances: Shape (n,), equal numbers where SOP Instance UID and frame number are equal,
            from 0; -1 where the UID is unknown.
    """

    flags: npt.NDArray[np.int8]
    pictures: Positions
    instances: Positions

    @classmethod
    def read(cls, results: Results, rows: Positions) -> "ImageFacts":
        """Read flags, image hashes and SOP Instance UIDs of some rows of a table, as numbers.

        Args:
            results: The table, in its file or as a DataFrame.
            rows: Shape (n,), row numbers, from 0, in any order.

        Returns:
            Entry i of each array is that of row `rows[i]`.

        Raises:
            TableError: The table is damaged, or `results` is a DataFrame that lacks a column.
        """
        codes = (
            results.read(["image_flags"])["image_flags"].iloc[rows].reset_index(drop=True).explode()
        )
        flags = np.full(len(rows), len(NOT_COUNTED), np.int8)
        for number, flag in reversed([*enumerate(NOT_COUNTED)]):
            flags[codes.index[codes == flag.value]] = number
        pictures = pd.factorize(results.read(["image_hash"])["image_hash"].iloc[rows])[0]
        columns = results.read(["sop_instance_uid", "frame"]).iloc[rows]
        uids = pd.factorize(columns["sop_instance_uid"])[0]
        frames = columns["frame"].fillna(0).to_numpy(np.int64)
        instances = np.where(uids < 0, -1, uids * (frames.max(initial=0) + 1) + frames)
        return cls(flags, pictures, pd.factorize(pd.Series(instances).where(uids >= 0))[0])


def equal_images(facts: Sequence[ImageFacts]) -> Positions:
    """Number n images so that equal ones have equal numbers.

    Two images are equal if they have the same number (not -1) in `pictures` or in `instances`, or
    if both are equal to a third.

    Args:
        facts: The facts of the same n images in one or several tables; images that are equal in
            one of the tables are equal.

    Returns:
        Shape (n,), numbers from 0 by first occurrence.
    """
    n = len(facts[0].flags)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for keys in (key for of in facts for key in (of.pictures, of.instances)):
        known = np.flatnonzero(keys >= 0)
        start = np.empty(int(keys.max(initial=-1)) + 1, np.int64)
        start[keys[known[::-1]]] = known[::-1]
        first.append(start[keys[known]])
        second.append(known)
    ends = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), (n, n))
    groups: Positions = pd.factorize(connected_components(graph, directed=False)[1])[0]
    return groups


def count_images(
    facts: Sequence[ImageFacts],
    classes: ClassNumbers | None,
    splits: ClassNumbers | None,
    *,
    keep_copies: bool = False,
    keep_flagged: bool = False,
) -> CountedImages:
    """Choose which of n scored images count in figures, and count the others by the reason.

    An image is left out for the first of these reasons that holds: its true class is unknown;
    it is not on the side `test` of the split, and an image of known class is; it has a flag of
    `NOT_COUNTED`; an image before it counts already and is equal to it.

    Args:
        facts: The facts of the images in one or several tables: an image is flagged if one of the
            tables flags it, and equal to another if it is equal in one of them.
        classes: Shape (n,), true class indices, `UNKNOWN` where not known; None without a truth:
            then no image is left out for its class.
        splits: Shape (n,), indices into `SPLITS`, or `UNKNOWN`; None without a truth.
        keep_copies: Whether copies count.
        keep_flagged: Whether images with a flag of `NOT_COUNTED` count.
    """
    n = len(facts[0].flags)
    splits = np.full(n, UNKNOWN, np.int16) if splits is None else splits
    known = np.ones(n, bool) if classes is None else classes != UNKNOWN
    is_test = splits == SPLITS.index("test")
    only_test = bool((known & is_test).any())
    all_images = known & is_test if only_test else known
    flags = np.min([of.flags for of in facts], axis=0)
    usual = all_images if keep_flagged else all_images & (flags == len(NOT_COUNTED))
    equal = equal_images(facts)
    doubled = np.zeros(n, bool)
    doubled[usual] = pd.Series(equal[usual]).duplicated()
    analysed = usual if keep_copies else usual & ~doubled
    counts = ImageCounts(
        scored=n,
        unlabelled=n - int(known.sum()),
        aside=_sides(splits[known & ~all_images]),
        flagged=_flagged(flags[all_images & ~usual]),
        copies=_copies(facts, usual & ~analysed),
        analysed=int(analysed.sum()),
        side="test" if only_test else None,
        not_held_out=int((analysed & (splits != UNKNOWN) & ~is_test).sum()),
        shared_uids=int(np.any([_shared_uids(of, usual) for of in facts], axis=0).sum()),
        contradictions=0 if classes is None else _contradictions(equal[usual], classes[usual]),
    )
    return CountedImages(counts, np.flatnonzero(analysed), np.flatnonzero(all_images))


def _sides(splits: ClassNumbers) -> tuple[ExclusionStep, ...]:
    names = {UNKNOWN: "no side of the split"} | dict(enumerate(SPLITS))
    counts = {name: int((splits == number).sum()) for number, name in names.items()}
    return _steps(dict.fromkeys(counts, "not analysed, as the labels name a side test"), counts)


def _flagged(flags: npt.NDArray[np.int8]) -> tuple[ExclusionStep, ...]:
    counts = {flag.value: int((flags == number).sum()) for number, flag in enumerate(NOT_COUNTED)}
    return _steps({flag.value: flag.meaning for flag in NOT_COUNTED}, counts)


def _copies(
    facts: Sequence[ImageFacts], copies: npt.NDArray[np.bool_]
) -> tuple[ExclusionStep, ...]:
    """Count the copies that have the picture of another image, and those with its UID alone."""
    same = np.any([_occurs_again(of.pictures) for of in facts], axis=0) & copies
    counts = {"same_picture": int(same.sum()), "same_uid": int((copies & ~same).sum())}
    meanings = {
        "same_picture": "The network’s input is that of another scored image.",
        "same_uid": "Another image has the same UID, with another picture.",
    }
    return _steps(meanings, counts)


def _occurs_again(numbers: Positions) -> npt.NDArray[np.bool_]:
    return np.asarray(pd.Series(numbers).duplicated(keep=False) & (numbers >= 0))


def _shared_uids(facts: ImageFacts, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of some images share their UID and frame number with another picture among them."""
    shared = np.zeros(len(among), bool)
    some = pd.DataFrame({"instance": facts.instances, "picture": facts.pictures})[among]
    some = some[some["instance"].duplicated(keep=False) & (some["instance"] >= 0)]
    shared[some.index[some.groupby("instance")["picture"].transform("nunique") > 1]] = True
    return shared


def _contradictions(equal: Positions, classes: ClassNumbers) -> int:
    """Count the groups of equal images that have several classes."""
    some = pd.DataFrame({"equal": equal, "class": classes})
    some = some[some["equal"].duplicated(keep=False)]
    return int((some.groupby("equal")["class"].nunique() > 1).sum())


def _steps(meanings: Mapping[str, str], counts: Mapping[str, int]) -> tuple[ExclusionStep, ...]:
    return tuple(ExclusionStep(name, meanings[name], n) for name, n in counts.items() if n)


def as_bits(hashes: "pd.Series[str]") -> npt.NDArray[np.uint64]:
    """Convert difference hashes from texts of hexadecimal digits to 64-bit numbers.

    Args:
        hashes: The column `dhash` of n rows, each of 16 hexadecimal digits; null becomes 0.

    Returns:
        Shape (n,), uint64.

    Raises:
        TableError: A text is not 16 lower-case hexadecimal digits.
    """
    texts = hashes.fillna("0" * 16).astype("string")
    if not texts.str.fullmatch("[0-9a-f]{16}").all():
        raise TableError("the table is damaged: a dhash is not 16 hexadecimal digits")
    return np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64)


def near_pairs(
    hashes: npt.NDArray[np.uint64], logits: npt.NDArray[np.float32]
) -> tuple[Positions, bool]:
    """Find pairs of images whose difference hashes and logits are nearly equal.

    The hashes differ in at most `MOST_BITS` bits, and each logit, less the mean of its image's
    logits, by at most `MOST_APART`: chests of one build agree in the hash alone. Of 600 pairs of a
    film with copies that were encoded anew, rescaled or brightened that finds two in three, and one
    false pair among the 79,800 of 400 films of different persons.

    Two such hashes agree in at least three of six blocks of bits. For each of the twenty choices of
    three blocks the hashes are sorted by these blocks, so that hashes which agree in them lie
    together: no pair is missed, in near-linear time. But where very many hashes agree in three
    blocks, each is compared only with the next ones, at least 32.

    Args:
        hashes: Shape (n,), 64-bit difference hashes.
        logits: Shape (n, classes).

    Returns:
        Shape (pairs, 2), positions in `hashes`, the smaller first, at most 200,000 pairs; and
        whether no pair can be missing.

    Source: Manku, Jain and Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007.
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
