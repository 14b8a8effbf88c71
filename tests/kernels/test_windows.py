"""`unfold`, `depthwise` and `pool` against their operations, bit by bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import windows as dialect
from intvit.dialect.requantize import add, requantize
from intvit.geometry import Geometry
from intvit.kernels import pack
from intvit.kernels.depthwise import depthwise, taps
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize
from intvit.kernels.pool import pool
from intvit.kernels.unfold import unfold

GEOMETRIES = [
    ([7, 5], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([14, 14], [3, 3], [2, 2], [0, 0, 1, 1], [1, 1]),
    ([9, 12], [7, 7], [1, 1], [3, 3, 3, 3], [1, 1]),
    ([8, 8], [5, 5], [2, 2], [2, 2, 2, 2], [1, 1]),
    ([6, 5], [6, 5], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([4, 4], [1, 1], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([1, 1], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([9, 9], [2, 3], [3, 1], [0, 2, 1, 3], [3, 2]),
    ([2, 5], [2, 2], [9, 9], [3, 8, 0, 0], [1, 1]),
]
Lists = tuple[list[int], list[int], list[int], list[int], list[int]]
CHANNELS = (85, 3, 64, 37, 130, 33, 5, 48, 16)
CASES = list(zip(GEOMETRIES, CHANNELS, strict=True))


@st.composite
def geometries(draw: st.DrawFn) -> Lists:
    axes = []
    for _ in range(2):
        size, kernel, dilation = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
        before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        after += max(0, (kernel - 1) * dilation + 1 - size - before - after)
        axes.append((size, kernel, draw(st.integers(1, 3)), before, after, dilation))
    size, kernel, stride, before, after, dilation = (list(pair) for pair in zip(*axes, strict=True))
    return size, kernel, stride, [*before, *after], dilation


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def operands(seed: int, lists: Lists, n: int, batch: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, weights, biases, and what lies outside of the image."""
    random = np.random.default_rng(seed)
    x, weight = (
        random.integers(-128, 128, (*shape, n)).astype(np.int8)
        for shape in ((batch, math.prod(lists[0])), (math.prod(lists[1]),))
    )
    x[0, 0], weight[:, 0] = -128, -128
    return (
        x,
        weight,
        random.integers(-(2**20), 2**20, n).astype(np.int32),
        random.integers(-128, 128, n).astype(np.int32),
    )


@pytest.fixture(autouse=True)
def _once(machine) -> None:
    """These kernels are alike on a CPU with tiles and on one without."""
    if machine[1].tiles:
        pytest.skip("no kernel of windows uses tiles")


def check_unfold(machine, run, lists: Lists, n: int, seed: int = 0) -> None:
    x, _, _, fill = operands(seed, lists, n)
    want = dialect.unfold(tensor(x), tensor(fill), *lists).numpy()
    want = want.reshape(-1, want.shape[-1])
    kernel = unfold(n, Geometry.of(*lists), machine[1])
    inputs = [x.reshape(-1, n), np.tile(fill.astype(np.int8), lists[1][1])]
    np.testing.assert_array_equal(run(kernel, inputs, want.shape, "int8"), want)


def check_depthwise(machine, run, lists: Lists, n: int, seed: int = 0) -> None:
    """The sums themselves."""
    isa, geometry = machine[1].vector, Geometry.of(*lists)
    x, weight, bias, fill = operands(seed, lists, n)
    want = dialect.depthwise(tensor(x), tensor(weight), tensor(bias), tensor(fill), *lists).numpy().reshape(-1, n)
    kernel = depthwise(n, geometry, Epilogue((Bias(),), "int32"), isa)
    inputs = [x.reshape(-1, n), taps(weight, geometry, isa), pack.channels(fill, n, "int8", isa)]
    y = run(kernel, [*inputs, pack.bias(bias, weight.T, isa)], want.shape, "int32")
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(("lists", "n"), [CASES[i] for i in (0, 1, 7, 8)], ids=str)
def test_unfold(machine, run, lists, n):
    check_unfold(machine, run, lists, n)


@pytest.mark.parametrize(("lists", "n"), [(GEOMETRIES[1], 3), (GEOMETRIES[0], 70)], ids=str)
def test_unfold_of_an_image(machine, run, lists, n):
    """Its pixels, less 128."""
    x, _, _, fill = operands(3, lists, n)
    want = dialect.unfold(tensor(x), tensor(fill), *lists).numpy()
    want = want.reshape(-1, want.shape[-1])
    image = (x.astype(np.int16) + 128).astype(np.uint8).reshape(-1, *lists[0], n)
    kernel = unfold(n, Geometry.of(*lists), machine[1], image=True)
    y = run(kernel, [image, np.tile(fill.astype(np.int8), lists[1][1])], want.shape, "int8")
    np.testing.assert_array_equal(y, want)


@settings(max_examples=2, deadline=None)
@given(geometries(), st.integers(1, 70), st.integers(0, 2**31))
def test_unfold_of_any_shape(machine, run, lists, n, seed):
    check_unfold(machine, run, lists, n, seed)


@pytest.mark.parametrize(("lists", "n"), CASES, ids=str)
def test_depthwise(machine, run, lists, n):
    check_depthwise(machine, run, lists, n)


@settings(max_examples=2, deadline=None)
@given(geometries(), st.integers(1, 70), st.integers(0, 2**31))
def test_depthwise_of_any_shape(machine, run, lists, n, seed):
    check_depthwise(machine, run, lists, n, seed)


def test_depthwise_with_a_residual(machine, run):
    isa, n, random = machine[1].vector, 37, np.random.default_rng(0)
    lists = GEOMETRIES[1]
    geometry = Geometry.of(*lists)
    x, weight, bias, fill = operands(n, lists, n)
    sums = dialect.depthwise(tensor(x), tensor(weight), tensor(bias), tensor(fill), *lists)
    arm = random.integers(-(2**15), 2**15, tuple(sums.shape)).astype(np.int16)
    pre, mul = random.integers(0, 12, n).astype(np.int32), random.integers(-(2**14), 2**14 + 1, n).astype(np.int32)
    stages = Epilogue((Bias(), Add(13, arm_pre=1, arm_mul=12345)), "int16")
    inputs = [x.reshape(-1, n), taps(weight, geometry, isa), pack.channels(fill, n, "int8", isa)]
    inputs += [pack.bias(bias, weight.T, isa), pack.channels(pre, n, "int8", isa), pack.channels(mul, n, "int16", isa)]
    y = run(depthwise(n, geometry, stages, isa), [*inputs, arm.reshape(-1, n)], (len(arm[0]) * 2, n), "int16")
    one = [torch.tensor([v], dtype=torch.int32) for v in (12345, 1)]
    want = add(sums, tensor(mul), tensor(pre), tensor(arm), *one, 13)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


def test_depthwise_requantized(machine, run):
    isa, n, lists = machine[1].vector, 70, GEOMETRIES[2]
    geometry = Geometry.of(*lists)
    x, weight, bias, fill = operands(1, lists, n)
    pre = np.random.default_rng(0).integers(4, 9, n).astype(np.int32)
    sums = dialect.depthwise(tensor(x), tensor(weight), tensor(bias), tensor(fill), *lists)
    stages = Epilogue((Bias(), Requantize(21, mul=20011)), "int8")
    inputs = [x.reshape(-1, n), taps(weight, geometry, isa), pack.channels(fill, n, "int8", isa)]
    inputs += [pack.bias(bias, weight.T, isa), pack.channels(pre, n, "int8", isa)]
    y = run(depthwise(n, geometry, stages, isa), inputs, (sums.shape[1] * 2, n), "int8")
    want = requantize(sums, torch.tensor([20011], dtype=torch.int32), tensor(pre), 21, 0, "int8")
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


def check_pool(machine, run, lists: Lists, n: int, kind: str, dtype: str, seed: int = 0) -> None:
    random, geometry = np.random.default_rng(seed), Geometry.of(*lists[:4])
    limits = np.iinfo(dtype)
    x = random.integers(limits.min, limits.max + 1, (3, geometry.pixels, n)).astype(dtype)
    x[1], x[2, ::2] = limits.min, limits.max
    pre = random.integers(0, geometry.taps.bit_length() + 1, geometry.tokens).astype(np.int32)
    mul = random.integers(-(2**15), 2**15, geometry.tokens).astype(np.int32)
    shift = int(random.integers(12, 17))
    want = dialect.pool(tensor(x), *lists[:4], kind, tensor(mul), tensor(pre), shift, dtype).numpy().reshape(-1, n)
    inputs = [x.reshape(-1, n), *([mul.astype(np.int16), pre.astype(np.int8)] if kind == "mean" else [])]
    y = run(pool(n, geometry, kind, shift, machine[1].vector, dtype=dtype), inputs, want.shape, dtype)
    np.testing.assert_array_equal(y, want)


POOLS = [
    ([7, 6], [3, 3], [1, 1], [1, 1, 1, 1], 85, "mean", "int16"),
    ([8, 8], [2, 2], [2, 2], [0, 0, 0, 0], 64, "mean", "int8"),
    ([7, 7], [7, 7], [1, 1], [0, 0, 0, 0], 130, "mean", "int16"),
    ([9, 5], [3, 3], [2, 1], [1, 1, 1, 1], 65, "max", "int8"),
    ([1, 1], [1, 1], [1, 1], [0, 0, 0, 0], 1, "max", "int16"),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "n", "kind", "dtype"), POOLS, ids=str)
def test_pool(machine, run, size, kernel, stride, padding, n, kind, dtype):
    check_pool(machine, run, (size, kernel, stride, padding, [1, 1]), n, kind, dtype)


@settings(max_examples=2, deadline=None)
@given(geometries(), st.integers(1, 70), st.sampled_from(["mean", "max"]), st.integers(0, 2**31))
def test_pool_of_any_shape(machine, run, lists, n, kind, seed):
    kernel, padding = lists[1], lists[3]
    padding = [min(value, kernel[i % 2] - 1) for i, value in enumerate(padding)]
    size = [max(value, extent) for value, extent in zip(lists[0], kernel, strict=True)]
    check_pool(machine, run, (size, kernel, lists[2], padding, [1, 1]), n, kind, "int16", seed)
