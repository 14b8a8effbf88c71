"""`rearrange` against its operation: blocks of all lengths, of one tensor and of several."""

from itertools import cycle
from typing import Any

import numpy as np
import pytest
from operands import rows, tensor

from intvit.blocks import Blocks
from intvit.dialect import rearrange as dialect
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.rearrange import Source, rearrange

BATCH = 2


def anything(tokens: int, blocks: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (tokens, blocks))


CASES: dict[str, tuple[list[tuple[int, int, bool]], np.ndarray, int]] = {
    "windows": ([(16, 48, False)], np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 1), 48),
    "merged patches": ([(16, 24, False)], np.arange(16).reshape(2, 2, 2, 2).transpose(0, 2, 3, 1).reshape(-1, 4), 24),
    "transpose": ([(37, 70, False)], np.arange(37 * 70).reshape(37, 70).T, 1),
    "one token": ([(5, 7, False)], np.array([[3]]), 7),
    "padding": ([(6, 40, False), (1, 40, True)], np.array([[0], [1], [6], [6], [2], [6], [5]]), 40),
    "channels of both": ([(9, 8, False), (9, 24, False)], np.array([[t, 9 + 3 * t, 10 + 3 * t] for t in range(9)]), 8),
    "single channels of three": ([(4, 5, False), (3, 7, True), (2, 66, False)], anything(5, 70, 20 + 21 + 132), 1),
    "any blocks": ([(11, 12, False)], anything(30, 20, 44), 3),
    "long rows": ([(3, 1400, False)], np.array([[2], [0], [1], [0]]), 1400),
}


@pytest.mark.parametrize(("name", "dtype"), list(zip(CASES, cycle(("int8", "int16", "int32")), strict=False)))
def test_moves_as_the_operation(device: Any, name: str, dtype: str) -> None:
    """In rows with padding and without."""
    shapes, index, chunk = CASES[name]
    random, limits = np.random.default_rng(1), np.iinfo(dtype)
    xs = [
        random.integers(limits.min, limits.max, (t, c) if constant else (BATCH, t, c), dtype, endpoint=True)
        for t, c, constant in shapes
    ]
    want = dialect.rearrange([tensor(x) for x in xs], tensor(index.astype(np.int32)), chunk).numpy()
    want = want.reshape(-1, want.shape[-1])
    widths = [padded(c, 16) for _, c, _ in shapes]
    blocks = Blocks.of([x.shape[-2:] for x in xs], index, chunk)
    offsets = blocks.offsets(widths)
    sources = tuple(Source(t, width, constant) for (t, _, constant), width in zip(shapes, widths, strict=True))
    operands = [*(rows(x) for x in xs), offsets.rows, offsets.columns]
    for stride in {padded(want.shape[1], 16), want.shape[1]}:
        sizes = (len(index), blocks.index.shape[1], blocks.chunk, stride)
        kernel = rearrange(sources, *sizes, dtype=dtype, is_sum=offsets.is_sum)
        y = device.run(kernel, operands, (len(want), stride), dtype, len(want))
        np.testing.assert_array_equal(y[:, : want.shape[1]], want)
