"""The recipe against numpy: exact area averages, linear growth, hashes that see every change."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from cxrbatch.model.preprocessing import (
    MAX_SIZE,
    MIN_SIZE,
    Recipe,
    area_resize,
    difference_hash,
    image_hash,
)
from cxrbatch.reading.display import GreyImage

CARD = {"size": 224, "geometry": "squeeze", "no_voi": "robust", "version": 1}


def noise(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns), dtype=np.float32)


def overlaps(source: int, target: int) -> np.ndarray:
    """Share of each source pixel in each target pixel, shape (target, source); rows sum to 1."""
    edges = np.arange(target + 1) * source / target
    starts = np.maximum(edges[:-1, None], np.arange(source)[None])
    ends = np.minimum(edges[1:, None], np.arange(1, source + 1)[None])
    return np.clip(ends - starts, 0.0, None) * target / source


def area_average(display: np.ndarray, rows: int, columns: int) -> np.ndarray:
    down = overlaps(display.shape[0], rows) @ display.astype(np.float64)
    return down @ overlaps(display.shape[1], columns).T


@pytest.mark.parametrize("shape", [(64, 64), (96, 128), (320, 32), (32, 256)])
def test_whole_ratios_are_block_means(shape: tuple[int, int]) -> None:
    display = noise(*shape)
    blocks = display.reshape(32, shape[0] // 32, 32, shape[1] // 32)
    resized = area_resize(display, rows=32, columns=32)
    np.testing.assert_allclose(resized, blocks.mean(axis=(1, 3), dtype=np.float64), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "target"),
    [((299, 299), 224), ((97, 50), 32), ((33, 35), 32), ((101, 503), 64), ((1000, 731), 224)],
)
def test_any_ratio_weighs_pixels_by_the_area_they_cover(
    shape: tuple[int, int], target: int
) -> None:
    display = noise(*shape)
    resized = area_resize(display, rows=target, columns=target)
    np.testing.assert_allclose(resized, area_average(display, target, target), atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(5, 10), (40, 64), (33, 100), (1, 32), (2, 7)])
def test_growth_is_linear(source: int, target: int) -> None:
    display = noise(source, source)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    tall = np.stack([np.interp(centres, np.arange(source), column) for column in display.T], 1)
    expected = np.stack([np.interp(centres, np.arange(source), row) for row in tall])
    resized = area_resize(display, rows=target, columns=target)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_one_axis_may_grow_while_the_other_shrinks() -> None:
    display = noise(128, 20)
    resized = area_resize(display, rows=32, columns=40)
    means = display.reshape(32, 4, 20).mean(axis=1)
    centres = (np.arange(40) + 0.5) / 2 - 0.5
    expected = np.stack([np.interp(centres, np.arange(20), row) for row in means])
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_equal_size_changes_nothing() -> None:
    display = noise(64, 64)
    assert np.array_equal(area_resize(display, rows=64, columns=64), display)


def test_resize_turns_nothing_round() -> None:
    display = noise(70, 90)
    resized = area_resize(display, rows=32, columns=48)
    flipped = area_resize(display[::-1, ::-1], rows=32, columns=48)
    np.testing.assert_allclose(flipped, resized[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(area_resize(display.T, rows=48, columns=32), resized.T, atol=1e-5)


def test_prepare_rounds_to_255_levels_and_clips() -> None:
    display = np.full((32, 32), 0.5, np.float32)
    display[0, :4] = [-0.5, 1.5, 0.2, 254.6 / 255.0]
    prepared = Recipe(size=32).prepare(GreyImage(display))
    assert prepared.dtype == np.uint8
    assert prepared[0, :4].tolist() == [0, 255, 51, 255]
    assert prepared[1, 0] == 128  # 127.5 to the even neighbour


def test_squeeze_fills_the_square() -> None:
    prepared = Recipe(size=32).prepare(GreyImage(np.ones((64, 128), np.float32)))
    assert prepared.shape == (32, 32)
    assert prepared.min() == 255


@pytest.mark.parametrize("shape", [(64, 128), (128, 64)])
def test_pad_adds_black_borders_on_both_sides(shape: tuple[int, int]) -> None:
    prepared = Recipe(size=32, geometry="pad").prepare(GreyImage(np.ones(shape, np.float32)))
    expected = np.zeros((32, 32), np.uint8)
    expected[8:24] = 255
    assert np.array_equal(prepared, expected if shape[0] < shape[1] else expected.T)


def test_pad_and_squeeze_agree_on_a_square() -> None:
    display = noise(80, 80)
    assert np.array_equal(
        Recipe(size=32).prepare(GreyImage(display)),
        Recipe(size=32, geometry="pad").prepare(GreyImage(display)),
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (31, 33)])
@pytest.mark.parametrize("geometry", ["squeeze", "pad"])
def test_prepare_takes_any_shape(shape: tuple[int, int], geometry: str) -> None:
    recipe = Recipe.from_card({**CARD, "size": 32, "geometry": geometry})
    assert recipe.prepare(GreyImage(np.ones(shape, np.float32))).shape == (32, 32)


def test_prepare_leaves_its_argument_alone() -> None:
    display = noise(50, 40)
    before = display.copy()
    Recipe(size=32, geometry="pad").prepare(GreyImage(display))
    assert np.array_equal(display, before)


@pytest.mark.parametrize("shape", [(300, 200), (64, 65), (97, 1000), (40, 33)])
@pytest.mark.parametrize("geometry", ["squeeze", "pad"])
def test_blocks_give_the_bits_of_the_whole(shape: tuple[int, int], geometry: str) -> None:
    cells = np.random.default_rng(3).integers(0, 4096, shape).astype(np.uint16)
    table = np.random.default_rng(4).random(1 << 16, dtype=np.float32)
    recipe = Recipe.from_card({**CARD, "size": 32, "geometry": geometry})
    whole = table[cells]
    if geometry == "pad":
        edge = max(shape)
        top, left = (edge - shape[0]) // 2, (edge - shape[1]) // 2
        padded = np.zeros((edge, edge), np.float32)
        padded[top : top + shape[0], left : left + shape[1]] = whole
        whole = padded
    expected = np.rint(area_resize(whole, rows=32, columns=32) * 255).astype(np.uint8)
    assert np.array_equal(recipe.prepare(GreyImage(cells, table)), expected)


@pytest.mark.parametrize("aspect", [2.0, 0.5])
def test_pad_keeps_the_shape_of_what_was_imaged(aspect: float) -> None:
    """A square, imaged with pixels twice as high as wide or the other way round."""
    shape = (64, 128) if aspect > 1 else (128, 64)
    image = GreyImage(np.ones(shape, np.float32), pixel_aspect=aspect)
    assert Recipe(size=32, geometry="pad").prepare(image).min() == 255
    assert Recipe(size=32).prepare(image).min() == 255
    image = GreyImage(np.ones((128, 128), np.float32), pixel_aspect=aspect)
    filled = Recipe(size=32, geometry="pad").prepare(image) == 255
    assert (filled.any(axis=1).sum(), filled.any(axis=0).sum()) == (
        (32, 16) if aspect > 1 else (16, 32)
    )


def test_recipe_survives_json() -> None:
    recipe = Recipe(size=160, geometry="pad", no_voi="full_range")
    assert Recipe.from_card(json.loads(json.dumps(recipe.to_card()))) == recipe


def test_sha256_is_that_of_the_canonical_json() -> None:
    text = '{"geometry":"squeeze","no_voi":"robust","size":224,"version":1}'
    assert Recipe(size=224).sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_sha256_changes_with_every_field() -> None:
    recipe = Recipe(size=224)
    others = [
        replace(recipe, size=225),
        replace(recipe, geometry="pad"),
        replace(recipe, no_voi="full_range"),
    ]
    # Only one version can be built today; the hash must see it all the same.
    later = replace(recipe)
    object.__setattr__(later, "version", 2)
    assert len({r.sha256 for r in (recipe, later, *others)}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"size": MIN_SIZE - 1},
        {"size": MAX_SIZE + 1},
        {"size": 10**9},
        {"size": -224},
        {"size": 224.0},
        {"size": "224"},
        {"size": True},
        {"size": None},
        {"geometry": "crop"},
        {"geometry": ["squeeze"]},
        {"geometry": None},
        {"no_voi": "guess"},
        {"no_voi": {}},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"extra": 1},
    ],
    ids=str,
)
def test_hostile_recipes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"recipe|size|geometry|VOI"):
        Recipe.from_card({**CARD, **change})


@pytest.mark.parametrize("field", list(CARD))
def test_recipe_with_a_field_missing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="fields"):
        Recipe.from_card({name: value for name, value in CARD.items() if name != field})


def test_image_hash_is_a_truncated_sha256() -> None:
    prepared = np.arange(4, dtype=np.uint8).reshape(2, 2)
    expected = hashlib.sha256(b"2x2:" + bytes([0, 1, 2, 3])).hexdigest()[:32]
    assert image_hash(prepared) == expected


def test_image_hash_depends_on_pixels_alone() -> None:
    grey = (noise(64, 64) * 255).astype(np.uint8)
    view = np.repeat(grey, 2, axis=1)[:, ::2]
    assert not view.flags.c_contiguous
    assert image_hash(view) == image_hash(grey) == image_hash(np.asfortranarray(grey))
    changed = grey.copy()
    changed[63, 63] ^= 1
    assert image_hash(changed) != image_hash(grey)
    assert image_hash(grey.T) != image_hash(grey)


def blocks(thumbnail: np.ndarray) -> np.ndarray:
    """Blow an 8 x 9 thumbnail up to 72 x 72, each value a block of 9 x 8 pixels."""
    return np.kron(thumbnail, np.ones((9, 8))).astype(np.uint8)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (np.arange(9) * 20, 2**64 - 1),
        (np.arange(9)[::-1] * 20, 0),
        (np.full(9, 77), 0),
        (np.array([0, 9, 0, 9, 0, 9, 0, 9, 0]), 0xAAAAAAAAAAAAAAAA),
    ],
    ids=["rising", "falling", "flat", "alternating"],
)
def test_difference_hash_of_known_rows(row: np.ndarray, expected: int) -> None:
    assert difference_hash(blocks(np.tile(row, (8, 1)))) == expected


def test_top_left_pair_is_the_highest_bit_and_bottom_right_the_lowest() -> None:
    thumbnail = np.zeros((8, 9))
    thumbnail[0, 1:] = 100
    thumbnail[7, 8] = 100
    assert difference_hash(blocks(thumbnail)) == 2**63 + 1


def test_difference_hash_of_a_random_thumbnail() -> None:
    thumbnail = np.random.default_rng(5).integers(0, 256, (8, 9))
    bits = "".join("1" if b > a else "0" for r in thumbnail for a, b in pairwise(r))
    assert difference_hash(blocks(thumbnail)) == int(bits, 2)


def smooth(seed: int) -> np.ndarray:
    return area_resize(noise(6, 6, seed=seed), rows=96, columns=96)


def test_near_duplicates_are_nearer_than_other_images() -> None:
    near, far = [], []
    for seed in range(20):
        display = smooth(seed)
        grain = noise(96, 96, seed=100 + seed) - 0.5
        copy = (display * 0.9 + 0.03 + 0.02 * grain) * 255
        hashes = [difference_hash(g.astype(np.uint8)) for g in (display * 255, copy)]
        other = difference_hash((smooth(seed + 50) * 255).astype(np.uint8))
        near.append((hashes[0] ^ hashes[1]).bit_count())
        far.append((hashes[0] ^ other).bit_count())
    assert max(near) <= 6
    assert min(far) > max(near)
