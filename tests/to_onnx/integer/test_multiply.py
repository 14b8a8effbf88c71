"""`multiply` in ONNX Runtime equals the reference: every pre-shift and shape of the second factor, and the corners."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=25, deadline=None)
CORNERS = np.array([-(1 << 15), -(1 << 15) + 1, -1, 0, 1, (1 << 15) - 2, (1 << 15) - 1], np.int16)
FACTORS = {"tokens": (3, 4), "one token": (3, 1), "constant": (4,), "constant token": (1,)}
"""The shapes of second factors for `[3, 4, n]`, less their channels."""


@QUICK
@given(
    st.data(),
    SEEDS,
    st.sampled_from(list(FACTORS)),
    st.sampled_from((1, 3, 8, 70)),
    st.sampled_from((15, 30)),
    st.integers(0, 30),
    st.sampled_from(("int8", "int16")),
)
def test_any_factors(data: st.DataObject, seed: int, kind: str, n: int, most: int, shift: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    a, b = (
        filled(random, shape, "int16", data.draw(st.sampled_from(PATTERNS)))
        for shape in ((3, 4, n), (*FACTORS[kind], n))
    )
    graph = Graph()
    second = b if "constant" in kind else graph.operand(b)
    node = graph.call("multiply", graph.operand(a), second, *data.draw(dyadics(n, pre=most)), shift, dtype)
    graph.check(node, keep_functions=data.draw(st.booleans()))


@pytest.mark.parametrize("pre", range(31))
def test_corners_with_every_pre_shift(pre: int) -> None:
    a, b = (x.reshape(1, 1, -1).copy() for x in np.meshgrid(CORNERS, CORNERS))
    graph = Graph()
    x, y = graph.operand(a), graph.operand(b)
    results = [
        graph.call("multiply", x, y, row(multiplier), row(pre), shift, "int16")
        for multiplier, shift in ((1, 0), (32_767, 15), (-32_767, 14))
    ]
    graph.check(*results)


def test_a_square() -> None:
    graph = Graph()
    x = graph.operand(CORNERS.reshape(1, 1, -1))
    graph.check(graph.call("multiply", x, x, row(20_000), row(15), 15, "int8"))


@pytest.mark.parametrize("opset", [18, 26])
def test_oldest_and_newest_operators(opset: int) -> None:
    graph = Graph()
    x = graph.operand(CORNERS.reshape(1, 1, -1))
    y = graph.call("multiply", x, x, row(20_000), row(20), 15, "int16")
    graph.check(graph.call("multiply", x, y, row(9_000), row(14), 15, "int8"), opset=opset)
