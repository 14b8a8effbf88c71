"""`Activation` on a GPU against `intvit::activation`: every 16-bit integer, and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from operands import Case, biased, requantized, rows, tensor

from intvit.dialect.activation import KNOTS, activation
from intvit.dialect.linear import linear
from intvit.kernels.activation import Activation
from intvit.kernels.cuda.elementwise import elementwise
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.product import packed_weights, product, tiles
from intvit.kernels.epilogue import Epilogue

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}


def knots(kind: str) -> np.ndarray:
    table = np.random.default_rng(5).integers(-32768, 32768, KNOTS).astype(np.int16)
    if kind == "jumps":
        table[::2], table[1::2] = -32768, 32767
    return table


@pytest.mark.parametrize("kind", ["random", "jumps"])
@pytest.mark.parametrize(("shift", "dtype", "n"), [(15, "int8", 256), (8, "int16", 99), (0, "int8", 37)])
def test_every_int16(device, kind, shift, dtype, n):
    x = np.resize(np.arange(-32768, 32768).astype(np.int16), (-(-65536 // n), n))
    table = knots(kind)
    kernel = elementwise(n, padded(n, 16), n, Epilogue((Activation(shift, *LIMITS[dtype]),), dtype), "int16")
    y = device.run(kernel, [rows(x), table], x.shape, dtype, len(x))
    np.testing.assert_array_equal(y, activation(tensor(x)[None], tensor(table), shift, dtype)[0].numpy())


@pytest.mark.parametrize(("shift", "dtype"), [(15, "int8"), (8, "int16")])
def test_behind_a_product(device, shift, dtype):
    random = np.random.default_rng(1)
    count, k, n, table = 49, 65, 40, knots("random")
    middle = biased(random, requantized(random, count, n, "int16", 15, 0), n)
    case = Case(
        Epilogue((*middle.epilogue.stages, Activation(shift, *LIMITS[dtype])), dtype),
        [*middle.operands, table],
        lambda x: activation(middle.reference(x), tensor(table), shift, dtype),
    )
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((count, k), (n, k)))
    kernel = product(k, n, padded(k, 16), case.epilogue, tiles(n, device.arch)[-1], device.arch, padded(n, 16))
    y = device.run(kernel, [rows(x), packed_weights(w), *case.operands], (count, padded(n, 16)), dtype, count)
    sums = linear(tensor(x)[None], tensor(w), torch.zeros(n, dtype=torch.int32))
    np.testing.assert_array_equal(y[:, :n], case.reference(sums)[0].numpy())
