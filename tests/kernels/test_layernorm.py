"""`layernorm` against `intvit::layernorm`, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import layernorm as dialect
from intvit.kernels.layernorm import layernorm


def check(machine, run, x, *, shift=14, eps=1000, min_shift=0, dtype="int8", tokens=197, seed=0):
    random = np.random.default_rng(seed)
    channels = x.shape[1]
    mul = random.integers(-32768, 32768, channels).astype(np.int32)
    bias = random.integers(-(2**24), 2**24, channels).astype(np.int32)
    function = layernorm(channels, shift, machine[1], dtype=dtype, tokens=tokens)
    y = run(function, [x, mul.astype(np.int16), bias, np.array([eps, min_shift], np.int32)], x.shape, dtype)
    want = dialect.layernorm(
        torch.from_numpy(x)[None], torch.from_numpy(mul), torch.from_numpy(bias), shift, eps, min_shift, dtype
    )
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize(("rows", "channels"), [(197, 192), (5, 100), (5, 1), (5, 1280)])
def test_rows_of_every_deviation(machine, run, rows, channels, dtype):
    deviation = np.resize([0, 1, 30, 1000, 20000], (rows, 1))
    x = np.random.default_rng(channels).normal(-50, deviation, (rows, channels)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, dtype=dtype, min_shift=-6)


@pytest.mark.parametrize("min_shift", [-15, 0, 9])
def test_extreme_rows(machine, run, min_shift):
    x = np.zeros((6, 384), np.int16)
    x[1], x[2] = -32768, 32767
    x[3, ::2], x[3, 1::2] = -32768, 32767
    x[4, 7], x[5, :] = 32767, np.arange(384)
    check(machine, run, x, min_shift=min_shift, eps=(1 << 30) - 1)
    check(machine, run, x, min_shift=min_shift, eps=0, dtype="int16")


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("channels", [1536, 4096])
def test_wide_rows_with_an_outlier(machine, run, channels, dtype):
    x = np.where(np.arange(channels) % 2, 167, -167) + np.array([[0], [-32600], [32600]])
    x[:, channels // 3] = 32767, 32767, -32768
    check(machine, run, x.astype(np.int16), eps=1, min_shift=-15, dtype=dtype)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 40), st.integers(-15, 16), st.integers(0, 2**31))
def test_any_shape(machine, run, rows, channels, tokens, min_shift, seed):
    random = np.random.default_rng(seed)
    x = (random.normal(0, 1, (rows, channels)) * 10 ** random.uniform(0, 4.5)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, min_shift=min_shift, tokens=tokens, seed=seed)
