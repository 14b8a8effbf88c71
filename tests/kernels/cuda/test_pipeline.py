"""What orders the copies and the products of a kernel, one at a time left out: the emulator sees it missing."""

from collections.abc import Callable

import numpy as np
import pytest
from emulation.simt import SimtError
from operands import biased, int8, rows, sums, tensor

from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.attention import Heads, attention
from intvit.kernels.cuda.product import LARGE, SMALL, Tile, packed_weights, product
from intvit.kernels.epilogue import Epilogue, Requantize

SEEDS = range(6)


def multiplied(device, tile: Tile, seed: int) -> bool:
    """Whether a product of more slices than there are buffers is right."""
    random = np.random.default_rng(0)
    k, n, count = 8 * tile.depth, 40, 50
    case = biased(random, sums(random, count, n), n)
    x, w = int8(random, (count, k)), int8(random, (n, k))
    kernel = product(k, n, k, case.epilogue, tile, device.arch, n)
    y = device.run(kernel, [rows(x), packed_weights(w), *case.operands], (count, n), "int32", count, seed)
    want = case.reference(tensor(x.astype(np.int32) @ w.T.astype(np.int32)))
    return bool(np.array_equal(y, want.numpy()))


def attended(device, seed: int) -> bool:
    """Whether an attention over several tiles of keys gives the mean of values that are all alike."""
    q, k = (int8(np.random.default_rng(s), (300, 32)) for s in range(2))
    v = np.full((300, 32), 64, np.int8)
    stages = Epilogue((Requantize(14, pre=0, mul=1 << 7),))
    kernel = attention(Heads(1, 300, 300, 32, 32, (32,) * 4), 15, 13, stages, device.arch)
    scores = np.zeros(1, np.int8), np.full(1, 20000, np.int16)
    y = device.run(kernel, [q, k, v, *scores], (300, 32), "int8", 1, seed)
    return bool((abs(y.astype(np.int32) - 64) <= 1).all())


def survives(check: Callable[[int], bool]) -> bool:
    """Whether no order of warps shows a fault."""
    try:
        return all(check(seed) for seed in SEEDS)
    except SimtError:
        return False


@pytest.mark.parametrize("tile", [LARGE, SMALL], ids=["large", "small"])
def test_a_product_in_any_order_of_warps(device, tile):
    assert survives(lambda seed: multiplied(device, tile, seed))


@pytest.mark.parametrize("tile", [LARGE, SMALL], ids=["large", "small"])
def test_a_product_needs_its_barriers(device, tile, monkeypatch):
    """Without one, a buffer is filled while another warp reads it, or read before another warp filled it."""
    monkeypatch.setattr(ptx, "barrier", lambda: None)
    assert not survives(lambda seed: multiplied(device, tile, seed))


@pytest.mark.parametrize("tile", [LARGE, SMALL], ids=["large", "small"])
def test_a_product_needs_its_waits(tile, monkeypatch, device):
    """A slice earlier is too early."""
    if not device.arch.asynchronous:
        pytest.skip(f"{device.arch.name} copies at once")
    wait = ptx.wait

    def earlier(groups: int, arch: Arch) -> None:
        wait(groups + 1, arch)

    monkeypatch.setattr(ptx, "wait", earlier)
    assert not survives(lambda seed: multiplied(device, tile, seed))


@pytest.mark.parametrize("dropped", ["barrier", "wait", "neither"])
def test_attention_needs_its_barriers_and_waits(device, monkeypatch, dropped):
    if dropped == "barrier":
        monkeypatch.setattr(ptx, "barrier", lambda: None)
    elif dropped == "wait":
        if not device.arch.asynchronous:
            pytest.skip(f"{device.arch.name} copies at once")
        monkeypatch.setattr(ptx, "wait", lambda groups, arch: None)
    assert survives(lambda seed: attended(device, seed)) == (dropped == "neither")
