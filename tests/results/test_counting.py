"""Which images count: equal ones once, flagged ones not, each image in one count."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from cxrbatch.results.counting import (
    CountedImages,
    ImageCounts,
    ImageFacts,
    count_images,
    equal_images,
)
from cxrbatch.results.frames import Results
from cxrbatch.results.truth import UNKNOWN

NONE = 2
"""The number of an image without a flag."""
LATERAL, NO_CHEST = 0, 1
TRAIN, VAL, TEST = 0, 1, 2


def facts_of(
    pictures: list[int], instances: list[int] | None = None, flags: list[int] | None = None
) -> ImageFacts:
    n = len(pictures)
    return ImageFacts(
        np.array(flags or [NONE] * n, np.int8),
        np.array(pictures, np.int64),
        np.array(instances or [-1] * n, np.int64),
    )


def counted(
    facts: ImageFacts,
    classes: list[int] | None = None,
    splits: list[int] | None = None,
    **keep: bool,
) -> CountedImages:
    n = len(facts.pictures)
    return count_images(
        [facts],
        np.array(classes or [0] * n, np.int16),
        np.array(splits or [UNKNOWN] * n, np.int16),
        **keep,
    )


def steps(found: ImageCounts, name: str) -> Mapping[str, int]:
    return {step.name: step.count for step in getattr(found, name)}


def brute_force(facts: ImageFacts) -> list[int]:
    """The number of each image's group, by joining any two equal images until nothing changes."""
    n = len(facts.pictures)
    group = list(range(n))
    keys = (facts.pictures, facts.instances)
    changed = True
    while changed:
        changed = False
        for a in range(n):
            for b in range(n):
                if any(key[a] == key[b] >= 0 for key in keys) and group[a] != group[b]:
                    group[a] = group[b] = min(group[a], group[b])
                    changed = True
    return group


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_those_of_joining_any_two_equal_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    facts = facts_of(*(rng.integers(-1, 25, n).tolist() for _ in range(2)))
    expected = pd.factorize(np.array(brute_force(facts), np.int64))[0]
    assert equal_images([facts]).tolist() == expected.tolist()
    alone = [facts_of(facts.pictures.tolist()), facts_of([-1] * n, facts.instances.tolist())]
    assert equal_images(alone).tolist() == expected.tolist()


def test_how_many_count_does_not_depend_on_the_order_of_the_rows() -> None:
    # The first and the last are equal by way of the one between them alone.
    images = [(0, 0), (1, 0), (1, 1), (2, 2)]
    for order in permutations(images):
        pictures, instances = ([*values] for values in zip(*order, strict=True))
        found = counted(facts_of(pictures, instances))
        assert (found.counts.analysed, found.analysed[0]) == (2, 0)


def test_each_image_is_left_out_for_the_first_reason_that_holds() -> None:
    facts = facts_of(
        pictures=[0, 0, 0, 0, 0, 5, 6, 7, 8, 8],
        flags=[NONE, NONE, LATERAL, NONE, NONE, NO_CHEST, NONE, NONE, NONE, NONE],
        instances=[-1, -1, -1, -1, -1, -1, 6, 6, -1, -1],
    )
    classes = [UNKNOWN, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    splits = [TEST, TRAIN, TEST, TEST, TEST, TEST, TEST, TEST, TEST, TEST]
    found, n = counted(facts, classes, splits), len(classes)
    counts = found.counts
    assert counts.unlabelled == 1
    assert steps(counts, "aside") == {"train": 1}
    assert steps(counts, "flagged") == {"lateral": 1, "not_chest_tag": 1}
    assert steps(counts, "copies") == {"same_picture": 2, "same_uid": 1}
    assert found.analysed.tolist() == [3, 6, 8]
    assert found.all_images.tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (counts.side, counts.not_held_out) == ("test", 0)
    assert (counts.shared_uids, counts.contradictions) == (2, 1)
    left = [*counts.aside, *counts.flagged, *counts.copies]
    assert counts.scored == n == counts.unlabelled + counts.analysed + sum(s.count for s in left)


def test_what_is_kept_counts() -> None:
    facts = facts_of([0, 0, 1, 2], flags=[NONE, NONE, LATERAL, NONE])
    whole = [0, 1, 2, 3]
    for keep, expected in (
        ({}, [0, 3]),
        ({"keep_copies": True}, [0, 1, 3]),
        ({"keep_flagged": True}, [0, 2, 3]),
        ({"keep_copies": True, "keep_flagged": True}, whole),
    ):
        found = counted(facts, **keep)
        assert found.analysed.tolist() == expected
        assert found.all_images.tolist() == whole


def test_a_copy_whose_first_image_is_left_out_counts() -> None:
    facts = facts_of([0, 0, 0], flags=[LATERAL, NONE, NONE])
    assert counted(facts).analysed.tolist() == [1]
    assert counted(facts, [UNKNOWN, UNKNOWN, 0]).analysed.tolist() == [2]


def test_without_a_truth_no_image_is_left_out_for_it() -> None:
    found = count_images([facts_of([0, 0, 1])], None, None)
    assert (found.counts.unlabelled, found.analysed.tolist()) == (0, [0, 2])


def test_of_two_tables_a_flag_or_copy_of_one_is_enough() -> None:
    first, second = facts_of([0, 1, 2], flags=[NONE, LATERAL, NONE]), facts_of([7, 8, 7])
    for facts in ([first, second], [second, first]):
        found = count_images(facts, np.zeros(3, np.int16), np.full(3, UNKNOWN, np.int16))
        assert found.analysed.tolist() == [0]


def test_frames_of_one_file_are_no_copies_and_those_of_its_copy_are() -> None:
    frame = pd.DataFrame(
        {
            "image_hash": ["a", "b", "c", "d", "e"],
            "sop_instance_uid": ["1.2", "1.2", "1.2", None, None],
            "frame": [0, 1, 0, 0, 0],
            "image_flags": [[], ["lossy"], ["lossy", "not_chest_tag", "lateral"], [], None],
        }
    )
    frame.attrs = {"path": "t", "classes": ("A", "B"), "provenance": {}}
    facts = ImageFacts.read(Results(frame), np.array([0, 1, 2, 3, 4]))
    assert equal_images([facts]).tolist() == [0, 1, 0, 2, 3]
    assert facts.flags.tolist() == [NONE, NONE, LATERAL, NONE, NONE]
    turned = ImageFacts.read(Results(frame), np.array([2, 0]))
    assert (turned.flags.tolist(), equal_images([turned]).tolist()) == ([LATERAL, NONE], [0, 0])
