"""`elementwise` against `intvit::requantize`, `add` and `gelu`, bit by bit."""

import numpy as np
import pytest
import torch

from intvit.dialect import gelu as gelu_dialect
from intvit.dialect.requantize import add, requantize
from intvit.kernels import gelu as gelu_kernels
from intvit.kernels import pack
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Add, Epilogue, Requantize
from intvit.kernels.gelu import Gelu


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.mark.parametrize("n", [192, 37])
@pytest.mark.parametrize("per_channel", [True, False])
def test_requantize(machine, run, n, per_channel):
    random = np.random.default_rng(n)
    x = random.integers(-(2**28), 2**28, (9, n)).astype(np.int32)
    pre, mul = np.full(n, 11, np.int32), np.full(n, -29000, np.int32)
    if per_channel:
        pre, mul = random.integers(0, 16, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
        stage = Requantize(15, -32768, 32767, zero_point=7)
    else:
        stage = Requantize(15, -32768, 32767, pre=11, mul=-29000, zero_point=7)
    stages = Epilogue((stage,), "int16")
    vectors = dict(pre=pre, mul=mul)
    inputs = [x, *(pack.channels(vectors[o.name], n, o.dtype, machine[1]) for o in stages.operands)]
    y = run(elementwise(n, stages, machine[1], dtype="int32"), inputs, x.shape, "int16")
    np.testing.assert_array_equal(y, requantize(tensor(x)[None], tensor(mul), tensor(pre), 15, 7, "int16")[0].numpy())


@pytest.mark.parametrize(("tokens", "rows"), [(5, 15), (400, 400), (400, 799)])
def test_blocks_of_rows(machine, run, tokens, rows):
    """As many rows as images have, blocks of some, and a number that neither divides."""
    x = np.random.default_rng(rows).integers(-(2**15), 2**15, (rows, 37)).astype(np.int16)
    stages = Epilogue((Requantize(15, pre=0, mul=90, zero_point=3),), "int8")
    y = run(elementwise(37, stages, machine[1], tokens=tokens), [x], x.shape, "int8")
    one = [torch.tensor([value], dtype=torch.int32) for value in (90, 0)]
    np.testing.assert_array_equal(y, requantize(tensor(x)[None], *one, 15, 3, "int8")[0].numpy())


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("n", [64, 37])
def test_add(machine, run, n, constant):
    random = np.random.default_rng(n)
    tokens, batch, shift = 5, 3, 14
    x = random.integers(-32768, 32768, (batch, tokens, n)).astype(np.int16)
    arm = random.integers(-32768, 32768, (tokens, n) if constant else x.shape).astype(np.int16)
    mul = random.integers(-(2**14), 2**14 + 1, n).astype(np.int32)
    stage = Add(shift, pre=0, arm_pre=2, arm_mul=2**14, tokens=tokens if constant else 0)
    stages = Epilogue((stage,), "int16")
    inputs = [x.reshape(-1, n), pack.channels(mul, n, "int16", machine[1]), arm.reshape(-1, n)]
    y = run(elementwise(n, stages, machine[1]), inputs, (batch * tokens, n), "int16")
    one = [torch.tensor([v], dtype=torch.int32) for v in (0, 2, 2**14)]
    want = add(tensor(x), tensor(mul), one[0], tensor(arm), one[2], one[1], shift)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@pytest.mark.parametrize("fraction", [0, 8, 11, 13])
def test_gelu_of_every_int16(machine, run, fraction):
    x = np.arange(-32768, 32768).astype(np.int16).reshape(256, 256)
    if fraction < 11:  # the compiler admits only |x| whose fixed point fits int32
        x = (x // (1 << 3)).astype(np.int16)
    pre, mul = np.arange(256) % 12, np.arange(256) * 128
    stages = Epilogue((Gelu(fraction, 14, zero_point=-20),), "int8")
    inputs = [
        x,
        *(pack.channels(v, 256, o.dtype, machine[1]) for v, o in zip((pre, mul), stages.operands, strict=True)),
    ]
    y = run(elementwise(256, stages, machine[1]), inputs, x.shape, "int8")
    vectors = [tensor(v.astype(np.int32)) for v in (mul, pre)]
    np.testing.assert_array_equal(y, gelu_dialect.gelu(tensor(x)[None], fraction, *vectors, 14, -20)[0].numpy())


def test_gelu_constants_are_the_dialect_s():
    assert gelu_kernels.POLYNOMIAL == gelu_dialect.POLYNOMIAL
    assert gelu_kernels.FRACTION == gelu_dialect.FRACTION
