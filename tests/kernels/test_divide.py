"""`divide` against `intvit::divide`, bit by bit."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import divide as dialect
from intvit.kernels import divide as kernels
from intvit.kernels import pack
from intvit.kernels.epilogue import Epilogue, Requantize

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
divide = cache(kernels.divide)


def drawn(random: np.random.Generator, *shape: int) -> np.ndarray:
    """int16 of all magnitudes, with both ends, 0 and 1 among them."""
    x = (random.normal(0, 1, shape) * 10.0 ** random.uniform(0, 5, shape)).clip(-32768, 32767).astype(np.int16)
    x.flat[:5] = (-32768, 32767, 0, 1, -1)[: x.size]
    return random.permuted(x.reshape(-1)).reshape(shape)


def check(machine, run, a, b, *, shift=14, dtype="int16", tokens=7, pre=None, mul=None, seed=0):
    random, n, isa = np.random.default_rng(seed), a.shape[1], machine[1]
    shifts = random.integers(0, 16, n) if pre is None else np.full(1, pre)
    factors = random.integers(-32768, 32768, n) if mul is None else np.full(1, mul)
    stage = Requantize(shift, *LIMITS[dtype], 0, mul)
    operands = [pack.channels(shifts, n, "int8", isa)] if pre is None else []
    operands += [pack.channels(factors, n, "int16", isa)] if mul is None else []
    function = divide(n, b.shape[1], pre, Epilogue((stage,), dtype), isa, tokens=tokens)
    y = run(function, [a, b, *operands], a.shape, dtype)
    numbers = (torch.from_numpy(x.astype(np.int32)) for x in (factors, shifts))
    want = dialect.divide(torch.from_numpy(a)[None], torch.from_numpy(b)[None], *numbers, shift, dtype)
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize(
    ("rows", "channels", "blocks", "dtype", "pre", "mul"),
    [
        (1568, 16, 1, "int16", 1, 20000),
        (49, 96, 3, "int8", None, None),
        (14, 45, 45, "int16", 9, None),
        (7, 77, 7, "int8", None, 32767),
        (7, 1, 1, "int16", None, None),
    ],
)
def test_rows_of_every_size(machine, run, rows, channels, blocks, dtype, pre, mul):
    random = np.random.default_rng(rows)
    a, b = drawn(random, rows, channels), drawn(random, rows, blocks)
    check(machine, run, a, b, dtype=dtype, pre=pre, mul=mul, shift=14 if dtype == "int16" else 21)


def test_every_divisor(machine, run):
    """All 2^16, of the largest, the smallest and an odd dividend."""
    b = np.arange(-32768, 32768).astype(np.int16)[:, None]
    a = np.broadcast_to(np.array([-32768, 32767, 12345, 1, 0], np.int16), (1 << 16, 5)).copy()
    check(machine, run, a, b, pre=0, mul=32767, tokens=1 << 12)


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**31))
def test_any_shape(machine, run, rows, size, blocks, shift, seed):
    random = np.random.default_rng(seed)
    a, b = drawn(random, rows, size * blocks), drawn(random, rows, blocks)
    check(machine, run, a, b, shift=shift, tokens=rows, seed=seed)
