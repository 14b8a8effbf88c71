"""`unfold`, `depthwise` and `pool` against their operations."""

import math

import numpy as np
import pytest
import torch
from operands import Case, added, biased, columns, int8, requantized, rows, sums, tensor

from intvit.dialect import windows as dialect
from intvit.geometry import Geometry
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.windows import depthwise, pool, unfold

GEOMETRIES = [
    ([7, 5], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 85),
    ([6, 9], [3, 2], [2, 1], [1, 0, 0, 2], [1, 2], 16),
    ([8, 8], [7, 7], [2, 2], [3, 3, 3, 3], [1, 1], 3),
    ([5, 4], [5, 4], [1, 1], [0, 0, 0, 0], [1, 1], 40),
    ([3, 3], [1, 1], [1, 1], [0, 0, 0, 0], [1, 1], 192),
]
each_geometry = pytest.mark.parametrize("lists", GEOMETRIES, ids=str)
BATCH = 2


@each_geometry
def test_unfold(device, lists):
    check_unfold(device, lists, whole=True)


def test_unfold_as_an_output(device):
    check_unfold(device, GEOMETRIES[0], whole=False)


@pytest.mark.parametrize("n", [3, 8])
def test_unfold_of_an_image(device, n):
    """Its pixels, less 128."""
    random = np.random.default_rng(0)
    *windows, _ = GEOMETRIES[2]
    x, fill = int8(random, (BATCH, math.prod(windows[0]), n)), random.integers(-128, 128, n).astype(np.int32)
    want = dialect.unfold(tensor(x), tensor(fill), *windows).numpy()
    count, width = BATCH * want.shape[1], want.shape[2]
    kernel = unfold(n, Geometry.of(*windows), n, padded(width, 16), "uint8")
    image = (x.astype(np.int16) + 128).astype(np.uint8)
    y = device.run(kernel, [image, columns(fill, "int8")], (count, padded(width, 16)), "int8", count)
    np.testing.assert_array_equal(y[:, :width], want.reshape(count, width))


def check_unfold(device, lists, whole: bool) -> None:
    random = np.random.default_rng(0)
    *windows, n = lists
    x, fill = int8(random, (BATCH, math.prod(windows[0]), n)), random.integers(-128, 128, n).astype(np.int32)
    want = dialect.unfold(tensor(x), tensor(fill), *windows).numpy()
    count, width = BATCH * want.shape[1], want.shape[2]
    stride = padded(width, 16) if whole else width
    kernel = unfold(n, Geometry.of(*windows), padded(n, 16), stride)
    y = device.run(kernel, [rows(x), columns(fill, "int8")], (count, stride), "int8", count)
    np.testing.assert_array_equal(y[:, :width], want.reshape(count, width))


def check_depthwise(device, lists, make, whole: bool = True) -> None:
    random = np.random.default_rng(1)
    *windows, n = lists
    geometry = Geometry.of(*windows)
    x, weight = int8(random, (BATCH, geometry.pixels, n)), int8(random, (geometry.taps, n))
    x[0, 0], weight[:, 0] = -128, -128
    fill, zero = random.integers(-128, 128, n).astype(np.int32), torch.zeros(n, dtype=torch.int32)
    count = BATCH * geometry.tokens
    case: Case = biased(random, make(random, count, n), n)
    acc = dialect.depthwise(tensor(x), tensor(weight), zero, tensor(fill), *windows).flatten(0, 1)
    want = case.reference(acc[None])[0].numpy()
    stride = padded(n, 16) if whole else n
    kernel = depthwise(n, geometry, padded(n, 16), stride, case.epilogue)
    weights = np.zeros((geometry.taps, padded(n, 16)), np.int8)
    weights[:, :n] = weight
    inputs = [rows(x), weights, columns(fill, "int8"), *case.operands]
    y = device.run(kernel, inputs, (count, stride), case.epilogue.dtype, count)
    np.testing.assert_array_equal(y[:, :n], want)


@each_geometry
def test_depthwise(device, lists):
    check_depthwise(device, lists, sums)


@pytest.mark.parametrize("make", [added, lambda random, count, n: requantized(random, count, n, "int8", 15, 5)])
def test_depthwise_with_an_epilogue(device, make):
    check_depthwise(device, GEOMETRIES[0], make)
    check_depthwise(device, GEOMETRIES[3], make, whole=False)


@pytest.mark.parametrize(
    ("kind", "dtype", "whole"),
    [("mean", "int16", True), ("max", "int8", True), ("mean", "int8", False), ("max", "int16", False)],
)
def test_pool(device, kind, dtype, whole):
    random, limits = np.random.default_rng(2), np.iinfo(dtype)
    for *windows, dilation, n in GEOMETRIES[::2] if whole else GEOMETRIES[3:4]:
        geometry = Geometry.of(*windows)
        assert dilation == [1, 1]
        x = random.integers(limits.min, limits.max + 1, (BATCH + 1, geometry.pixels, n)).astype(dtype)
        x[1], x[2, ::2] = limits.min, limits.max
        pre, mul = random.integers(0, 7, geometry.tokens), random.integers(-(2**15), 2**15, geometry.tokens)
        dyadic = [tensor(values.astype(np.int32)) for values in (mul, pre)]
        want = dialect.pool(tensor(x), *windows, kind, *dyadic, 14, dtype).numpy()
        count, stride = (BATCH + 1) * geometry.tokens, padded(n, 16) if whole else n
        kernel = pool(n, geometry, kind, 14, padded(n, 16), stride, dtype)
        operands = [mul.astype(np.int16), pre.astype(np.int8)] if kind == "mean" else []
        y = device.run(kernel, [rows(x), *operands], (count, stride), dtype, count)
        np.testing.assert_array_equal(y[:, :n], want.reshape(count, n))
