"""`attention_published` against `intvit::attention_published`, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import published as dialect
from intvit.kernels import attention_published as kernels
from intvit.kernels import pack
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.heads import Heads


def finest_x0(keys):
    """The most negative `x0` for which a row's exponentials sum to 31 bits."""
    return -(dialect.LARGEST // (keys << dialect.SOFTMAX_BITS))


def check(machine, run, sizes, batch=1, x0=-20, seed=0, kind="random"):
    """`sizes`: heads, queries, keys, head size, value size."""
    random = np.random.default_rng(seed)
    heads, queries, keys, d, e = sizes
    q, k, v = (
        random.integers(-128, 128, (batch, tokens, heads * width)).astype(np.int8)
        for tokens, width in ((queries, d), (keys, d), (keys, e))
    )
    if kind == "lowest":
        q[:], k[:], v[:] = -128, -128, -128
    elif kind == "highest":
        q[:], k[:], v[:] = 127, 127, 127
    elif kind == "outlier":
        q[:], k[:, -1], k[:, :-1], v[:] = 127, 127, -128, 127
    # the scores span all of int8 and saturate a little: their deviation is 74^2 sqrt(d)
    ratio = 60 / (74**2 * np.sqrt(d)) * random.uniform(0.2, 2, heads)
    score_pre, score_shift = random.integers(0, 4, heads), 20
    score_mul = np.clip(np.round(ratio * 2.0 ** (score_shift + score_pre)), 1, 32767).astype(np.int64)
    pre, mul = random.integers(5, 10, heads * e), random.integers(-32768, 32768, heads * e)
    shift = int(random.integers(18, 21))
    stages = Epilogue((Requantize(shift),))
    function = kernels.attention_published(Heads(*sizes, machine[1]), score_shift, x0, stages)
    inputs = [x.reshape(-1, x.shape[-1]) for x in (q, k, v)] + [score_pre.astype(np.int8), score_mul.astype(np.int16)]
    inputs += [
        pack.channels(x, heads * e, o.dtype, machine[1]) for x, o in zip((pre, mul), stages.operands, strict=True)
    ]
    y = run(function, inputs, (batch * queries, heads * e), "int8")
    as_int32 = [torch.from_numpy(x.astype(np.int32)) for x in (score_mul, score_pre, mul, pre)]
    want = dialect.attention_published(
        *(torch.from_numpy(x) for x in (q, k, v)), heads, *as_int32[:2], score_shift, x0, *as_int32[2:], shift
    )
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))
    return y


@pytest.mark.parametrize(
    "sizes",
    [(3, 197, 197, 64, 64), (1, 1, 197, 64, 64), (1, 30, 30, 72, 72), (1, 1, 1, 1, 1), (2, 5, 40, 3, 9)],
    ids=str,
)
def test_shapes(machine, run, sizes):
    y = check(machine, run, sizes, batch=2, x0=max(-37, finest_x0(sizes[2])))
    assert len(y) == 2 or len(np.unique(y)) > 8


@pytest.mark.parametrize("kind", ["lowest", "highest", "outlier", "random"])
@pytest.mark.parametrize("x0", [-1, -2, -64, finest_x0(33)])
def test_extremes_and_every_scale(machine, run, x0, kind):
    check(machine, run, (2, 19, 33, 16, 16), x0=x0, kind=kind)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 40)] * 4),
    st.integers(1, 3),
    st.integers(1, 1000),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, sizes, batch, x0, seed):
    check(machine, run, sizes, batch, -x0, seed)


def test_the_reciprocal_divides_exactly():
    """Every `|p|` that 8-bit scores give, and every `x0` whose exponentials fit 32 bits."""
    p = np.arange(368)
    for x0 in range(1, 1 << 15):
        np.testing.assert_array_equal((p * kernels.reciprocal(-x0)) >> kernels.RECIPROCAL_BITS, p // x0)


def test_constants_are_the_dialect_s():
    assert kernels.BITS == dialect.SOFTMAX_BITS
    assert kernels.LARGEST == dialect.LARGEST
