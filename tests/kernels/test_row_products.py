"""`row_products` against `intvit::product` and the stages of its epilogue, bit by bit."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from intvit.dialect.product import product
from intvit.dialect.requantize import requantize
from intvit.kernels import pack
from intvit.kernels import row_products as kernels
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, NARROW, SSE2, WIDE
from intvit.kernels.product import TASKS
from intvit.kernels.row_products import MOST_TURNED, Groups

SUMS = Epilogue((), "int32")

row_products = cache(kernels.row_products)


def operands(seed, batch, sizes, kind="random"):
    random = np.random.default_rng(seed)
    groups, m, n, k = sizes
    a, b = (random.integers(-128, 128, (batch * groups * rows, k)).astype(np.int8) for rows in (m, n))
    if kind != "random":
        a[:], b[:] = {"lowest": (-128, -128), "highest": (127, 127), "apart": (-128, 127)}[kind]
    return a, b


def sums(a, b, batch, groups):
    left, right = (torch.from_numpy(x).unflatten(0, (batch, -1)) for x in (a, b))
    return product(left, right, groups)


def check(machine, run, sizes, batch=2, kind="random", seed=0):
    """`sizes`: groups, rows and columns of each, depth."""
    a, b = operands(seed, batch, sizes, kind)
    y = run(row_products(Groups(*sizes, machine[1]), SUMS), [a, b], (len(a), sizes[2]), "int32")
    np.testing.assert_array_equal(y, sums(a, b, batch, sizes[0]).numpy().reshape(y.shape))


@pytest.mark.parametrize(
    "sizes", [(1, 70, 100, 48), (40, 7, 5, 3), (1, 1, 1, 1), (2, 16, 17, 200), (1, 5, 48, 96)], ids=str
)
def test_shapes(machine, run, sizes):
    check(machine, run, sizes)


def test_extremes(machine, run):
    for kind in ("lowest", "highest", "apart"):
        check(machine, run, (1, 20, 33, 70), kind=kind)


@pytest.mark.parametrize(("n", "dtype", "per_channel"), [(48, "int8", False), (37, "int16", True)])
def test_requantization(machine, run, n, dtype, per_channel):
    random = np.random.default_rng(n)
    sizes, batch = (2, 30, n, 65), 3
    a, b = operands(n, batch, sizes)
    limits = np.iinfo(dtype)
    pre, mul = random.integers(0, 9, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
    if not per_channel:
        pre[:], mul[:] = 5, 29000
    fixed = {} if per_channel else dict(pre=5, mul=29000)
    stages = Epilogue((Requantize(14, limits.min, limits.max, zero_point=3, **fixed),), dtype)
    vectors = dict(pre=pre, mul=mul)
    inputs = [a, b, *(pack.channels(vectors[o.name], n, o.dtype, machine[1]) for o in stages.operands)]
    y = run(row_products(Groups(*sizes, machine[1]), stages), inputs, (len(a), n), dtype)
    want = requantize(sums(a, b, batch, sizes[0]), torch.from_numpy(mul), torch.from_numpy(pre), 14, 3, dtype)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@settings(max_examples=2, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 80), st.integers(1, 90)),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, sizes, batch, seed):
    check(machine, run, sizes, batch, seed=seed)


@pytest.mark.parametrize("isa", [AMX, AVX512_VNNI, AVX512, AVX2, SSE2, WIDE, NARROW], ids=lambda isa: isa.name)
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 300))
@example(1, 1, 1297, 145)
def test_how_a_group_is_cut(isa, groups, m, n, k):
    sizes = Groups(groups, m, n, k, isa)
    across, down = sizes.splits
    assert 1 <= across <= sizes.panels and 1 <= down <= sizes.tiles and sizes.together >= 1
    assert sizes.together == 1 or across * down == 1
    turned = -(-sizes.panels // across) * sizes.turned_steps * sizes.isa.panel * 4
    assert turned <= MOST_TURNED or across == sizes.panels
    assert sizes.together == 1 or groups // sizes.together >= TASKS


@pytest.mark.parametrize("sizes", [(1, 196, 196, 48), (1, 196, 48, 196), (4, 196, 196, 48)], ids=str)
def test_large_groups_are_shared_among_threads(sizes):
    cut = Groups(*sizes, AVX512_VNNI)
    across, down = cut.splits
    assert sizes[0] * across * down >= min(TASKS, cut.multiply_adds // (1 << 17))
