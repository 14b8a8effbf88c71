"""The stage `Levels` against `intvit::levels`: every byte alone, and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit import levels as tables
from intvit.dialect.activation import activation
from intvit.dialect.levels import levels
from intvit.dialect.linear import linear
from intvit.dialect.requantize import requantize
from intvit.kernels import levels as kernels
from intvit.kernels import pack
from intvit.kernels.activation import KNOTS, Activation
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Bias, Epilogue, Requantize
from intvit.kernels.isa import AVX512, AVX512_VNNI
from intvit.kernels.levels import Levels
from intvit.kernels.product import product

tvm = pytest.importorskip("tvm")

EVERY = np.arange(-128, 128).astype(np.int8)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def table(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)


@pytest.mark.parametrize("n", [256, 99, 3])
def test_every_byte(machine, run, n):
    x = np.resize(EVERY, (-(-256 // n), n))
    kernel = elementwise(n, Epilogue((Levels(),)), machine[1], dtype="int8", tokens=len(x))
    y = run(kernel, [x, table().astype(np.int16)], x.shape, "int8")
    np.testing.assert_array_equal(y, levels(tensor(x)[None], tensor(table()))[0].numpy())


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(0, 2**31))
def test_any_shape(machine, run, n, rows, seed):
    x = np.random.default_rng(seed).integers(-128, 128, (rows, n)).astype(np.int8)
    kernel = elementwise(n, Epilogue((Levels(),)), machine[1], dtype="int8")
    y = run(kernel, [x, table(seed).astype(np.int16)], x.shape, "int8")
    np.testing.assert_array_equal(y, levels(tensor(x)[None], tensor(table(seed)))[0].numpy())


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("n", [45, 3])
def test_behind_a_product(machine, run, n, activated):
    random = np.random.default_rng(n)
    k = 20
    bias = random.integers(-(2**16), 2**16, n).astype(np.int32)
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((7, k), (n, k)))
    pre, mul = random.integers(0, 8, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
    knots = random.integers(-32768, 32768, KNOTS).astype(np.int16)
    dtype, limits, shift = ("int16", (-32768, 32767), 14) if activated else ("int8", (-128, 127), 22)
    stages = (Bias(), Requantize(shift, *limits), *([Activation(15)] if activated else []), Levels())
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += [pack.channels(pre, n, "int8", machine[1]), pack.channels(mul, n, "int16", machine[1])]
    inputs += [*([knots] if activated else []), table().astype(np.int16)]
    y = run(product(k, n, Epilogue(stages), machine[1], tokens=7), inputs, (7, n), "int8")
    want = requantize(linear(tensor(x)[None], tensor(w), tensor(bias)), tensor(mul), tensor(pre), shift, 0, dtype)
    want = activation(want, tensor(knots), 15, "int8") if activated else want
    np.testing.assert_array_equal(y, levels(want, tensor(table()))[0].numpy())


@pytest.mark.parametrize(
    ("isa", "cpu"), [(AVX512, "x86-64-v4"), (AVX512_VNNI, "sapphirerapids")], ids=["avx512", "vnni"]
)
def test_whole_vectors_are_looked_up_at_once(isa, cpu):
    """By four permutations, however often LLVM unrolls the loop of tasks."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    function = elementwise(2 * isa.lanes, Epilogue((Levels(),)), isa, dtype="int8")
    assembly = tvm.compile(function, target=target).mod.inspect_source("asm")
    count = sum(assembly.count(f"{name}\t") for name in ("vpermi2w", "vpermt2w"))
    assert count and count % 4 == 0


def test_constants_are_the_dialect_s():
    assert kernels.ENTRIES == tables.ENTRIES and kernels.FIRST == tables.FIRST
