"""`concat_tokens`, `select_tokens` and `patchify` against their operations."""

import numpy as np
import pytest
import torch

from intvit.dialect import patchify as patchify_dialect
from intvit.dialect import tokens as tokens_dialect
from intvit.kernels.movement import concat_tokens, patchify, select_tokens


@pytest.mark.parametrize(("first", "tokens", "n"), [(1, 196, 192), (2, 5, 37), (5, 1, 1)])
def test_concat_tokens(machine, run, first, tokens, n):
    random = np.random.default_rng(n)
    constant = random.integers(-32768, 32768, (first, n)).astype(np.int16)
    x = random.integers(-32768, 32768, (3, tokens, n)).astype(np.int16)
    want = tokens_dialect.concat_tokens(torch.from_numpy(constant), torch.from_numpy(x)).numpy().reshape(-1, n)
    y = run(concat_tokens(first, tokens, n, machine[1]), [constant, x.reshape(-1, n)], want.shape, "int16")
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 4), (0, 7)])
def test_select_tokens(machine, run, start, stop, dtype):
    random = np.random.default_rng(start)
    x = random.integers(-128, 128, (3, 7, 50)).astype(dtype)
    want = tokens_dialect.select_tokens(torch.from_numpy(x), start, stop).numpy().reshape(-1, 50)
    y = run(select_tokens(start, stop, 7, 50, machine[1], dtype=dtype), [x.reshape(-1, 50)], want.shape, dtype)
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(("image", "patch"), [((32, 48, 3), (16, 16)), ((6, 8, 1), (2, 4)), ((28, 28, 3), (14, 14))])
def test_patchify(machine, run, image, patch):
    x = np.random.default_rng(0).integers(0, 256, (2, *image)).astype(np.uint8)
    want = patchify_dialect.patchify(torch.from_numpy(x), *patch).numpy()
    want = want.reshape(-1, want.shape[-1])
    y = run(patchify(image, patch, machine[1]), [x], want.shape, "int8")
    np.testing.assert_array_equal(y, want)
