"""`concat_tokens`, `select_tokens` and `patchify` against their operations."""

import numpy as np
import pytest
from operands import rows, tensor

from intvit.dialect import patchify as patchify_dialect
from intvit.dialect import tokens as tokens_dialect
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.cuda.movement import concat_tokens, patchify, select_tokens


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("first", "tokens", "n"), [(1, 196, 192), (2, 5, 37), (5, 1, 1), (1, 2, 1400)])
def test_concat_tokens(device, first, tokens, n, whole):
    random = np.random.default_rng(n)
    constant = random.integers(-32768, 32768, (first, n)).astype(np.int16)
    x = random.integers(-32768, 32768, (3, tokens, n)).astype(np.int16)
    want = tokens_dialect.concat_tokens(tensor(constant), tensor(x)).numpy().reshape(-1, n)
    stride = padded(n, 16) if whole else n
    kernel = concat_tokens(first, tokens, n, padded(n, 16), stride)
    y = device.run(kernel, [rows(constant), rows(x)], (len(want), stride), "int16", len(want))
    np.testing.assert_array_equal(y[:, :n], want)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize(("start", "stop", "n"), [(0, 1, 50), (1, 4, 192), (0, 7, 37)])
def test_select_tokens(device, start, stop, n, dtype):
    random = np.random.default_rng(start)
    x = random.integers(-128, 128, (3, 7, n)).astype(dtype)
    want = tokens_dialect.select_tokens(tensor(x), start, stop).numpy().reshape(-1, n)
    for stride in {padded(n, 16), n}:
        kernel = select_tokens(start, stop, 7, n, padded(n, 16), stride, dtype)
        y = device.run(kernel, [rows(x)], (len(want), stride), dtype, len(want))
        np.testing.assert_array_equal(y[:, :n], want)


@pytest.mark.parametrize(
    ("image", "patch"),
    [
        ((32, 48, 3), (16, 16)),
        ((28, 42, 3), (14, 14)),
        ((6, 8, 1), (2, 4)),
        ((8, 8, 4), (4, 4)),
        ((3, 5, 1), (1, 1)),
        ((64, 32, 3), (32, 32)),
    ],
    ids=str,
)
def test_patchify(device, image, patch):
    """Behind a patch there are zeros, which meet weights of zero."""
    x = np.random.default_rng(0).integers(0, 256, (2, *image)).astype(np.uint8)
    want = patchify_dialect.patchify(tensor(x), *patch).numpy()
    want = want.reshape(-1, want.shape[-1])
    count, n = want.shape
    stride = padded(n, 16)
    y = device.run(patchify(image, patch, stride), [x], (count, stride), "int8", count)
    np.testing.assert_array_equal(y[:, :n], want)
    assert not y[:, n : padded(n, 8)].any()
