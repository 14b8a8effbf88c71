"""`softmax` of rows against `intvit::softmax`, bit by bit."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import Case, one, requantized, requantized_alike, rows, tensor

from intvit.dialect.softmax import softmax as dialect
from intvit.dialect.softmax import softmax_bits
from intvit.kernels.cuda import softmax_rows
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.epilogue import Epilogue

softmax = cache(softmax_rows.softmax)


def plain() -> Case:
    """The weights as they are."""
    return Case(Epilogue((), "int16"), [], lambda x: x)


def check(device, x, case=None, *, pre=3, mul=20000, shift=15, bits=15, whole=True, seed=0):
    case = case or plain()
    count, channels = x.shape
    width = padded(channels, 16) if whole else channels
    kernel = softmax(channels, shift, bits, width, width, case.epilogue, str(x.dtype))
    inputs = [rows(x, width), np.array([pre], np.int8), np.array([mul], np.int16), *case.operands]
    y = device.run(kernel, inputs, (count, width), case.epilogue.dtype, count, seed)
    want = case.reference(dialect(tensor(x)[None], one(mul), one(pre), shift, bits))[0].numpy()
    np.testing.assert_array_equal(y[:, :channels], want)


def scores(seed, count, channels, dtype="int16"):
    """Rows of every spread, the last one with an outlier."""
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    spread = np.resize([0, 5, 300, 9000, 30000], (count, 1)) * (1 if dtype == "int16" else 2000)
    x = random.normal(0, 1, (count, channels)) * spread
    x[-1], x[-1, channels // 2] = limits.min // 2, limits.max // 2
    return x.clip(limits.min // 2, limits.max // 2).astype(dtype)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("count", "channels", "dtype"), [(9, 49, "int16"), (30, 197, "int32"), (5, 1, "int16")])
def test_shapes(device, count, channels, dtype, whole):
    check(device, scores(channels, count, channels, dtype), pre=3 if dtype == "int16" else 11, whole=whole)


@pytest.mark.parametrize(("shift", "bits"), [(0, 15), (14, 14), (16, 8), (30, 13)])
def test_shifts_and_widths_of_the_exponentials(device, shift, bits):
    for pre in (0, 1, 15, 30):
        check(device, scores(shift, 12, 70), pre=pre, shift=shift, bits=bits, mul=32767)


@pytest.mark.parametrize("channels", [40, 197])
def test_requantization(device, channels):
    random = np.random.default_rng(channels)
    x = scores(channels, 9, channels)
    check(device, x, requantized(random, 9, channels, "int8", 13, -3))
    check(device, x, requantized_alike(random, 9, channels))


def test_extremes(device):
    for value in (-32768, 32767):
        check(device, np.full((3, 64), value, np.int16))
    x = np.full((3, 64), -(1 << 30), np.int32)
    x[1, 7], x[2] = (1 << 30) - 1, (1 << 30) - 1
    check(device, x, pre=16)


def test_the_longest_row_of_the_widest_exponentials(device):
    channels = 1 << 15
    assert softmax_bits(channels) == 15
    check(device, np.zeros((1, channels), np.int16))


@settings(max_examples=2, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.sampled_from(["int16", "int32"]),
    st.integers(0, 14),
    st.integers(0, 32767),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(device, count, channels, dtype, pre, mul, whole, seed):
    check(device, scores(seed, count, channels, dtype), pre=pre, mul=mul, whole=whole, seed=seed)
