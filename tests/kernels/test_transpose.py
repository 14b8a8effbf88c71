"""`rearrange` as a transpose: squares of every side, overlapping ones, and runs of tokens."""

from typing import Any

import numpy as np
import pytest
import torch

from intvit.blocks import Blocks
from intvit.dialect import rearrange as dialect
from intvit.kernels.rearrange import Source
from intvit.kernels.transpose import side_of_squares, transpose

BATCH = 2


def of_windows(windows: int, tokens: int, channels: int) -> np.ndarray:
    """The tokens of each window as channels."""
    rows = np.arange(windows * tokens * channels).reshape(windows, tokens, channels)
    return rows.transpose(0, 2, 1).reshape(windows * channels, tokens)


@pytest.mark.parametrize(
    ("windows", "tokens", "channels", "dtype"),
    [
        (1, 32, 48, "int8"),
        (1, 37, 70, "int8"),
        (3, 49, 20, "int8"),
        (1, 4, 5, "int8"),
        (2, 9, 1300, "int16"),
        (1, 16, 6, "int16"),
        (5, 6, 11, "int32"),
    ],
)
def test_moves_as_the_operation(machine: Any, run: Any, windows: int, tokens: int, channels: int, dtype: str) -> None:
    index = of_windows(windows, tokens, channels)
    limits = np.iinfo(dtype)
    shape = BATCH, windows * tokens, channels
    x = np.random.default_rng(0).integers(limits.min, limits.max, shape, dtype, endpoint=True)
    want = dialect.rearrange([torch.from_numpy(x)], torch.from_numpy(index.astype(np.int32)), 1).numpy()
    offsets = Blocks.of([shape[1:]], index, 1).offsets([channels])
    assert offsets.is_sum and offsets.run == (windows * channels if windows == 1 else channels)
    kernel = transpose(Source(*shape[1:]), len(index), tokens, offsets.run, dtype=dtype)
    operands = [x.reshape(-1, channels), offsets.rows, offsets.columns]
    y = run(kernel, operands, (BATCH * len(index), tokens), dtype)
    np.testing.assert_array_equal(y, want.reshape(y.shape))


@pytest.mark.parametrize(
    ("blocks", "run", "dtype", "side"),
    [(100, 100, "int8", 16), (100, 100, "int16", 8), (100, 100, "int32", 4), (15, 99, "int8", 8), (99, 4, "int8", 4)],
)
def test_sides(blocks: int, run: int, dtype: str, side: int) -> None:
    assert side_of_squares(blocks, run, dtype) == side


@pytest.mark.parametrize(("blocks", "run"), [(3, 100), (100, 3), (1, 1)])
def test_small_squares_do_not_pay(blocks: int, run: int) -> None:
    assert side_of_squares(blocks, run, "int8") == 0
