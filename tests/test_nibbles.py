"""Pairs of 4-bit integers in bytes: every pair comes back, and what does not fit is refused."""

import numpy as np
import pytest

from intvit import nibbles


def test_every_pair_comes_back() -> None:
    values = np.arange(-8, 8, dtype=np.int8)
    low, high = (x.copy() for x in np.meshgrid(values, values))
    packed = nibbles.together(low, high)
    assert packed.dtype == np.int8 and len(set(packed.ravel().tolist())) == 256
    for found, want in zip(nibbles.apart(packed), (low, high), strict=True):
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, want)


def test_every_byte_comes_back() -> None:
    packed = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(nibbles.together(*nibbles.apart(packed)), packed)


@pytest.mark.parametrize("value", [-128, -9, 8, 127])
def test_what_does_not_fit(value: int) -> None:
    fine, bad = np.array([-8, 7], np.int8), np.array([0, value], np.int8)
    assert nibbles.fit(fine) and nibbles.fit(np.zeros((0, 3), np.int8)) and not nibbles.fit(bad)
    for pair in ((fine, bad), (bad, fine)):
        with pytest.raises(ValueError, match="4 bits hold -8 to 7"):
            nibbles.together(*pair)
