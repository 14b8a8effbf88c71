"""The stage `Activation` against `intvit::activation`: alone and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import activation as dialect
from intvit.dialect.linear import linear
from intvit.dialect.requantize import requantize
from intvit.kernels import activation as kernels
from intvit.kernels import pack
from intvit.kernels.activation import KNOTS, Activation
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Bias, Epilogue, Requantize
from intvit.kernels.isa import AVX2, AVX512, AVX512_VNNI
from intvit.kernels.product import product

tvm = pytest.importorskip("tvm")

EVERY_INT16 = np.arange(-32768, 32768).astype(np.int16)
LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def knots(kind: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed).integers(-32768, 32768, KNOTS).astype(np.int16)
    if kind == "jumps":
        random[::2], random[1::2] = -32768, 32767
    elif kind != "random":
        random[:] = {"lowest": -32768, "highest": 32767}[kind]
    return random


@pytest.mark.parametrize("kind", ["random", "jumps", "lowest", "highest"])
@pytest.mark.parametrize(("shift", "dtype"), [(15, "int8"), (8, "int16")])
def test_every_int16(machine, run, kind, shift, dtype):
    x, table = EVERY_INT16.reshape(-1, 128), knots(kind)
    x = np.concatenate([x[:, :99], x[:, 29:]])  # 99 columns: whole vectors, then halves down to one
    y = run(_kernel(machine[1], 99, shift, dtype), [x, table], x.shape, dtype)
    np.testing.assert_array_equal(y, dialect.activation(tensor(x)[None], tensor(table), shift, dtype)[0].numpy())


_kernels: dict[object, object] = {}


def _kernel(isa, n, shift, dtype):
    """One of each, so that it compiles once."""
    stage = Activation(shift, *LIMITS[dtype])
    return _kernels.setdefault((isa, n, stage), elementwise(n, Epilogue((stage,), dtype), isa))


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 80), st.integers(0, 30), st.sampled_from(["int8", "int16"]), st.integers(0, 2**31))
def test_any_shape_and_shift(machine, run, n, shift, dtype, seed):
    x, table = np.random.default_rng(seed).integers(-32768, 32768, (7, n)).astype(np.int16), knots("random", seed)
    y = run(
        elementwise(n, Epilogue((Activation(shift, *LIMITS[dtype]),), dtype), machine[1]), [x, table], x.shape, dtype
    )
    np.testing.assert_array_equal(y, dialect.activation(tensor(x)[None], tensor(table), shift, dtype)[0].numpy())


@pytest.mark.parametrize(("dtype", "shift", "n"), [("int8", 15, 45), ("int16", 8, 3)])
def test_behind_a_product(machine, run, dtype, shift, n):
    random = np.random.default_rng(n)
    k = 20
    bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((7, k), (n, k)))
    pre, mul = random.integers(0, 8, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
    table = knots("random")
    stages = Epilogue((Bias(), Requantize(14, *LIMITS["int16"]), Activation(shift, *LIMITS[dtype])), dtype)
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += [pack.channels(pre, n, "int8", machine[1]), pack.channels(mul, n, "int16", machine[1]), table]
    y = run(product(k, n, stages, machine[1], tokens=7), inputs, (7, n), dtype)
    middle = requantize(linear(tensor(x)[None], tensor(w), tensor(bias)), tensor(mul), tensor(pre), 14, 0, "int16")
    np.testing.assert_array_equal(y, dialect.activation(middle, tensor(table), shift, dtype)[0].numpy())


@pytest.mark.parametrize(
    ("isa", "cpu", "instruction", "count"),
    [
        (AVX512, "x86-64-v4", ("vpermi2w", "vpermt2w"), 8),
        (AVX512_VNNI, "sapphirerapids", ("vpermi2w", "vpermt2w"), 8),
        (AVX2, "x86-64-v3", ("vpgatherdd",), 2),
    ],
    ids=str,
)
def test_whole_vectors_are_looked_up_at_once(isa, cpu, instruction, count):
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    function = elementwise(2 * isa.lanes, Epilogue((Activation(15),), "int8"), isa)
    assembly = tvm.compile(function, target=target).mod.inspect_source("asm")
    assert sum(assembly.count(f"{name}\t") for name in instruction) == count


def test_constants_are_the_dialect_s():
    assert kernels.KNOTS == dialect.KNOTS and kernels.FIRST == dialect.FIRST
    assert kernels.STEP == 1 << dialect.STEP_BITS
