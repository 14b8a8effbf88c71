"""`layernorm_published` against `intvit::layernorm_published`, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import published as dialect
from intvit.kernels import layernorm_published as kernels

BIASES = {"any": (-(2**31), 2**31), "published": (-(2**30), 2**30), "none": (0, 1)}


def check(machine, run, x, *, bias="any", seed=0):
    channels = x.shape[1]
    add = np.random.default_rng(seed).integers(*BIASES[bias], channels).astype(np.int32)
    y = run(kernels.layernorm_published(channels, machine[1]), [x, add], x.shape, "int32")
    want = dialect.layernorm_published(torch.from_numpy(x)[None], torch.from_numpy(add))
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("rows", "channels"), [(197, 192), (5, 100), (5, 1), (5, 2), (5, 1280)])
def test_rows_of_every_deviation(machine, run, rows, channels, bias):
    deviation = np.resize([0, 1, 30, 150, 1000, 20000], (rows, 1))
    x = np.random.default_rng(channels).normal(-50, deviation, (rows, channels)).clip(-32768, 32767).astype(np.int16)
    check(machine, run, x, bias=bias)


@pytest.mark.parametrize("channels", [2, 384, 70])
def test_extreme_rows(machine, run, channels):
    """The largest sums of squares, the largest distance from a mean, means that are floored on both sides of 0."""
    x = np.zeros((9, channels), np.int16)
    x[1], x[2] = -32768, 32767
    x[3, ::2], x[3, 1::2] = -32768, 32767
    x[4, channels // 2] = 32767
    x[5], x[5, -1] = 32767, -32768
    x[6], x[6, 0] = -32768, 32767
    x[7, 0], x[8, 0] = 1, -1
    for bias in BIASES:
        check(machine, run, x, bias=bias)


def test_the_bias_saturates(machine, run):
    x = np.resize(np.array([-30000, 30000], np.int16), (2, 32))
    add = np.resize(np.array([-(2**31), 2**31 - 1], np.int32), 32)
    y = run(kernels.layernorm_published(32, machine[1]), [x, add], x.shape, "int32")
    np.testing.assert_array_equal(y, [add, add])


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(1, 140), st.integers(0, 15), st.integers(0, 2**31))
def test_any_shape(machine, run, rows, channels, bits, seed):
    x = np.random.default_rng(seed).integers(-(1 << bits), 1 << bits, (rows, channels)).astype(np.int16)
    check(machine, run, x, seed=seed)


def test_constants_are_the_dialect_s():
    assert (kernels.START, kernels.STEPS, kernels.LARGEST) == (
        dialect.SQRT_START,
        dialect.SQRT_STEPS,
        dialect.LARGEST,
    )
