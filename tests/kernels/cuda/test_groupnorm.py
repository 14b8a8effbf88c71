"""`groupnorm` against `intvit::groupnorm`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import columns, rows, tensor

from intvit.dialect import groupnorm as dialect
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.groupnorm import groupnorm


def check(device, x, groups=1, *, shift=8, eps=1000, min_shift=-15, dtype="int8", whole=True, seed=0):
    """Of `[batch, tokens, channels]`."""
    random = np.random.default_rng(seed)
    batch, tokens, channels = x.shape
    mul = random.integers(-32768, 32768, channels).astype(np.int32)
    bias = random.integers(-(2**20), 2**20, channels).astype(np.int32)
    width = padded(channels, 16)
    stride = width if whole else channels
    kernel = groupnorm(channels, groups, tokens, shift, width, stride, dtype=dtype)
    inputs = [rows(x), columns(mul, "int16"), columns(bias, "int32"), np.array([eps, min_shift], np.int32)]
    y = device.run(kernel, inputs, (batch * tokens, stride), dtype, batch, seed)
    want = dialect.groupnorm(tensor(x), tensor(mul), tensor(bias), shift, groups, eps, min_shift, dtype)
    np.testing.assert_array_equal(y[:, :channels], want.numpy().reshape(-1, channels))


def images(random, batch, tokens, channels):
    deviation = np.resize([0, 0.4, 3, 200, 20000], (batch, 1, 1))
    mean = np.resize([-50, 30000, -7, 100, 0], (batch, 1, 1))
    return random.normal(mean, deviation, (batch, tokens, channels)).round().clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize(
    ("tokens", "channels", "groups", "dtype"),
    [(49, 20, 1, "int8"), (16, 96, 32, "int16"), (9, 64, 4, "int8"), (1, 7, 7, "int16")],
)
def test_images_of_every_deviation(device, tokens, channels, groups, dtype):
    x = images(np.random.default_rng(channels), 5, tokens, channels)
    check(device, x, groups, dtype=dtype, shift=8 if dtype == "int8" else 2)


def test_large_groups_at_the_ends(device):
    x = np.zeros((5, 4096, 16), np.int16)
    x[0], x[1] = -32768, 32767
    x[2, ::2], x[2, 1::2] = -32768, 32767
    x[3], x[4] = -32768, 5
    x[3, -1, -1], x[4, 7, 0] = 32767, 6
    check(device, x, eps=0)


@pytest.mark.parametrize("min_shift", [-15, 16])
@pytest.mark.parametrize("eps", [0, (1 << 30) - 1])
def test_every_eps(device, eps, min_shift):
    x = images(np.random.default_rng(3), 5, 20, 24)
    x[0, 3, 5] = 1
    check(device, x, 3, eps=eps, min_shift=min_shift, dtype="int16", shift=3)


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 20),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(device, batch, tokens, size, groups, whole, seed):
    random = np.random.default_rng(seed)
    shape = (batch, tokens, size * groups)
    x = (random.normal(0, 1, shape) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(device, x, groups, whole=whole, seed=seed)
