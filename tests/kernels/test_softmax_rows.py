"""`softmax` of rows against `intvit::softmax`, bit by bit."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.requantize import requantize
from intvit.dialect.softmax import softmax as dialect
from intvit.dialect.softmax import softmax_bits
from intvit.kernels import pack, softmax_rows
from intvit.kernels.epilogue import Epilogue, Requantize

softmax = cache(softmax_rows.softmax)


WEIGHTS = Epilogue((), "int16")


def check(machine, run, x, *, pre=3, mul=20000, shift=15, bits=15):
    channels = x.shape[1]
    function = softmax(channels, shift, bits, WEIGHTS, machine[1], dtype=str(x.dtype))
    y = run(function, [x, np.array([pre], np.int8), np.array([mul], np.int16)], x.shape, "int16")
    fields = [torch.tensor([value], dtype=torch.int32) for value in (mul, pre)]
    np.testing.assert_array_equal(y, dialect(torch.from_numpy(x)[None], *fields, shift, bits)[0].numpy())


def rows(seed, count, channels, dtype="int16"):
    """Rows of every spread, the last one with an outlier."""
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    spread = np.resize([0, 5, 300, 9000, 30000], (count, 1)) * (1 if dtype == "int16" else 2000)
    x = random.normal(0, 1, (count, channels)) * spread
    x[-1], x[-1, channels // 2] = limits.min // 2, limits.max // 2
    return x.clip(limits.min // 2, limits.max // 2).astype(dtype)


@pytest.mark.parametrize(
    ("count", "channels", "dtype"), [(9, 49, "int16"), (197, 64, "int32"), (5, 1, "int16"), (7, 197, "int16")]
)
def test_shapes(machine, run, count, channels, dtype):
    check(machine, run, rows(channels, count, channels, dtype), pre=3 if dtype == "int16" else 11)


@pytest.mark.parametrize(("shift", "bits"), [(0, 15), (14, 14), (16, 8), (17, 11), (30, 13)])
def test_shifts_and_widths_of_the_exponentials(machine, run, shift, bits):
    for pre in (0, 1, 15, 30):
        check(machine, run, rows(shift, 12, 70), pre=pre, shift=shift, bits=bits, mul=32767)


def test_equal_scores(machine, run):
    for value in (-32768, 0, 32767):
        check(machine, run, np.full((30, 197), value, np.int16))


def test_extremes_of_int32(machine, run):
    x = np.full((3, 64), -(1 << 30), np.int32)
    x[1, 7], x[2] = (1 << 30) - 1, (1 << 30) - 1
    check(machine, run, x, pre=16)


def test_the_longest_row_of_the_widest_exponentials(machine, run):
    channels = 1 << 15
    assert softmax_bits(channels) == 15
    check(machine, run, np.zeros((1, channels), np.int16))


@pytest.mark.parametrize("channels", [75, 20])
def test_requantization(machine, run, channels):
    random = np.random.default_rng(channels)
    x = rows(channels, 9, channels)
    mul, pre = random.integers(0, 32768, channels).astype(np.int32), random.integers(0, 9, channels).astype(np.int32)
    stages = Epilogue((Requantize(15, zero_point=-5),))
    vectors = dict(pre=pre, mul=mul)
    operands = [pack.channels(vectors[o.name], channels, o.dtype, machine[1].vector) for o in stages.operands]
    function = softmax(channels, 15, 15, stages, machine[1], dtype="int16")
    y = run(function, [x, np.array([3], np.int8), np.array([20000], np.int16), *operands], x.shape, "int8")
    weights = dialect(torch.from_numpy(x)[None], *(torch.tensor([v], dtype=torch.int32) for v in (20000, 3)), 15, 15)
    want = requantize(weights, torch.from_numpy(mul), torch.from_numpy(pre), 15, -5, "int8")
    np.testing.assert_array_equal(y, want[0].numpy())


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 150),
    st.sampled_from(["int16", "int32"]),
    st.integers(0, 14),
    st.integers(0, 32767),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, count, channels, dtype, pre, mul, seed):
    check(machine, run, rows(seed, count, channels, dtype), pre=pre, mul=mul)
