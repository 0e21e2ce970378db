"""Heat maps lie where the network saw what they mark, on pictures with square pixels."""

import numpy as np
import pytest

from cxrbatch.model.prediction import (
    HEAT_COLOUR,
    grey_picture,
    heat_picture,
    overlay_picture,
    place_heatmap,
)
from cxrbatch.reading.display import GreyImage

CORNERS = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)


def black(rows: int, columns: int, *, aspect: float = 1.0) -> GreyImage:
    return GreyImage(np.zeros((rows, columns), np.float32), pixel_aspect=aspect)


def test_a_map_of_a_squeezed_image_covers_all_of_it() -> None:
    placed = place_heatmap(CORNERS, black(60, 100), "squeeze")
    assert placed.shape == (60, 100)
    assert placed[0, 0] == 1.0
    assert placed[-1, -1] == placed[0, -1] == placed[-1, 0] == 0.0


@pytest.mark.parametrize(("rows", "columns"), [(50, 100), (100, 50)])
def test_of_a_padded_image_the_borders_are_cropped(rows: int, columns: int) -> None:
    rings = np.ones((4, 4), np.float32)
    rings[1:3, 1:3] = 0
    image = black(rows, columns)
    placed = place_heatmap(rings, image, "pad")
    assert placed.shape == image.shape
    # The image fills the middle half of the square along its shorter axis.
    assert placed[rows // 2, columns // 2] == 0.0
    along = placed[rows // 2] if columns > rows else placed[:, columns // 2]
    across = placed[:, columns // 2] if columns > rows else placed[rows // 2]
    assert along[0] == along[-1] == 1.0
    assert across.max() < 1.0


def test_a_padded_map_is_placed_on_pixels_that_are_not_square() -> None:
    wide = place_heatmap(CORNERS, black(50, 100), "pad")
    tall_pixels = place_heatmap(CORNERS, black(50, 200, aspect=2.0), "pad")
    np.testing.assert_allclose(tall_pixels[:, ::2], wide, atol=0.02)


def test_pictures_have_square_pixels() -> None:
    assert grey_picture(black(50, 200, aspect=2.0)).size == (100, 50)
    assert overlay_picture(black(50, 200, aspect=2.0), CORNERS, "squeeze").size == (100, 50)
    assert grey_picture(black(50, 200, aspect=0.5), longest=100).size == (100, 12)


def test_heat_is_strongest_where_the_map_is_largest() -> None:
    picture = np.asarray(overlay_picture(black(40, 40), 7 * CORNERS, "squeeze"))
    expected = np.rint(0.6 * np.array(HEAT_COLOUR))
    assert np.array_equal(picture[0, 0], expected)
    assert not picture[-1, -1].any()
    layer = np.asarray(heat_picture(CORNERS, edge=40, opacity=0.5))
    assert layer[0, 0].tolist() == [*HEAT_COLOUR, 128]
    assert layer[-1, -1, 3] == 0


def test_the_layer_of_a_padded_image_is_cropped_to_its_picture() -> None:
    assert heat_picture(CORNERS, edge=96, padded=(320, 160)).size == (96, 48)
    assert heat_picture(CORNERS, edge=96, padded=(1, 320)).size == (1, 96)


def test_a_map_without_activation_leaves_the_image() -> None:
    image = GreyImage(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    drawn = np.asarray(overlay_picture(image, np.zeros((2, 2), np.float32), "squeeze"))
    assert np.array_equal(drawn[..., 0], np.asarray(grey_picture(image)))
