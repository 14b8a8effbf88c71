"""`elementwise` against `intvit::requantize`, `add` and `gelu`, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operands import Case, activated, added, columns, one, requantized, requantized_alike, rows, tensor

from intvit.dialect.gelu import gelu
from intvit.dialect.requantize import requantize
from intvit.kernels.cuda.elementwise import elementwise
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.epilogue import Epilogue, Requantize
from intvit.kernels.gelu import Gelu

EVERY_INT16 = np.arange(-32768, 32768, dtype=np.int16)
FACTORS = [-32768, -32767, -16385, -16384, -3, -1, 0, 1, 2, 9000, 16383, 16384, 24577, 32766, 32767]


def check(device, case: Case, x: np.ndarray, stride: int, seed: int = 0) -> None:
    count, n = x.shape
    kernel = elementwise(n, padded(n, 16), stride, case.epilogue, str(x.dtype))
    y = device.run(kernel, [rows(x), *case.operands], (count, stride), case.epilogue.dtype, count, seed)
    np.testing.assert_array_equal(y[:, :n], case.reference(tensor(x)[None])[0].numpy())


@pytest.mark.parametrize(
    ("make", "dtype", "n"),
    [
        (requantized_alike, "int32", 192),
        (requantized_alike, "int16", 37),
        (lambda random, count, n: requantized(random, count, n, "int8", 15, 5), "int32", 1100),
        (lambda random, count, n: activated(random, count, n, shared=True), "int32", 40),
        (added, "int32", 37),
        (lambda random, count, n: added(random, count, n, dtype="int32"), "int32", 64),
        (lambda random, count, n: added(random, count, n, dtype="int8"), "int16", 9),
        (lambda random, count, n: added(random, count, n, tokens=5), "int16", 192),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_every_stage(device, make, dtype, n, whole):
    random = np.random.default_rng(n)
    most = 1 << (28 if dtype == "int32" else 15)
    x = random.integers(-most, most, (13, n)).astype(dtype)
    check(device, make(random, 13, n), x, padded(n, 16) if whole else n)


@pytest.mark.parametrize(
    ("shift", "dtype", "zero_point"),
    [(0, "int16", 5), (1, "int8", -128), (15, "int32", 0), (16, "int8", 127), (17, "int16", 32767), (30, "int16", -9)],
)
def test_requantization_of_every_int16(device, shift, dtype, zero_point):
    x, mul = np.repeat(EVERY_INT16[::5, None], len(FACTORS), 1), np.array(FACTORS, np.int32)
    limits = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(1 << 31), (1 << 31) - 1)}[dtype]
    case = Case(
        Epilogue((Requantize(shift, *limits, pre=0, zero_point=zero_point),), dtype),
        [columns(mul, "int16")],
        lambda x: requantize(x, tensor(mul), one(0), shift, zero_point, dtype),
    )
    check(device, case, x, 16)


@pytest.mark.parametrize("fraction", [0, 8, 11, 13])
def test_gelu_of_every_int16(device, fraction):
    x = EVERY_INT16.reshape(256, 256)
    if fraction < 11:  # the compiler admits only |x| whose fixed point fits int32
        x = (x // (1 << 3)).astype(np.int16)
    pre, mul = (np.arange(256) % 12).astype(np.int32), (np.arange(256) * 128).astype(np.int32)
    case = Case(
        Epilogue((Gelu(fraction, 14, zero_point=-20),), "int8"),
        [columns(pre, "int8"), columns(mul, "int16")],
        lambda x: gelu(x, fraction, tensor(mul), tensor(pre), 14, -20),
    )
    check(device, case, x, 256)


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 300), st.integers(1, 1200), st.booleans(), st.integers(0, 2**31))
def test_any_shape(device, count, n, whole, seed):
    random = np.random.default_rng(seed)
    x = random.integers(-(1 << 28), 1 << 28, (count, n)).astype(np.int32)
    check(device, requantized(random, count, n, "int8", 11, 0), x, padded(n, 16) if whole else n, seed)
