"""Copies: every near pair that a comparison of all with all finds."""

import numpy as np

from cxrbatch.reports.matching import find_copies
from cxrbatch.results.counting import MOST_APART, MOST_BITS, near_pairs


def test_near_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    for row in range(0, 400, 4):
        for bit in rng.choice(64, int(rng.integers(0, 5)), replace=False):
            hashes[row] = hashes[row + 1] ^ np.uint64(1 << int(bit)) if bit % 2 else hashes[row]
        flips = rng.choice(64, int(rng.integers(0, 5)), replace=False)
        hashes[row + 2] = hashes[row] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    logits = rng.normal(scale=0.1, size=(400, 3)).astype(np.float32)
    centred = logits - logits.mean(axis=1, keepdims=True)
    alike = np.abs(centred[:, None] - centred[None]).max(axis=2) <= MOST_APART
    assert not alike.all()
    expected = np.argwhere(np.triu((distance <= MOST_BITS) & alike, 1))
    found, complete = near_pairs(hashes, logits)
    assert complete
    assert len(expected) > 30
    assert np.array_equal(found, expected)


def test_a_crowd_of_one_hash_is_bounded_and_said_to_be() -> None:
    found, complete = near_pairs(np.zeros(20_000, np.uint64), np.zeros((20_000, 2), np.float32))
    assert not complete
    assert len(found) <= 200_000


def test_equal_pictures_with_two_truths_come_first() -> None:
    copies = find_copies(
        np.array([0, 1, 0, 2, 1, 3, 0]),
        np.array([0, 1, 0, 2, 4, -1, 0]),
        np.array([0, 2**40 - 1, 0, 1, 2**40 - 1, 0, 0], np.uint64),
        logits=np.zeros((7, 2), np.float32),
        rows=np.arange(10, 17),
        truth=np.array([0, 0, 0, 1, 1, 1, -1], np.int16),
        predicted=np.array([0, 0, 1, 1, 1, 1, 0], np.int16),
        classes=("A", "B"),
    )
    assert (copies.groups, copies.images, copies.conflicts) == (2, 5, 1)
    assert [group.rows for group in copies.listed] == [(12, 15), (11, 13, 17)]
    assert [group.pictures for group in copies.listed] == [2, 1]
    assert [group.labels for group in copies.listed] == [("A", "B"), ("A",)]
    assert (copies.near_pairs, copies.near_conflicts) == (1, 1)
    assert (copies.near_listed[0].rows, copies.near_listed[0].bits) == ((11, 14), 1)
