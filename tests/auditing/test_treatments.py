"""Treatments take away what they say and nothing else, and give the same pixels each time."""

import numpy as np
import pytest

from cxrbatch.auditing.treatments import (
    BORDER,
    BOX,
    COARSE_ONLY,
    CORNERS,
    EDGES,
    FILLS,
    HIDDEN,
    LUNGS_ONLY,
    MIRRORED,
    SILHOUETTE,
    TREATMENTS,
    Films,
    LungFields,
    Treatment,
)

BLACK, MEAN, NOISE, BLURRED = FILLS


@pytest.fixture
def films() -> Films:
    return np.random.default_rng(3).integers(0, 256, (3, 50, 50), np.uint8)


@pytest.fixture
def lungs() -> LungFields:
    field = np.zeros((3, 50, 50), np.bool_)
    field[:, 12:35, 10:20] = field[:, 12:35, 28:41] = True
    return field


@pytest.mark.parametrize("treatment", TREATMENTS, ids=lambda t: t.name)
def test_a_treatment_changes_copies_and_gives_the_same_each_time(
    treatment: Treatment, films: Films, lungs: LungFields
) -> None:
    assert treatment in TREATMENTS
    before = films.copy()
    once = treatment.apply(films, lungs)
    assert np.array_equal(films, before)
    assert (once.shape, once.dtype) == (films.shape, np.dtype(np.uint8))
    assert np.array_equal(once, treatment.apply(films, lungs))
    # A film is treated alike in any company: batches do not count.
    alone = [treatment.apply(films[i : i + 1], lungs[i : i + 1])[0] for i in range(3)]
    assert np.array_equal(once, np.stack(alone))


@pytest.mark.parametrize("fill", FILLS, ids=lambda t: t.name)
def test_fills_change_the_lungs_alone(fill: Treatment, films: Films, lungs: LungFields) -> None:
    filled = fill.apply(films, lungs)
    assert np.array_equal(filled[~lungs], films[~lungs])
    assert not np.array_equal(filled[lungs], films[lungs])


@pytest.mark.parametrize("fill", [BLACK, MEAN, NOISE], ids=lambda t: t.name)
def test_fills_but_the_blurred_know_nothing_of_the_lungs(
    fill: Treatment, films: Films, lungs: LungFields
) -> None:
    """Films that differ in the lungs alone become equal, but for noise, which is drawn anew."""
    other = np.where(lungs, 255 - films, films).astype(np.uint8)
    one, two = fill.apply(films, lungs), fill.apply(other, lungs)
    if fill is NOISE:
        assert abs(one[lungs].mean() - two[lungs].mean()) < 10
        assert abs(one[lungs].std() - two[lungs].std()) < 10
    else:
        assert np.array_equal(one, two)
    assert (BLURRED.apply(films, lungs) != BLURRED.apply(other, lungs)).any()


def test_the_mean_is_that_of_the_film_outside_the_lungs(films: Films, lungs: LungFields) -> None:
    filled = MEAN.apply(films, lungs)
    for film, field, result in zip(films, lungs, filled, strict=True):
        assert (result[field] == round(float(film[~field].mean()))).all()


def test_lungs_only_and_silhouette(films: Films, lungs: LungFields) -> None:
    only = LUNGS_ONLY.apply(films, lungs)
    assert np.array_equal(only[lungs], films[lungs])
    assert not only[~lungs].any()
    assert np.array_equal(SILHOUETTE.apply(films, lungs), lungs * np.uint8(255))


def test_the_box_holds_both_lungs_and_what_is_between(films: Films, lungs: LungFields) -> None:
    boxed = BOX.apply(films, lungs)
    assert not boxed[:, 12:35, 10:41].any()
    outside = np.ones_like(lungs)
    outside[:, 12:35, 10:41] = False
    assert np.array_equal(boxed[outside], films[outside])
    nothing = np.zeros_like(lungs)
    assert np.array_equal(BOX.apply(films, nothing), films)


def test_border_is_edges_and_corners() -> None:
    white = np.full((1, 50, 50), 200, np.uint8)
    border, edges, corners = (t.apply(white, None)[0] > 0 for t in (BORDER, EDGES, CORNERS))
    assert border.sum() == 50**2 - 40**2
    assert corners.sum() == 4 * 10**2
    assert edges.sum() == 4 * 5 * 30
    assert not (edges & corners).any()
    assert np.array_equal(edges | (border & corners), border)


def test_corners_are_black_and_markers_painted_over() -> None:
    film = np.full((1, 50, 50), 100, np.uint8)
    film[0, 2:5, 2:5] = 255
    film[0, 20:23, 3:6] = 250
    film[0, 24:27, 24:27] = 250
    hidden = HIDDEN.apply(film, None)[0]
    assert not hidden[:10, :10].any()
    assert (hidden[20:23, 3:6] == 100).all()
    assert (hidden[24:27, 24:27] == 250).all(), "what lies in the middle is no marker"
    large = np.full((1, 50, 50), 100, np.uint8)
    large[0, 15:35, 1:9] = 250
    assert (HIDDEN.apply(large, None)[0, 20:30, 2:8] == 250).all()


def test_a_film_of_one_level_has_no_marker() -> None:
    white = np.full((1, 50, 50), 255, np.uint8)
    hidden = HIDDEN.apply(white, None)[0]
    assert (hidden[:, 10:40] == 255).all()


def test_mirrored_twice_is_the_film(films: Films) -> None:
    mirrored = MIRRORED.apply(films, None)
    assert np.array_equal(mirrored[:, :, 0], films[:, :, -1])
    assert np.array_equal(MIRRORED.apply(mirrored, None), films)


def test_the_coarse_film_keeps_means_of_sixteen_parts() -> None:
    film = np.random.default_rng(0).integers(0, 256, (1, 64, 64), np.uint8)
    coarse = COARSE_ONLY.apply(film, None)[0].astype(float)
    assert coarse.mean() == pytest.approx(film.mean(), abs=1)
    spectrum = np.abs(np.fft.fft2(coarse - coarse.mean()))
    assert spectrum[:8, :8].sum() > 10 * spectrum[16:33, 16:33].sum()
