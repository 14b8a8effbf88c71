"""`Levels` on a GPU against `intvit::levels`: every byte, and behind a product, bit by bit."""

import numpy as np
import pytest
import torch
from operands import Case, biased, requantized, rows, tensor

from intvit.dialect.levels import levels
from intvit.dialect.linear import linear
from intvit.kernels.cuda.elementwise import elementwise
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.product import packed_weights, product, tiles
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.levels import Levels

EVERY = np.arange(-128, 128).astype(np.int8)
TABLE = np.random.default_rng(3).integers(-128, 128, 256).astype(np.int8)


@pytest.mark.parametrize("n", [256, 99])
@pytest.mark.parametrize("whole", [True, False])
def test_every_byte(device, n, whole):
    x = np.resize(EVERY, (-(-256 // n), n))
    stride = padded(n, 16) if whole else n
    kernel = elementwise(n, padded(n, 16), stride, Epilogue((Levels(),)), "int8")
    y = device.run(kernel, [rows(x), TABLE.astype(np.int16)], (len(x), stride), "int8", len(x))
    np.testing.assert_array_equal(y[:, :n], levels(tensor(x)[None], tensor(TABLE))[0].numpy())


def test_behind_a_product(device):
    random = np.random.default_rng(1)
    count, k, n = 49, 65, 40
    middle = biased(random, requantized(random, count, n, "int8", 15, 3), n)
    case = Case(
        Epilogue((*middle.epilogue.stages, Levels())),
        [*middle.operands, TABLE.astype(np.int16)],
        lambda x: levels(middle.reference(x), tensor(TABLE)),
    )
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((count, k), (n, k)))
    kernel = product(k, n, padded(k, 16), case.epilogue, tiles(n, device.arch)[-1], device.arch, padded(n, 16))
    y = device.run(kernel, [rows(x), packed_weights(w), *case.operands], (count, padded(n, 16)), "int8", count)
    sums = linear(tensor(x)[None], tensor(w), torch.zeros(n, dtype=torch.int32))
    np.testing.assert_array_equal(y[:, :n], case.reference(sums)[0].numpy())
