"""`attention` against `intvit::attention`, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import attention as dialect
from intvit.kernels import attention as kernels
from intvit.kernels import pack
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.heads import TASKS, Heads
from intvit.kernels.isa import AVX2, AVX512_VNNI
from intvit.softmax_levels import SoftmaxLevels


def check(machine, run, sizes, batch=1, bits=13, seed=0, kind="random", score_shift=None, cut=RULE, levels=()):
    """`sizes`: heads, queries, keys, head size, value size; `levels`: their step and number."""
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
    if score_shift is None:
        score_shift = int(random.integers(10, 19))
    score_pre, score_mul = random.integers(0, 7, heads), random.integers(500, 32768, heads)
    pre, mul = random.integers(0, 3, heads * e), random.integers(-32768, 32768, heads * e)
    shift = int(random.integers(8, 16))
    stages = Epilogue((Requantize(shift),))
    known = SoftmaxLevels(*levels) if levels else None
    function = kernels.attention(Heads(*sizes, machine[1], cut), score_shift, bits, stages, levels=known)
    inputs = [x.reshape(-1, x.shape[-1]) for x in (q, k, v)] + [score_pre.astype(np.int8), score_mul.astype(np.int16)]
    inputs += [
        pack.channels(x, heads * e, o.dtype, machine[1]) for x, o in zip((pre, mul), stages.operands, strict=True)
    ]
    y = run(function, inputs, (batch * queries, heads * e), "int8")
    as_int32 = [torch.from_numpy(x.astype(np.int32)) for x in (score_mul, score_pre, mul, pre)]
    wanted = (torch.from_numpy(x) for x in (q, k, v))
    want = dialect.attention(*wanted, heads, *as_int32[:2], score_shift, bits, *as_int32[2:], shift, 1, *levels)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@pytest.mark.parametrize(
    "sizes",
    [
        (3, 197, 197, 64, 64),
        (2, 50, 50, 32, 32),
        (1, 30, 30, 72, 72),
        (1, 17, 17, 80, 80),
        (1, 1, 1, 1, 1),
        (2, 5, 40, 3, 9),
    ],
    ids=str,
)
def test_shapes(machine, run, sizes):
    check(machine, run, sizes, batch=2)


@pytest.mark.parametrize("kind", ["lowest", "highest", "outlier"])
@pytest.mark.parametrize("bits", [8, 11, 15])
def test_extremes_and_widths_of_the_exponentials(machine, run, bits, kind):
    check(machine, run, (2, 19, 33, 16, 16), bits=bits, kind=kind)


@pytest.mark.parametrize(("levels", "score_shift"), [((1, 256), 17), ((93, 64), 16), ((128, 16), 12), ((2047, 3), 15)])
@pytest.mark.parametrize("kind", ["random", "outlier"])
def test_levels(machine, run, levels, kind, score_shift):
    check(machine, run, (2, 19, 33, 16, 16), bits=15, kind=kind, score_shift=score_shift, levels=levels)


@pytest.mark.parametrize("score_shift", [0, 15, 16, 17, 30])
def test_shifts_of_the_scores(machine, run, score_shift):
    check(machine, run, (2, 19, 33, 16, 16), bits=15, score_shift=score_shift)


@pytest.mark.parametrize("sizes", [(1, 90, 90, 16, 16), (2, 40, 33, 16, 24)], ids=str)
def test_every_cut(machine, run, sizes):
    cuts = Heads(*sizes, machine[1]).cuts
    assert cuts[0] == RULE and len(set(cuts)) == len(cuts) > 1
    for cut in cuts:
        check(machine, run, sizes, batch=2, cut=cut)


@pytest.mark.parametrize("splits", [-1, 3])
def test_more_tasks_than_blocks_are_refused(splits):
    with pytest.raises(ValueError, match=f"2 blocks of queries cannot be cut into {splits} tasks"):
        kernels.attention(Heads(1, 16, 16, 8, 8, AVX2, Cut(None, splits)), 15, 13, Epilogue((Requantize(15),)))


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 40)] * 4),
    st.integers(1, 3),
    st.integers(8, 15),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, sizes, batch, bits, seed):
    check(machine, run, sizes, batch, bits, seed)


@settings(deadline=None)
@given(st.integers(1, 24), st.integers(1, 2000))
def test_tasks_of_a_head_share_its_blocks(heads, tokens):
    sizes = Heads(heads, tokens, tokens, 64, 64, AVX2)
    assert 1 <= sizes.splits <= sizes.blocks
    assert heads * sizes.splits >= min(TASKS, heads * sizes.blocks)


def test_two_threads_share_three_heads_evenly():
    assert Heads(3, 197, 197, 64, 64, AVX512_VNNI).splits == 2
