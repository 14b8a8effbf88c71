"""Signed integers of 4 bits, two to a byte: `byte = (low & 15) | high << 4`. numpy alone."""

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = -8, 7
"""What 4 bits hold."""


def fit(values: NDArray[np.int8]) -> bool:
    """Whether every value fits 4 bits."""
    return bool(values.size == 0 or (values.min() >= LEAST and values.max() <= MOST))


def together(low: NDArray[np.int8], high: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 of one shape, all within 4 bits, as the low and the high halves of bytes. Raises `ValueError` for others."""
    if not (fit(low) and fit(high)):
        raise ValueError(f"4 bits hold {LEAST} to {MOST}")
    return (low & 15) | (high << 4)


def apart(packed: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """The low and the high halves of bytes, as int8."""
    return (packed << 4) >> 4, packed >> 4
