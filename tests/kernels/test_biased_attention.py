"""`biased_attention` against `intvit::biased_attention`, bit by bit; windows of `attention` too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import OPERATIONS
from intvit.kernels import pack
from intvit.kernels.attention import attention
from intvit.kernels.biased_attention import biased_attention
from intvit.kernels.cut import Cut
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.heads import Heads
from intvit.kernels.score_bias import MASK, ScoreBias, packed_bias
from intvit.softmax_levels import SoftmaxLevels


def bias_of(random, shape, kind):
    """int16 `[kinds, heads, queries, keys]`; a mask leaves some rows without keys."""
    bias = random.integers(-3000, 3000, shape).astype(np.int16)
    if kind == "ends":
        bias = random.choice([MASK, MASK + 1, -MASK - 1], shape).astype(np.int16)
    elif kind != "plain":
        bias[random.random(shape) < 0.3] = MASK
        bias[:, :, 0] = MASK
    return bias


def check(
    machine,
    run,
    sizes,
    windows=1,
    batch=1,
    bits=15,
    seed=0,
    kind="mask",
    shared=False,
    shift=14,
    cut=None,
    biased=True,
    levels=(),
):
    """`sizes`: heads, queries, keys, head size, value size; `levels`: their step and number."""
    random = np.random.default_rng(seed)
    heads, queries, keys, d, e = sizes
    q, k, v = (
        random.integers(-128, 128, (batch, windows * tokens, heads * width)).astype(np.int8)
        for tokens, width in ((queries, d), (keys, d), (keys, e))
    )
    if kind == "lowest":
        q[:], k[:], v[:] = -128, -128, -128
    score_pre, score_mul = random.integers(0, 7, heads), random.integers(500, 32768, heads)
    pre, mul = random.integers(0, 3, heads * e), random.integers(-32768, 32768, heads * e)
    isa = machine[1]
    stages = Epilogue((Requantize(15),))
    found = Heads(*sizes, isa, *([cut] if cut else []), windows=windows)
    inputs = [x.reshape(-1, x.shape[-1]) for x in (q, k, v)] + [score_pre.astype(np.int8), score_mul.astype(np.int16)]
    wanted = [torch.from_numpy(x) for x in (q, k, v)]
    numbers = [torch.from_numpy(x.astype(np.int32)) for x in (score_mul, score_pre, mul, pre)]
    more = {"levels": SoftmaxLevels(*levels)} if levels else {}
    if biased:
        bias = bias_of(random, (3, 1 if shared else heads, queries, keys), kind)
        kinds = random.integers(0, 3, windows).astype(np.int32)
        known = ScoreBias(3, bias.shape[1], queries, keys, windows, bool((bias == MASK).any()))
        function = biased_attention(found, shift, bits, stages, known, **more)
        inputs += [packed_bias(bias), kinds]
        tables = torch.from_numpy(bias), torch.from_numpy(kinds)
        want = OPERATIONS["biased_attention"].call(
            *wanted, heads, windows, *numbers[:2], shift, *tables, bits, *numbers[2:], 15, *levels
        )
    else:
        function = attention(found, shift, bits, stages, **more)
        want = OPERATIONS["attention"].call(
            *wanted, heads, *numbers[:2], shift, bits, *numbers[2:], 15, windows, *levels
        )
    inputs += [pack.channels(x, heads * e, o.dtype, isa) for x, o in zip((pre, mul), stages.operands, strict=True)]
    y = run(function, inputs, (batch * windows * queries, heads * e), "int8")
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@pytest.mark.parametrize(
    ("sizes", "windows", "biased"),
    [((3, 49, 49, 32, 32), 4, True), ((2, 1, 40, 48, 20), 1, True), ((4, 16, 16, 16, 32), 5, False)],
    ids=str,
)
def test_shapes(machine, run, sizes, windows, biased):
    check(machine, run, sizes, windows, batch=2, biased=biased)


@pytest.mark.parametrize(("kind", "bits", "shift"), [("plain", 8, 9), ("lowest", 11, 14), ("ends", 15, 16)])
def test_masks_extremes_and_widths(machine, run, kind, bits, shift):
    check(machine, run, (2, 19, 33, 16, 16), 3, bits=bits, shift=shift, kind=kind, shared=bits == 11)


@pytest.mark.parametrize(
    ("kind", "biased", "levels"),
    [("mask", True, (93, 64)), ("ends", True, (2048, 256)), ("plain", True, (1, 256)), ("plain", False, (128, 16))],
)
def test_levels(machine, run, kind, biased, levels):
    check(machine, run, (2, 19, 33, 16, 16), 3, kind=kind, biased=biased, shift=16, levels=levels)


@settings(max_examples=2, deadline=None)
@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 40)] * 4),
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(8, 15),
    st.sampled_from(["plain", "mask", "ends"]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, sizes, windows, batch, bits, kind, shared, seed):
    check(machine, run, sizes, windows, batch, bits, seed, kind, shared, cut=Cut(None, 1))


def test_many_windows_are_not_cut_further(machine):
    assert Heads(3, 49, 49, 32, 32, machine[1].vector, windows=64).splits == 1
    assert Heads(1, 197, 197, 64, 64, machine[1].vector, windows=1).splits > 1
