"""Constant operands in the layout that the kernels read; numpy, at compile time.

Weights int8 [N, K] become int8 [N/columns, K/neighbours, columns * neighbours], zeros past the end: a panel of columns
is contiguous, and its next bytes in K, a few of each column, lie together. They stay int8 (the kernel extends them on
load), and on x86-64 they lie the same for all instruction sets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intvit.kernels.isa import Isa


def round_up(value: int, step: int) -> int:
    """The least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def packed_shape(n: int, k: int, isa: Isa) -> tuple[int, int, int]:
    """Shape of the packed weights of an [n, k] matrix: at least two steps, `function.scratch` says why."""
    steps = max(2, round_up(k, isa.depth) // isa.neighbours)
    return (-(-n // isa.columns), steps, isa.columns * isa.neighbours)


def weights(matrix: NDArray[np.int8], isa: Isa) -> NDArray[np.int8]:
    """int8 [N, K] to int8 [N/columns, K/neighbours, columns * neighbours]."""
    if matrix.dtype != np.int8 or matrix.ndim != 2:
        raise TypeError(f"weights are an int8 matrix, not {matrix.dtype} with {matrix.ndim} dimensions")
    n, k = matrix.shape
    panels, steps, bytes_of_step = packed_shape(n, k, isa)
    padded = np.zeros((panels * isa.columns, steps * isa.neighbours), np.int8)
    padded[:n, :k] = matrix
    blocks = padded.reshape(panels, isa.columns, steps, isa.neighbours).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks.reshape(panels, steps, bytes_of_step))


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
