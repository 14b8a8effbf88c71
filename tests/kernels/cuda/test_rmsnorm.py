"""`rmsnorm` against `intvit::rmsnorm`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import columns, rows, tensor

from intvit.dialect import rmsnorm as dialect
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.rmsnorm import rmsnorm


def check(device, x, groups=1, *, shift=14, eps=1000, min_shift=0, dtype="int8", whole=True, seed=0):
    count, channels = x.shape
    mul = np.random.default_rng(seed).integers(-32768, 32768, channels).astype(np.int32)
    width = padded(channels, 16)
    stride = width if whole else channels
    kernel = rmsnorm(channels, groups, shift, width, stride, dtype=dtype)
    inputs = [rows(x), columns(mul, "int16"), np.array([eps, min_shift], np.int32)]
    y = device.run(kernel, inputs, (count, stride), dtype, count, seed)
    want = dialect.rmsnorm(tensor(x)[None], tensor(mul), shift, eps, min_shift, groups, dtype)
    np.testing.assert_array_equal(y[:, :channels], want[0].numpy())


@pytest.mark.parametrize(
    ("count", "channels", "groups", "dtype"),
    [(49, 96, 3, "int8"), (5, 20, 1, "int16"), (5, 3, 3, "int8"), (3, 800, 2, "int16")],
)
def test_rows_of_every_size(device, count, channels, groups, dtype):
    deviation = np.resize([0, 1, 30, 1000, 20000], (count, 1))
    x = np.random.default_rng(channels).normal(-50, deviation, (count, channels)).clip(-32768, 32767).astype(np.int16)
    check(device, x, groups, dtype=dtype, min_shift=-6)


@pytest.mark.parametrize("min_shift", [-15, 0, 9])
def test_extreme_rows(device, min_shift):
    x = np.zeros((6, 64), np.int16)
    x[1], x[2] = -32768, 32767
    x[3, ::2], x[3, 1::2] = -32768, 32767
    x[4, 7], x[5, :] = 32767, np.arange(64)
    check(device, x, 2, min_shift=min_shift, eps=(1 << 30) - 1)
    check(device, x, 2, min_shift=min_shift, eps=0, dtype="int16")


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_any_shape(device, count, size, groups, whole, seed):
    random = np.random.default_rng(seed)
    shape = (count, size * groups)
    x = (random.normal(0, 1, shape) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(device, x, groups, min_shift=-9, whole=whole, seed=seed)
