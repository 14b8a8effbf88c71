"""`divide` on a GPU against `intvit::divide`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import columns, rows, tensor

from intvit.dialect import divide as dialect
from intvit.kernels.cuda.divide import divide
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.epilogue import Epilogue, Requantize

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}


def drawn(random: np.random.Generator, *shape: int) -> np.ndarray:
    """int16 of all magnitudes, with both ends, 0 and 1 among them."""
    x = (random.normal(0, 1, shape) * 10.0 ** random.uniform(0, 5, shape)).clip(-32768, 32767).astype(np.int16)
    x.flat[:5] = (-32768, 32767, 0, 1, -1)[: x.size]
    return random.permuted(x.reshape(-1)).reshape(shape)


def check(device, a, b, *, shift=14, dtype="int16", pre=None, mul=None, whole=True, seed=0):
    random, (count, n) = np.random.default_rng(seed), a.shape
    shifts = random.integers(0, 16, n) if pre is None else np.full(1, pre)
    factors = random.integers(-32768, 32768, n) if mul is None else np.full(1, mul)
    widths, stride = (padded(n, 16), padded(b.shape[1], 16)), padded(n, 16) if whole else n
    kernel = divide(n, b.shape[1], widths, stride, pre, Epilogue((Requantize(shift, *LIMITS[dtype], 0, mul),), dtype))
    operands = [columns(shifts, "int8")] if pre is None else []
    operands += [columns(factors, "int16")] if mul is None else []
    y = device.run(kernel, [rows(a), rows(b), *operands], (count, stride), dtype, count, seed)
    numbers = (tensor(x.astype(np.int32)) for x in (factors, shifts))
    want = dialect.divide(tensor(a)[None], tensor(b)[None], *numbers, shift, dtype)
    np.testing.assert_array_equal(y[:, :n], want[0].numpy())


@pytest.mark.parametrize(
    ("count", "channels", "blocks", "dtype", "pre"),
    [(98, 16, 1, "int16", 1), (20, 96, 3, "int8", None), (9, 45, 45, "int16", None), (9, 77, 7, "int8", 0)],
)
def test_rows_of_every_size(device, count, channels, blocks, dtype, pre):
    random = np.random.default_rng(count)
    a, b = drawn(random, count, channels), drawn(random, count, blocks)
    check(device, a, b, dtype=dtype, pre=pre, shift=14 if dtype == "int16" else 21)


def test_divisors_of_every_length(device):
    powers = 1 << np.arange(16)
    b = np.unique(np.concatenate([sign * (powers + d) for sign in (1, -1) for d in (-1, 0, 1)]).clip(-32768, 32767))
    a = np.broadcast_to(np.array([-32768, 32767, 12345, 1, 0], np.int16), (len(b), 5)).copy()
    check(device, a, b.astype(np.int16)[:, None], pre=0, mul=32767)


@settings(max_examples=2, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
def test_any_shape(device, count, size, blocks, whole, seed):
    random = np.random.default_rng(seed)
    a, b = drawn(random, count, size * blocks), drawn(random, count, blocks)
    check(device, a, b, whole=whole, seed=seed)
