"""`gelu_published` against `intvit::gelu_published`, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import published as dialect
from intvit.kernels import pack
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.gelu_published import gelu_published


def check(machine, run, x, *, x0=-20, per_channel=True, seed=0):
    random = np.random.default_rng(seed)
    n = x.shape[1]
    shift = int(random.integers(14, 18))
    pre, mul = random.integers(0, 4, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
    if not per_channel:
        pre, mul = pre[:1], mul[:1]
    stage = Requantize(shift) if per_channel else Requantize(shift, pre=int(pre[0]), mul=int(mul[0]))
    stages = Epilogue((stage,))
    operands = [pack.channels(v, n, o.dtype, machine[1]) for v, o in zip((pre, mul), stages.operands, strict=False)]
    inputs = [x, dialect.sigmoid_table(x0).numpy(), *operands]
    y = run(gelu_published(n, stages, machine[1]), inputs, x.shape, "int8")
    constants = (torch.from_numpy(mul), torch.from_numpy(pre))
    want = dialect.gelu_published(torch.from_numpy(x)[None], x0, *constants, shift)
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize("x0", [-1, -2, -31, -127])
def test_every_value_below_every_maximum(machine, run, x0):
    """A row holds all values up to its maximum; maxima from -128 on."""
    values, peaks = np.arange(-128, 128), np.arange(-128, 128)
    x = np.minimum(values, peaks[:, None]).astype(np.int8)
    check(machine, run, x, x0=x0)
    check(machine, run, np.ascontiguousarray(x[:, ::-1]), x0=x0, per_channel=False)


@pytest.mark.parametrize("n", [768, 100, 1])
def test_extreme_rows(machine, run, n):
    x = np.zeros((6, n), np.int8)
    x[1], x[2], x[3] = -128, 127, -128
    x[3, n // 2] = 127
    x[4, -1] = 127
    x[5] = np.random.default_rng(n).integers(-128, 0, n)
    check(machine, run, x, seed=n)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 140), st.integers(1, 127), st.integers(1, 128), st.integers(0, 2**31))
def test_any_shape(machine, run, rows, n, x0, reach, seed):
    x = np.random.default_rng(seed).integers(-reach, reach, (rows, n)).astype(np.int8)
    check(machine, run, x, x0=-x0, seed=seed)
