"""`row_products` of every tile against `intvit::product` and the operations of its epilogue, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import Case, added, int8, requantized, requantized_alike, rows, sums, tensor

from intvit.dialect.product import product
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.fragments import GROUP, padded, place
from intvit.kernels.cuda.product import LARGE, MEDIUM, NARROW, SMALL
from intvit.kernels.cuda.row_products import Groups, column_of, row_products

TILES = (LARGE, NARROW, MEDIUM, SMALL)
Sizes = tuple[int, int, int, int]
"""Groups, rows and columns of each, depth."""


def check(device, sizes: Sizes, case: Case, batch: int = 2, tile=None, kind="random", *, whole=True, seed=0) -> None:
    random = np.random.default_rng(seed)
    groups, m, n, k = sizes
    a, b = (int8(random, (batch, groups * count, k), kind) for count in (m, n))
    strides = (padded(k, 16) if whole else k,) * 2 + (padded(n, 16) if whole else n,)
    kernel = row_products(Groups(*sizes, strides), case.epilogue, device.arch, tile=tile)
    inputs = [rows(a, strides[0]), rows(b, strides[1]), *case.operands]
    y = device.run(kernel, inputs, (batch * groups * m, strides[2]), case.epilogue.dtype, batch, seed)
    want = case.reference(product(tensor(a), tensor(b), groups).reshape(1, -1, n))
    np.testing.assert_array_equal(y[:, :n], want[0].numpy())


def plain(n: int) -> Case:
    return sums(np.random.default_rng(0), 0, n)


@pytest.mark.parametrize("tile", TILES, ids=["large", "narrow", "medium", "small"])
def test_every_tile(device, tile):
    check(device, (2, 70, 90, 200), plain(90), tile=tile)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "sizes", [(3, 7, 5, 49), (2, 16, 33, 16), (1, 1, 1, 1), (5, 3, 17, 8), (1, 40, 40, 66)], ids=str
)
def test_shapes(device, sizes, whole):
    """Rows that are padded with anything, and rows that are not padded."""
    check(device, sizes, plain(sizes[2]), whole=whole)


@pytest.mark.parametrize("kind", ["lowest", "highest", "outlier"])
def test_extremes(device, kind):
    check(device, (1, 20, 33, 70), plain(33), kind=kind)


@pytest.mark.parametrize("name", ["alike", "channels", "rows", "tokens"])
def test_every_epilogue(device, name):
    random, sizes, batch = np.random.default_rng(0), (2, 9, 40, 30), 2
    count = batch * sizes[0] * sizes[1]
    case = {
        "alike": lambda: requantized_alike(random, count, 40),
        "channels": lambda: requantized(random, count, 40, "int8", 13, -3),
        "rows": lambda: added(random, count, 40),
        "tokens": lambda: added(random, count, 40, tokens=18),
    }[name]()
    check(device, sizes, case, batch)


@settings(max_examples=2, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 80), st.integers(1, 80), st.integers(1, 150)),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(device, sizes, batch, whole, seed):
    check(device, sizes, plain(sizes[2]), batch, whole=whole, seed=seed)


def test_columns_are_placed_as_those_of_weights():
    assert [column_of(place(column)) for column in range(2 * GROUP)] == list(range(2 * GROUP))


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        ((4, 196, 196, 48), MEDIUM),
        ((16, 16, 16, 3136), SMALL),
        ((64, 512, 512, 64), LARGE),
        ((200, 64, 49, 64), MEDIUM),
    ],
    ids=str,
)
def test_the_tile_that_is_chosen(arch, sizes, tile):
    found = Groups(*sizes, (64, 64, 64)).tile(arch)
    assert found == tile and found.shared <= arch.shared
