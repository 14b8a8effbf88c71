"""`product` of every tile against `intvit::linear` and the operations of its epilogue, bit by bit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import EXTREMES, Case, activated, added, biased, int8, requantized, requantized_alike, rows, sums, tensor

from intvit.dialect.linear import linear
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.kernels.cuda.product import LARGE, MEDIUM, NARROW, SMALL, Tile, packed_weights, product, tiles
from intvit.kernels.epilogue import Epilogue

TILES = (LARGE, NARROW, MEDIUM, SMALL)
Make = Callable[[np.random.Generator, int, int], Case]
EPILOGUES: dict[str, tuple[Make, int, int, int]] = {
    # with K, N and the elements between rows of the result: whole tiles, padded rows, rows that are not padded
    "sums": (sums, 592, 40, 48),
    "alike": (requantized_alike, 48, 39, 39),
    "channels": (lambda random, rows, n: requantized(random, rows, n, "int8", 13, -3), 192, 200, 208),
    "gelu": (activated, 65, 96, 96),
    "shared gelu": (lambda random, rows, n: activated(random, rows, n, shared=True), 1, 130, 130),
    "rows": (added, 200, 33, 48),
    "tokens": (lambda random, rows, n: added(random, rows, n, tokens=49), 130, 129, 144),
}
ROWS = (1, 49, 130, 197)


@pytest.fixture(scope="module")
def kernel(device) -> Callable[[int, int, Epilogue, Tile, int], DeviceKernel]:
    """Kernels by their sizes; those of all tiles are compiled together."""
    made: dict[tuple[int, int, Epilogue, int], dict[Tile, DeviceKernel]] = {}

    def make(k: int, n: int, epilogue: Epilogue, tile: Tile, stride: int) -> DeviceKernel:
        key = (k, n, epilogue, stride)
        if key not in made:
            width = padded(k, 16)
            made[key] = {tile: product(k, n, width, epilogue, tile, device.arch, stride) for tile in TILES}
            device.compile(list(made[key].values()))
        return made[key][tile]

    return make


def check(
    device,
    kernel: DeviceKernel,
    case: Case,
    x: np.ndarray,
    w: np.ndarray,
    stride: int,
    seed: int = 0,
    bits: int = 8,
) -> None:
    count, n = len(x), len(w)
    inputs = [rows(x), packed_weights(w, bits), *case.operands]
    y = device.run(kernel, inputs, (count, stride), case.epilogue.dtype, count, seed)
    want = case.reference(linear(tensor(x)[None], tensor(w), torch.zeros(n, dtype=torch.int32)))
    np.testing.assert_array_equal(y[:, :n], want[0].numpy())


@pytest.mark.parametrize("tile", TILES, ids=["large", "narrow", "medium", "small"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_every_epilogue(device, kernel, name, tile):
    make, k, n, stride = EPILOGUES[name]
    for count in ROWS:
        random = np.random.default_rng(count)
        case = biased(random, make(random, count, n), n)
        function = kernel(k, n, case.epilogue, tile, stride)
        check(device, function, case, int8(random, (count, k)), int8(random, (n, k)), stride, count)


@pytest.mark.parametrize("tile", TILES, ids=["large", "narrow", "medium", "small"])
@pytest.mark.parametrize("kind", EXTREMES)
def test_extremes(device, kernel, kind, tile):
    make, k, n, stride = EPILOGUES["sums"]
    random = np.random.default_rng(0)
    case = biased(random, make(random, 60, n), n)
    function = kernel(k, n, case.epilogue, tile, stride)
    for other in (kind, "highest"):
        check(device, function, case, int8(random, (60, k), kind), int8(random, (n, k), other), stride)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 140), st.integers(1, 300), st.integers(1, 140), st.sampled_from(TILES), st.booleans(), st.data())
def test_any_shape(device, count, k, n, tile, whole, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    dtype = data.draw(st.sampled_from(["int8", "int16"]))
    case = requantized(random, count, n, dtype, data.draw(st.integers(0, 15)), data.draw(st.integers(-128, 127)))
    case = biased(random, case, n)
    stride = padded(n, 16) if whole else n
    function = product(k, n, padded(k, 16), case.epilogue, tile, device.arch, stride)
    x, w = int8(random, (count, k)), int8(random, (n, k))
    check(device, function, case, x, w, stride, data.draw(st.integers(0, 2**31)))


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
@pytest.mark.parametrize("n", [1, 10, 32, 64, 65, 128, 192, 200, 384, 576, 1000])
def test_tiles_to_choose_from(arch, n):
    """The largest first, as the loader wants them; they fit the shared memory; none is mostly idle."""
    found = tiles(n, arch)
    sizes = [tile.rows * tile.columns for tile in found]
    assert sizes == sorted(sizes, reverse=True) and len(set(found)) == len(found)
    assert all(tile.shared <= arch.shared for tile in found)
    assert found[-1] == SMALL
    assert padded(n, found[0].columns) <= 2 * padded(n, 64)


FOUR_BITS = {"sums": (592, 40, 48), "channels": (192, 200, 208), "alike": (65, 39, 39), "rows": (1, 33, 48)}
"""Epilogues of products with weights of 4 bits; K, N and the elements between rows of the result."""


@pytest.mark.parametrize("name", FOUR_BITS)
def test_weights_of_four_bits(device, name):
    make, (k, n, stride) = EPILOGUES[name][0], FOUR_BITS[name]
    random = np.random.default_rng(k)
    cases = [biased(random, make(random, count, n), n) for count in (1, 130)]
    width = padded(k, 16)
    kernels = {
        (tile, i): product(k, n, width, case.epilogue, tile, device.arch, stride, bits=4)
        for tile in TILES
        for i, case in enumerate(cases)
    }
    device.compile(list(kernels.values()))
    for (_, i), function in kernels.items():
        for low, high, kind in ((-8, 7, "random"), (-8, -8, "lowest"), (7, 7, "lowest"), (-8, -8, "highest")):
            x = int8(random, (1 if i == 0 else 130, k), kind)
            check(device, function, cases[i], x, random.integers(low, high + 1, (n, k)).astype(np.int8), stride, bits=4)


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 140), st.integers(1, 300), st.integers(1, 140), st.sampled_from(TILES), st.data())
def test_any_shape_with_weights_of_four_bits(device, count, k, n, tile, data):
    seed = data.draw(st.integers(0, 2**31))
    random = np.random.default_rng(seed)
    case = biased(random, requantized(random, count, n, "int8", data.draw(st.integers(0, 15)), -3), n)
    function = product(k, n, padded(k, 16), case.epilogue, tile, device.arch, padded(n, 16), bits=4)
    w = random.integers(-8, 8, (n, k)).astype(np.int8)
    check(device, function, case, int8(random, (count, k)), w, padded(n, 16), seed, bits=4)


def test_weights_of_four_bits_have_limits(device):
    epilogue = Epilogue((), "int32")
    with pytest.raises(ValueError, match="no product of depth 65537 with weights of 4 bits"):
        product(2**16 + 1, 8, 2**16 + 16, epilogue, SMALL, device.arch, 16, bits=4)
    with pytest.raises(ValueError, match="4 bits hold -8 to 7"):
        packed_weights(np.full((3, 3), 8, np.int8), bits=4)


def test_packed_weights_are_the_weights_and_zeros():
    w = int8(np.random.default_rng(0), (70, 100))
    packed = packed_weights(w)
    assert packed.shape == (96, 128)
    assert sorted(map(bytes, packed[:, :100])) == sorted(map(bytes, np.pad(w, ((0, 26), (0, 0)))))
    assert not packed[:, 100:].any()
