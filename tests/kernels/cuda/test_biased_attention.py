"""`biased_attention`, and `attention` in windows, against the dialect, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import columns, int8, rows, tensor

from intvit.dialect import OPERATIONS
from intvit.kernels.cuda.attention import attention
from intvit.kernels.cuda.biased_attention import biased_attention
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.heads import Heads
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.score_bias import MASK, ScoreBias
from intvit.softmax_levels import SoftmaxLevels

Sizes = tuple[int, int, int, int, int]
"""Heads, queries, keys, head size, value size."""


def check(
    device,
    sizes: Sizes,
    windows: int = 2,
    bits: int = 15,
    *,
    masks: float = 0.3,
    shared: bool = False,
    biased: bool = True,
    shift: int = 14,
    seed: int = 0,
    levels: tuple[int, ...] = (),
) -> None:
    random = np.random.default_rng(seed)
    heads, queries, keys, d, e = sizes
    q, k, v = (
        int8(random, (2, windows * tokens, heads * width)) for tokens, width in ((queries, d), (keys, d), (keys, e))
    )
    score_pre, score_mul = random.integers(0, 7, heads), random.integers(500, 32768, heads)
    pre, mul = random.integers(0, 3, heads * e), random.integers(-32768, 32768, heads * e)
    strides = tuple(padded(width, 16) for width in (heads * d, heads * d, heads * e, heads * e))
    stages = Epilogue((Requantize(12),))
    inputs = [rows(x, stride) for x, stride in zip((q, k, v), strides, strict=False)]
    inputs += [score_pre.astype(np.int8), score_mul.astype(np.int16)]
    scores, result = ([tensor(x.astype(np.int32)) for x in pair] for pair in ((score_mul, score_pre), (mul, pre)))
    wanted = tensor(q), tensor(k), tensor(v), heads
    fixed = Heads(*sizes, strides), shift, bits, stages, device.arch
    more = {"levels": SoftmaxLevels(*levels)} if levels else {}
    if biased:
        bias = random.integers(-3000, 3000, (3, 1 if shared else heads, queries, keys)).astype(np.int16)
        bias[random.random(bias.shape) < masks] = MASK
        bias[:, :, 0] = MASK if masks else 7
        kinds = random.integers(0, 3, windows).astype(np.int32)
        kernel = biased_attention(*fixed, ScoreBias(3, bias.shape[1], queries, keys, windows, masks > 0), **more)
        inputs += [bias.reshape(-1, keys), kinds]
        want = OPERATIONS["biased_attention"].call(
            *wanted, windows, *scores, shift, tensor(bias), tensor(kinds), bits, *result, 12, *levels
        )
    else:
        kernel = attention(*fixed, **more)
        want = OPERATIONS["attention"].call(*wanted, *scores, shift, bits, *result, 12, windows, *levels)
    inputs += [columns(pre, "int8"), columns(mul, "int16")]
    y = device.run(kernel, inputs, (2 * windows * queries, strides[3]), "int8", 2 * windows, seed)
    np.testing.assert_array_equal(y[:, : heads * e], want.numpy().reshape(-1, heads * e))


@pytest.mark.parametrize(
    ("sizes", "windows", "biased"),
    [((2, 49, 49, 32, 32), 2, True), ((1, 70, 130, 16, 24), 1, True), ((3, 1, 5, 6, 7), 2, False)],
    ids=str,
)
def test_shapes(device, sizes, windows, biased):
    check(device, sizes, windows, biased=biased)


@pytest.mark.parametrize(("masks", "bits", "shift"), [(0.0, 8, 9), (1.0, 8, 14), (0.3, 15, 16)])
def test_masks_and_widths(device, masks, bits, shift):
    check(device, (2, 19, 33, 16, 16), bits=bits, shift=shift, masks=masks, shared=bits == 8)


@pytest.mark.parametrize(
    ("masks", "biased", "levels"),
    [(0.3, True, (93, 64)), (1.0, True, (2048, 256)), (0.0, True, (1, 256)), (0.0, False, (128, 16))],
)
def test_levels(device, masks, biased, levels):
    check(device, (2, 19, 33, 16, 16), masks=masks, biased=biased, shift=16, levels=levels)


@settings(max_examples=2, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 80), st.integers(1, 80), st.integers(1, 80)),
    st.integers(1, 3),
    st.integers(8, 15),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(device, sizes, windows, bits, shared, seed):
    check(device, sizes, windows, bits, shared=shared, seed=seed)
