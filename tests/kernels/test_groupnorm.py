"""`groupnorm` against `intvit::groupnorm`, bit by bit."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import groupnorm as dialect
from intvit.kernels import groupnorm as kernels
from intvit.kernels.groupnorm import Groups

groupnorm = cache(kernels.groupnorm)


def check(machine, run, x, groups=1, *, shift=8, eps=1000, min_shift=-15, dtype="int8", seed=0):
    """Of `[batch, tokens, channels]`."""
    random = np.random.default_rng(seed)
    _, tokens, channels = x.shape
    mul = random.integers(-32768, 32768, channels).astype(np.int32)
    bias = random.integers(-(2**20), 2**20, channels).astype(np.int32)
    function = groupnorm(Groups(channels, groups, tokens, machine[1].vector), shift, dtype=dtype)
    inputs = [x.reshape(-1, channels), mul.astype(np.int16), bias, np.array([eps, min_shift], np.int32)]
    y = run(function, inputs, inputs[0].shape, dtype)
    operands = (torch.from_numpy(a) for a in (x, mul, bias))
    want = dialect.groupnorm(*operands, shift, groups, eps, min_shift, dtype)
    np.testing.assert_array_equal(y, want.numpy().reshape(-1, channels))


def images(random, batch, tokens, channels):
    deviation = np.resize([0, 0.4, 3, 200, 20000], (batch, 1, 1))
    mean = np.resize([-50, 30000, -7, 100, 0], (batch, 1, 1))
    return random.normal(mean, deviation, (batch, tokens, channels)).round().clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize(
    ("tokens", "channels", "groups", "dtype"),
    [(49, 100, 1, "int8"), (49, 100, 1, "int16"), (16, 96, 32, "int16"), (9, 192, 4, "int8"), (1, 7, 7, "int8")],
)
def test_images_of_every_deviation(machine, run, tokens, channels, groups, dtype):
    x = images(np.random.default_rng(channels), 5, tokens, channels)
    check(machine, run, x, groups, dtype=dtype, shift=8 if dtype == "int8" else 2)


def test_large_groups_at_the_ends(machine, run):
    """More tokens than one sum may have, more numbers than need no saturation; one outlier among as many."""
    x = np.zeros((5, 33_000, 8), np.int16)
    x[0], x[1] = -32768, 32767
    x[2, ::2], x[2, 1::2] = -32768, 32767
    x[3], x[4] = -32768, 5
    x[3, -1, -1], x[4, 7, 0] = 32767, 6
    check(machine, run, x, eps=0)


def test_every_eps(machine, run):
    x = images(np.random.default_rng(3), 5, 20, 48)
    x[0, 3, 5] = 1
    for eps in (0, (1 << 30) - 1):
        for min_shift in (-15, 0, 16):
            check(machine, run, x, 3, eps=eps, min_shift=min_shift, dtype="int16", shift=3)


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(-15, 16),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, batch, tokens, size, groups, min_shift, seed):
    random = np.random.default_rng(seed)
    shape = (batch, tokens, size * groups)
    x = (random.normal(0, 1, shape) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, groups, min_shift=min_shift, seed=seed)
