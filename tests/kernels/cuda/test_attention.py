"""`attention` against `intvit::attention`, bit by bit."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from operands import columns, int8, rows, tensor

from intvit.dialect import attention as dialect
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.attention import Heads, attention
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.softmax_levels import SoftmaxLevels

Sizes = tuple[int, int, int, int, int]
"""Heads, queries, keys, head size, value size."""


def check(
    device,
    sizes: Sizes,
    batch: int = 2,
    bits: int = 13,
    *,
    kind: str = "random",
    seed: int = 0,
    whole: bool = True,
    score_shift: int | None = None,
    levels: tuple[int, ...] = (),
) -> None:
    random = np.random.default_rng(seed)
    heads, queries, keys, d, e = sizes
    q, k, v = (
        int8(random, (batch, tokens, heads * width), kind) for tokens, width in ((queries, d), (keys, d), (keys, e))
    )
    if kind == "far":
        q[:], k[:, -1], k[:, :-1], v[:] = 127, 127, -128, 127
    score_shift = int(random.integers(10, 19)) if score_shift is None else score_shift
    score_pre, score_mul = random.integers(0, 7, heads), random.integers(500, 32768, heads)
    pre, mul = random.integers(0, 3, heads * e), random.integers(-32768, 32768, heads * e)
    shift = int(random.integers(8, 16))
    widths = (heads * d, heads * d, heads * e, heads * e)
    strides = tuple(padded(width, 16) if whole else width for width in widths)
    stages = Epilogue((Requantize(shift),))
    known = SoftmaxLevels(*levels) if levels else None
    kernel = attention(Heads(*sizes, strides), score_shift, bits, stages, device.arch, levels=known)
    inputs = [rows(x, stride) for x, stride in zip((q, k, v), strides, strict=False)]
    inputs += [score_pre.astype(np.int8), score_mul.astype(np.int16), columns(pre, "int8"), columns(mul, "int16")]
    y = device.run(kernel, inputs, (batch * queries, strides[3]), "int8", batch, seed)
    as_int32 = [tensor(x.astype(np.int32)) for x in (score_mul, score_pre, mul, pre)]
    want = dialect.attention(
        tensor(q), tensor(k), tensor(v), heads, *as_int32[:2], score_shift, bits, *as_int32[2:], shift, 1, *levels
    )
    np.testing.assert_array_equal(y[:, : heads * e], want.numpy().reshape(-1, heads * e))


@pytest.mark.parametrize(
    "sizes",
    [
        (3, 197, 197, 64, 64),
        (4, 49, 49, 32, 32),
        (2, 50, 50, 72, 72),
        (1, 17, 17, 80, 80),
        (1, 1, 1, 1, 1),
        (5, 65, 65, 6, 6),
        (3, 64, 64, 12, 12),
        (2, 257, 257, 96, 96),
        (2, 65, 130, 128, 128),
        (2, 5, 40, 3, 9),
        (3, 1, 197, 64, 64),
        (1, 20, 128, 40, 200),
    ],
    ids=str,
)
def test_shapes(device, sizes):
    check(device, sizes)


@pytest.mark.parametrize("sizes", [(64, 3, 5, 4, 2), (128, 2, 5, 1, 1), (128, 3, 4, 3, 3)], ids=str)
def test_heads_of_few_channels_that_fill_the_operands(device, sizes):
    """A lane asks for 4 neighbouring channels, of which a head has fewer: nothing is read behind the operands."""
    check(device, sizes)


def test_long_rows(device):
    check(device, (1, 130, 1370, 64, 64), batch=1)


@pytest.mark.parametrize("kind", ["lowest", "highest", "outlier", "zero rows", "far"])
@pytest.mark.parametrize("bits", [8, 13, 15])
def test_extremes_and_widths_of_the_exponentials(device, bits, kind):
    check(device, (2, 19, 33, 16, 16), bits=bits, kind=kind, score_shift=14)


@pytest.mark.parametrize("kind", ["highest", "lowest"])
def test_the_largest_sums(device, kind):
    """257 keys of equal weight, 15 bits: the sums are within a factor of two of int32's limit."""
    check(device, (1, 64, 257, 16, 16), bits=15, kind=kind)


@pytest.mark.parametrize("score_shift", [0, 15, 16, 17, 30])
def test_shifts_of_the_scores(device, score_shift):
    check(device, (2, 19, 33, 16, 16), bits=15, score_shift=score_shift)


@pytest.mark.parametrize(("levels", "score_shift"), [((1, 256), 17), ((93, 64), 16), ((128, 16), 0), ((2047, 3), 15)])
@pytest.mark.parametrize("kind", ["random", "far"])
def test_levels(device, levels, kind, score_shift):
    check(device, (2, 19, 33, 16, 16), bits=15, kind=kind, score_shift=score_shift, levels=levels)


@pytest.mark.parametrize("bits", range(8, 16))
def test_every_width_of_the_exponentials(device, bits):
    check(device, (1, 10, 70, 32, 32), bits=bits, score_shift=12)


@pytest.mark.parametrize("sizes", [(2, 30, 70, 24, 24), (3, 20, 20, 6, 6), (2, 9, 30, 33, 7)], ids=str)
def test_rows_that_are_not_padded(device, sizes):
    check(device, sizes, whole=False)


@settings(max_examples=5, deadline=None)
@example((1, 70, 70, 64, 64), 1, 8, False, 1)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 90), st.integers(1, 150), st.integers(1, 128), st.integers(1, 128)),
    st.integers(1, 3),
    st.integers(8, 15),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(device, sizes, batch, bits, whole, seed):
    check(device, sizes, batch, bits, whole=whole, seed=seed)


def test_the_order_of_warps_does_not_matter(device):
    for seed in range(3):
        check(device, (1, 70, 150, 32, 32), seed=seed)


@pytest.mark.parametrize("size", range(1, 129))
def test_every_head_size_fits_every_architecture(size):
    """Its tiles fit the shared memory that a block may have, and the channels of its blocks are those of the head."""
    sizes = partial(Heads, 3, 197, 197, size, size, (padded(3 * size, 16),) * 4)()
    assert all(sizes.shared <= arch.shared for arch in ARCHS.values())
    assert sizes.blocks * 64 >= sizes.queries > (sizes.blocks - 1) * 64
    assert sizes.parts * sizes.channels >= size > (sizes.parts - 1) * sizes.channels
