"""The stage `Multiply` against `intvit::multiply`: every shape of its arm, alone and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.activation import activation
from intvit.dialect.linear import linear
from intvit.dialect.multiply import multiply
from intvit.dialect.requantize import requantize
from intvit.kernels import pack
from intvit.kernels.activation import KNOTS, Activation
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Bias, Epilogue, Requantize
from intvit.kernels.multiply import Multiply
from intvit.kernels.product import product

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
BATCH, TOKENS = 3, 5
ARMS = {
    "row": (BATCH, TOKENS),
    "image": (BATCH, 1),
    "token": (TOKENS,),
    "one token": (1,),
}
"""The shapes of second factors, less their channels."""


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def int16(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = random.integers(-32768, 32768, shape).astype(np.int16)
    x.flat[:2] = -32768, 32767
    return x


def stage_of(kind: str, shift: int, dtype: str, pre: int | None = None, mul: int | None = None) -> Multiply:
    per, tokens = {"row": ("row", 0), "image": ("image", TOKENS), "token": ("token", TOKENS)}.get(kind, ("token", 1))
    return Multiply(shift, *LIMITS[dtype], pre, mul, per, tokens)


@pytest.mark.parametrize(
    ("kind", "pre"),
    [("row", None), ("row", 15), ("image", 1), ("image", 30), ("token", 16), ("one token", 0)],
)
def test_every_arm(machine, run, kind, pre):
    random = np.random.default_rng(0)
    n, dtype, shift = 37, "int8" if pre == 15 else "int16", 15
    a, b = int16(random, (BATCH, TOKENS, n)), int16(random, (*ARMS[kind], n))
    mul = random.integers(-32768, 32768, n).astype(np.int32)
    shifts = random.integers(0, 31, n).astype(np.int32) if pre is None else np.full(n, pre, np.int32)
    vectors = dict(pre=shifts, mul=mul)
    stage = stage_of(kind, shift, dtype, pre)
    inputs = [a.reshape(-1, n)]
    inputs += [pack.channels(vectors[o.name], n, o.dtype, machine[1]) for o in stage.operands() if o.per == "column"]
    y = run(
        elementwise(n, Epilogue((stage,), dtype), machine[1], tokens=TOKENS),
        [*inputs, b.reshape(-1, n)],
        (BATCH * TOKENS, n),
        dtype,
    )
    want = multiply(tensor(a), tensor(b), tensor(mul), tensor(shifts), shift, dtype)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 80),
    st.sampled_from(list(ARMS)),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from(list(LIMITS)),
    st.integers(0, 2**31),
)
def test_any_shape(machine, run, n, kind, pre, shift, dtype, seed):
    random = np.random.default_rng(seed)
    a, b = int16(random, (BATCH, TOKENS, n + 1))[..., :n], int16(random, (*ARMS[kind], n + 1))[..., :n]
    mul = int(random.integers(-32768, 32768))
    stage = stage_of(kind, shift, dtype, pre, mul)
    y = run(
        elementwise(n, Epilogue((stage,), dtype), machine[1], tokens=TOKENS),
        [a.reshape(-1, n), b.reshape(-1, n)],
        (BATCH * TOKENS, n),
        dtype,
    )
    numbers = [torch.tensor([value], dtype=torch.int32) for value in (mul, pre)]
    want = multiply(tensor(a), tensor(b), *numbers, shift, dtype)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@pytest.mark.parametrize(("kind", "activated"), [("row", True), ("image", False)])
def test_behind_a_product(machine, run, kind, activated):
    """A gated unit: product, requantization, activation, multiplication in one kernel."""
    random = np.random.default_rng(3)
    k, n, rows = 20, 45, BATCH * TOKENS
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((rows, k), (n, k)))
    bias, table = random.integers(-(2**20), 2**20, n).astype(np.int32), int16(random, (KNOTS,))
    b = int16(random, (*ARMS[kind], n))
    gate = (Activation(8, *LIMITS["int16"]),) if activated else ()
    stages = Epilogue(
        (Bias(), Requantize(14, *LIMITS["int16"], pre=5, mul=20000), *gate, stage_of(kind, 15, "int8", 14, 999)), "int8"
    )
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1]), *([table] if activated else [])]
    y = run(product(k, n, stages, machine[1], tokens=TOKENS), [*inputs, b.reshape(-1, n)], (rows, n), "int8")
    one = {value: torch.tensor([value], dtype=torch.int32) for value in (20000, 5, 999, 14)}
    sums = linear(tensor(x).view(BATCH, TOKENS, k), tensor(w), tensor(bias))
    middle = requantize(sums, one[20000], one[5], 14, 0, "int16")
    middle = activation(middle, tensor(table), 8, "int16") if activated else middle
    want = multiply(middle, tensor(b), one[999], one[14], 15, "int8")
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))
