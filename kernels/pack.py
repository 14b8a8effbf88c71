"""Constant operands in the layout that the kernels read; numpy, at compile time.

Weights int8 [N, K] become int8 [N/columns, K/neighbours, columns * neighbours], zeros past the end: a panel of columns
is contiguous, and its next bytes in K, a few of each column, lie together. They stay int8 (the kernel extends them on
load), and on x86-64 they lie the same for all instruction sets.

Weights that all fit 4 bits (`weight_bits`) take half of that: a byte holds what would lie at its place in two
neighbouring steps, the first in its low half (`intvit.nibbles`), so that a load has operands of both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intvit import nibbles
from intvit.kernels.isa import Isa

MOST_DEPTH = 1 << 16
"""The largest K for which sums of 16 times the weights fit int32 (`product`)."""


def round_up(value: int, step: int) -> int:
    """The least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def weight_bits(matrix: NDArray[np.int8]) -> int:
    """How many bits the kernels are given of each weight: 4 if those hold all of an [N, K] matrix, else 8."""
    return 4 if nibbles.fit(matrix) and matrix.shape[1] <= MOST_DEPTH else 8


def packed_shape(n: int, k: int, isa: Isa, bits: int = 8) -> tuple[int, int, int]:
    """Shape of the packed weights of an [n, k] matrix: at least two loads of K, `function.scratch` says why."""
    loads = max(2, -(-round_up(k, isa.depth) // (isa.neighbours * (8 // bits))))
    return (-(-n // isa.columns), loads, isa.columns * isa.neighbours)


def weights(matrix: NDArray[np.int8], isa: Isa, bits: int = 8) -> NDArray[np.int8]:
    """int8 [N, K] to int8 [N/columns, K/neighbours, columns * neighbours]; with 4 `bits` half as many steps of K.

    Raises `TypeError` for what is no int8 matrix, `ValueError` where weights do not fit 4 bits that are asked for.
    """
    if matrix.dtype != np.int8 or matrix.ndim != 2:
        raise TypeError(f"weights are an int8 matrix, not {matrix.dtype} with {matrix.ndim} dimensions")
    n, k = matrix.shape
    panels, loads, bytes_of_step = packed_shape(n, k, isa, bits)
    steps = loads * (8 // bits)
    padded = np.zeros((panels * isa.columns, steps * isa.neighbours), np.int8)
    padded[:n, :k] = matrix
    blocks = padded.reshape(panels, isa.columns, steps, isa.neighbours).transpose(0, 2, 1, 3)
    found = blocks.reshape(panels, steps, bytes_of_step)
    return np.ascontiguousarray(found) if bits == 8 else nibbles.together(found[:, ::2], found[:, 1::2])


def bias(vector: NDArray[np.int32], matrix: NDArray[np.int8], isa: Isa) -> NDArray[np.generic]:
    """int32 [N] as the operand with which the sums of a product with `matrix` begin: less what `isa.zero` adds to them.

    Modulo 2^32, as the sums themselves are: what they come to is proved to fit.
    """
    start = vector.astype(np.int64) - isa.zero * matrix.sum(1, dtype=np.int64)
    return channels(start.astype(np.int32), len(vector), "int32", isa)


def channels(vector: ArrayLike, n: int, dtype: str, isa: Isa) -> NDArray[np.generic]:
    """A value per column (a scalar is repeated), padded with zeros to whole panels, as an operand of an epilogue."""
    values = np.broadcast_to(np.asarray(vector), (n,))
    kind = np.dtype(dtype)
    if values.size and not (np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max):
        raise ValueError(f"a channel operand does not fit {dtype}: {values.min()}..{values.max()}")
    padded = np.zeros(round_up(n, isa.columns), kind)
    padded[:n] = values
    return padded
