"""`Multiply` on a GPU against `intvit::multiply`: every shape of its arm, alone and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from operands import biased, columns, one, requantized, rows, tensor

from intvit.dialect.linear import linear
from intvit.dialect.multiply import multiply
from intvit.kernels.cuda.elementwise import elementwise
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.product import packed_weights, product, tiles
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.multiply import Multiply

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
BATCH, TOKENS = 3, 5
ARMS = {"row": (BATCH, TOKENS), "image": (BATCH, 1), "token": (TOKENS,), "one token": (1,)}
"""The shapes of second factors, less their channels."""


def int16(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = random.integers(-32768, 32768, shape).astype(np.int16)
    x.flat[:2] = -32768, 32767
    return x


def stage_of(kind: str, shift: int, dtype: str, pre: int | None = None, mul: int | None = None) -> Multiply:
    per, tokens = {"row": ("row", 0), "image": ("image", TOKENS), "token": ("token", TOKENS)}.get(kind, ("token", 1))
    return Multiply(shift, *LIMITS[dtype], pre, mul, per, tokens)


@pytest.mark.parametrize("kind", ARMS)
@pytest.mark.parametrize(("n", "dtype", "pre"), [(48, "int8", None), (37, "int16", 15)])
def test_every_arm(device, kind, n, dtype, pre):
    random = np.random.default_rng(0)
    a, b = int16(random, (BATCH, TOKENS, n)), int16(random, (*ARMS[kind], n))
    mul = random.integers(-32768, 32768, n).astype(np.int32)
    shifts = random.integers(0, 31, n).astype(np.int32) if pre is None else np.full(n, pre, np.int32)
    shifts[0], mul[0] = 0 if pre is None else pre, -32768
    dyadic = [columns(shifts, "int8")] if pre is None else []
    epilogue = Epilogue((stage_of(kind, 15, dtype, pre),), dtype)
    kernel = elementwise(n, padded(n, 16), n, epilogue, "int16")
    inputs = [rows(a), *dyadic, columns(mul, "int16"), rows(b)]
    y = device.run(kernel, inputs, (BATCH * TOKENS, n), dtype, BATCH * TOKENS)
    want = multiply(tensor(a), tensor(b), tensor(mul), tensor(shifts), 15, dtype)
    np.testing.assert_array_equal(y, want.numpy().reshape(y.shape))


@pytest.mark.parametrize("kind", ["row", "image"])
def test_behind_a_product(device, kind):
    random = np.random.default_rng(1)
    count, k, n = BATCH * TOKENS, 33, 40
    middle = biased(random, requantized(random, count, n, "int16", 15, 0), n)
    b = int16(random, (*ARMS[kind], n))
    epilogue = Epilogue((*middle.epilogue.stages, stage_of(kind, 15, "int8", 14, 999)), "int8")
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((count, k), (n, k)))
    kernel = product(k, n, padded(k, 16), epilogue, tiles(n, device.arch)[-1], device.arch, padded(n, 16))
    inputs = [rows(x), packed_weights(w), *middle.operands, rows(b)]
    y = device.run(kernel, inputs, (count, padded(n, 16)), "int8", count)
    sums = linear(tensor(x)[None], tensor(w), torch.zeros(n, dtype=torch.int32))
    whole = middle.reference(sums).view(BATCH, TOKENS, n)
    want = multiply(whole, tensor(b), one(999), one(14), 15, "int8")
    np.testing.assert_array_equal(y[:, :n], want.numpy().reshape(count, n))
