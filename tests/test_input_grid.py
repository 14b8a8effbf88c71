"""From normalized floats to pixels and back, without losing a bit."""

import numpy as np
import pytest

from intvit.errors import IntvitError
from intvit.input_grid import InputGrid
from intvit.preprocess import Preprocessing

SHAPE = (3, 16, 16)
GRID = InputGrid(
    (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225), SHAPE
)
EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)


def test_every_pixel_survives_the_way_through_float() -> None:
    normalized = GRID.normalized(EVERY_PIXEL)
    assert normalized.dtype == np.float32 and normalized.shape == (1, *SHAPE)
    assert np.array_equal(GRID.pixels(normalized), EVERY_PIXEL)
    assert np.array_equal(GRID.normalized(GRID.pixels(normalized)), normalized)


def test_raw_pixels_pass_as_they_are() -> None:
    assert np.array_equal(GRID.pixels(EVERY_PIXEL), EVERY_PIXEL)
    turned = np.asfortranarray(EVERY_PIXEL)
    assert GRID.pixels(turned).flags.c_contiguous


def test_pixels_of_a_preprocessing() -> None:
    preprocessing = Preprocessing(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    grid = InputGrid.of_pixels(preprocessing, SHAPE)
    expected = (EVERY_PIXEL.astype(np.float64) / 255 - 0.5) / [0.25, 0.5, 1.0]
    assert np.allclose(grid.normalized(EVERY_PIXEL), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_holds_tells_pixels_from_other_floats() -> None:
    assert GRID.holds(GRID.normalized(EVERY_PIXEL))
    assert not GRID.holds(np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32))
    assert not GRID.holds(GRID.normalized(EVERY_PIXEL) * 3)
    assert GRID.holds(np.zeros((0, *SHAPE), np.float32))


def test_a_range_has_256_steps_and_saturates() -> None:
    grid = InputGrid.of_range(-1.0, 2.0, (1, 1, 4))
    images = np.array([-5, -1, 2, 9], np.float32).reshape(1, 1, 1, 4)
    assert grid.pixels(images).flatten().tolist() == [0, 0, 255, 255]
    assert np.allclose(grid.normalized(grid.pixels(images)).flatten(), [-1, -1, 2, 2])
    assert InputGrid.of_range(0.5, 0.5, (1, 1, 1)).pixels(np.full((1, 1, 1, 1), 0.5, np.float32)).item() == 0


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((1, 3, 16, 16), np.uint8), r"uint8 images must be \[batch, 16, 16, 3\]"),
    (np.zeros((16, 16, 3), np.uint8), "uint8 images must be"),
    (np.zeros((1, 16, 16, 3), np.float32), r"float32 images must be \[batch, 3, 16, 16\]"),
    (np.zeros((3, 16, 16), np.float32), "float32 images must be"),
    (np.zeros((1, 3, 16, 16), np.float64), "cast them first"),
    (np.zeros((1, 3, 16, 16), np.int8), "not int8"),
    (np.full((1, 3, 16, 16), np.nan, np.float32), "NaN"),
    (np.full((1, 3, 16, 16), np.inf, np.float32), "inf"),
])  # fmt: skip
def test_refuses_other_arrays(images: np.ndarray, message: str) -> None:
    with pytest.raises(IntvitError, match=message):
        GRID.pixels(images)


def test_refuses_pixels_where_it_was_calibrated_on_floats() -> None:
    with pytest.raises(IntvitError, match="give float32"):
        InputGrid.of_range(0, 1, SHAPE).pixels(EVERY_PIXEL)
