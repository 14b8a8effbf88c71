"""`divide` in ONNX Runtime equals the reference: every divisor, pre-shift and block of channels, and the corners."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=20, deadline=None)
CORNERS = np.array([-(1 << 15), -(1 << 15) + 1, -1, 0, 1, (1 << 15) - 2, (1 << 15) - 1], np.int16)
DIVISORS = np.unique([sign * (1 << n) + d for n in range(16) for sign in (1, -1) for d in (-1, 0, 1)])
DIVISORS = DIVISORS[abs(DIVISORS) < 1 << 15].astype(np.int16)


@QUICK
@given(st.data(), SEEDS, st.sampled_from((1, 3, 8)), st.integers(1, 4), st.integers(0, 30), st.sampled_from((8, 16)))
def test_any_operands(data: st.DataObject, seed: int, size: int, blocks: int, shift: int, bits: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (filled(random, (3, 4, n), "int16", data.draw(st.sampled_from(PATTERNS))) for n in (size * blocks, blocks))
    graph = Graph()
    numbers = data.draw(dyadics(size * blocks, pre=15))
    node = graph.call("divide", graph.operand(a), graph.operand(b), *numbers, shift, f"int{bits}")
    graph.check(node, keep_functions=data.draw(st.booleans()))


@pytest.mark.parametrize("pre", range(16))
def test_corners_with_every_pre_shift(pre: int) -> None:
    b = np.append(DIVISORS, CORNERS).reshape(1, -1, 1)
    a = np.broadcast_to(CORNERS, (1, b.shape[1], len(CORNERS))).copy()
    graph = Graph()
    x, y = graph.operand(a), graph.operand(b)
    results = [
        graph.call("divide", x, y, row(multiplier), row(pre), shift, "int16")
        for multiplier, shift in ((1, 0), (32_767, 15), (-32_767, 14))
    ]
    graph.check(*results)


@pytest.mark.parametrize("opset", [18, 26])
def test_oldest_and_newest_operators(opset: int) -> None:
    graph = Graph()
    x = graph.operand(CORNERS.reshape(1, 1, -1))
    y = graph.call("divide", x, x, row(20_000), row(3), 15, "int16")
    graph.check(graph.call("divide", y, x, row(9_000), row(14), 15, "int8"), opset=opset)
