"""`rearrange` against its operation: blocks of all lengths, of one tensor and of several."""

from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch

from intvit.blocks import Blocks
from intvit.dialect import rearrange as dialect
from intvit.kernels.rearrange import Source, rearrange

BATCH = 2


def windows(height: int, width: int, size: int, shift: int = 0) -> np.ndarray:
    """Rows of an image cut into windows, after it was rolled."""
    rows = np.roll(np.arange(height * width).reshape(height, width), (-shift, -shift), (0, 1))
    return rows.reshape(height // size, size, width // size, size).transpose(0, 2, 1, 3).reshape(-1, 1)


def merged(height: int, width: int) -> np.ndarray:
    """Four neighbouring tokens as one."""
    rows = np.arange(height * width).reshape(height // 2, 2, width // 2, 2)
    return rows.transpose(0, 2, 3, 1).reshape(-1, 4)


def anything(tokens: int, blocks: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (tokens, blocks))


def transposed(tokens: int, channels: int) -> np.ndarray:
    return np.arange(tokens * channels).reshape(tokens, channels).T


CASES: dict[str, tuple[list[tuple[int, int, bool]], np.ndarray, int]] = {
    "windows": ([(64, 48, False)], windows(8, 8, 4), 48),
    "shifted windows": ([(36, 33, False)], windows(6, 6, 3, 1), 33),
    "merged patches": ([(64, 24, False)], merged(8, 8), 24),
    "transpose": ([(37, 70, False)], transposed(37, 70), 1),
    "one token": ([(5, 7, False)], np.array([[3]]), 7),
    "padding": ([(6, 130, False), (1, 130, True)], np.array([[0], [1], [6], [6], [2], [6], [5]]), 130),
    "channels of both": (
        [(9, 8, False), (9, 24, False)],
        np.array([[t, 9 + 3 * t, 10 + 3 * t, 11 + 3 * t] for t in range(9)]),
        8,
    ),
    "single channels of three": ([(4, 5, False), (3, 7, True), (2, 66, False)], anything(5, 70, 20 + 21 + 132), 1),
    "any blocks": ([(11, 12, False)], anything(300, 20, 44), 3),
    "long rows": ([(3, 3000, False)], np.array([[2], [0], [1], [0]]), 3000),
}


@pytest.mark.parametrize(("name", "dtype"), list(zip(CASES, cycle(("int8", "int16", "int32")), strict=False)))
def test_moves_as_the_operation(machine: Any, run: Any, name: str, dtype: str) -> None:
    shapes, index, chunk = CASES[name]
    random, limits = np.random.default_rng(1), np.iinfo(dtype)
    xs = [
        random.integers(limits.min, limits.max, (t, c) if constant else (BATCH, t, c), dtype, endpoint=True)
        for t, c, constant in shapes
    ]
    want = dialect.rearrange([torch.from_numpy(x) for x in xs], torch.from_numpy(index.astype(np.int32)), chunk).numpy()
    blocks = Blocks.of([x.shape[-2:] for x in xs], index, chunk)
    offsets = blocks.offsets([c for _, c, _ in shapes])
    sources = tuple(Source(t, c, constant) for t, c, constant in shapes)
    kernel = rearrange(
        sources, len(index), blocks.index.shape[1], blocks.chunk, machine[1], dtype=dtype, is_sum=offsets.is_sum
    )
    operands = [*(x.reshape(-1, x.shape[-1]) for x in xs), offsets.rows, offsets.columns]
    y = run(kernel, operands, (BATCH * len(index), want.shape[-1]), dtype)
    np.testing.assert_array_equal(y, want.reshape(y.shape))
