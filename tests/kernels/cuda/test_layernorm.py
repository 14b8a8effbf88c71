"""`layernorm` against `intvit::layernorm`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import columns, rows, tensor

from intvit.dialect import layernorm as dialect
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.layernorm import layernorm


def check(device, x, *, shift=14, eps=1000, min_shift=0, dtype="int8", whole=True, seed=0):
    random = np.random.default_rng(seed)
    count, channels = x.shape
    mul = random.integers(-32768, 32768, channels).astype(np.int32)
    bias = random.integers(-(2**24), 2**24, channels).astype(np.int32)
    width = padded(channels, 16)
    stride = width if whole else channels
    kernel = layernorm(channels, shift, width, stride, dtype=dtype)
    inputs = [rows(x), columns(mul, "int16"), columns(bias, "int32"), np.array([eps, min_shift], np.int32)]
    y = device.run(kernel, inputs, (count, stride), dtype, count, seed)
    want = dialect.layernorm(tensor(x)[None], tensor(mul), tensor(bias), shift, eps, min_shift, dtype)
    np.testing.assert_array_equal(y[:, :channels], want[0].numpy())


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize(("count", "channels"), [(197, 192), (5, 20), (5, 1), (9, 384), (6, 768), (3, 1152), (4, 100)])
def test_rows_of_every_deviation(device, count, channels, dtype):
    deviation = np.resize([0, 1, 30, 1000, 20000], (count, 1))
    x = np.random.default_rng(channels).normal(-50, deviation, (count, channels)).clip(-32768, 32767).astype(np.int16)
    check(device, x, dtype=dtype, min_shift=-6)


@pytest.mark.parametrize("channels", [20, 384])
@pytest.mark.parametrize("min_shift", [-15, 0, 9])
def test_extreme_rows(device, min_shift, channels):
    x = np.zeros((6, channels), np.int16)
    x[1], x[2] = -32768, 32767
    x[3, ::2], x[3, 1::2] = -32768, 32767
    x[4, 7], x[5, :] = 32767, np.arange(channels)
    check(device, x, min_shift=min_shift, eps=(1 << 30) - 1)
    check(device, x, min_shift=min_shift, eps=0, dtype="int16")


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("channels", [1536, 4096])
def test_wide_rows_with_an_outlier(device, channels, dtype):
    x = np.where(np.arange(channels) % 2, 167, -167) + np.array([[0], [-32600], [32600]])
    x[:, channels // 3] = 32767, 32767, -32768
    check(device, x.astype(np.int16), eps=1, min_shift=-15, dtype=dtype)


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(-15, 16),
    st.booleans(),
    st.sampled_from(["int8", "int16"]),
    st.integers(0, 2**31),
)
def test_any_shape(device, count, channels, min_shift, whole, dtype, seed):
    random = np.random.default_rng(seed)
    x = (random.normal(0, 1, (count, channels)) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(device, x, min_shift=min_shift, whole=whole, dtype=dtype, seed=seed)
