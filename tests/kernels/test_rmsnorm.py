"""`rmsnorm` against `intvit::rmsnorm`, bit by bit."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import rmsnorm as dialect
from intvit.kernels import rmsnorm as kernels

rmsnorm = cache(kernels.rmsnorm)


def check(machine, run, x, groups=1, *, shift=14, eps=1000, min_shift=0, dtype="int8", tokens=197, seed=0):
    channels = x.shape[1]
    mul = np.random.default_rng(seed).integers(-32768, 32768, channels).astype(np.int32)
    function = rmsnorm(channels, groups, shift, machine[1], dtype=dtype, tokens=tokens)
    y = run(function, [x, mul.astype(np.int16), np.array([eps, min_shift], np.int32)], x.shape, dtype)
    want = dialect.rmsnorm(torch.from_numpy(x)[None], torch.from_numpy(mul), shift, eps, min_shift, groups, dtype)
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize(
    ("rows", "channels", "groups", "dtype"),
    [(49, 192, 6, "int8"), (5, 100, 1, "int16"), (5, 3, 3, "int8"), (5, 3, 3, "int16"), (5, 1200, 5, "int8")],
)
def test_rows_of_every_size(machine, run, rows, channels, groups, dtype):
    deviation = np.resize([0, 1, 30, 1000, 20000], (rows, 1))
    x = np.random.default_rng(channels).normal(-50, deviation, (rows, channels)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, groups, dtype=dtype, min_shift=-6)


def test_extreme_rows(machine, run):
    x = np.zeros((6, 384), np.int16)
    x[1], x[2] = -32768, 32767
    x[3, ::2], x[3, 1::2] = -32768, 32767
    x[4, 7], x[5, :] = 32767, np.arange(384)
    for min_shift in (-15, 0, 9):
        check(machine, run, x, 2, min_shift=min_shift, eps=(1 << 30) - 1)
        check(machine, run, x, 2, min_shift=min_shift, eps=0, dtype="int16")


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 40), st.integers(1, 100), st.integers(1, 5), st.integers(-15, 16), st.integers(0, 2**31))
def test_any_shape(machine, run, rows, size, groups, min_shift, seed):
    random = np.random.default_rng(seed)
    shape = (rows, size * groups)
    x = (random.normal(0, 1, shape) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, groups, min_shift=min_shift, tokens=rows, seed=seed)
