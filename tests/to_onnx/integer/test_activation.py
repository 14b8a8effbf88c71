"""`activation` in ONNX Runtime equals the reference for all 16-bit integers, and its file holds the knots only."""

import numpy as np
import pytest
from graphs import SEEDS, Array, Graph, dyadics, filled
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=12, deadline=None)
ALL = np.arange(-(1 << 15), 1 << 15).astype(np.int16)


def knots(seed: int, kind: str = "random") -> Array:
    table = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, 257).astype(np.int16)
    if kind == "jumps":
        table[::2], table[1::2] = -(1 << 15), (1 << 15) - 1
    elif kind != "random":
        table[:] = {"lowest": -(1 << 15), "highest": (1 << 15) - 1}[kind]
    return table


@QUICK
@given(
    SEEDS,
    st.sampled_from(("random", "jumps", "lowest", "highest")),
    st.sampled_from(((8, "int16"), (15, "int8"), (0, "int8"), (0, "int16"), (30, "int16"), (13, "int8"))),
    st.integers(1, 9),
    st.booleans(),
)
def test_every_integer(seed: int, kind: str, form: tuple[int, str], channels: int, keep: bool) -> None:
    graph = Graph()
    x = graph.operand(np.resize(ALL, (1, -(-len(ALL) // channels), channels)))
    graph.check(graph.call("activation", x, knots(seed, kind), *form), keep_functions=keep)


@QUICK
@given(st.data(), SEEDS, st.integers(1, 9), st.sampled_from(("int8", "int16")))
def test_behind_a_product(data: st.DataObject, seed: int, n: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    graph = Graph()
    x = graph.operand(filled(random, (3, 5, 7), "int8", data.draw(st.sampled_from(("random", "lowest", "highest")))))
    weights = filled(random, (n, 7), "int8", "random"), random.integers(-999, 999, n).astype(np.int32)
    middle = graph.call("requantize", graph.call("linear", x, *weights), *data.draw(dyadics(n, pre=3)), 9, 2, "int16")
    result = graph.call("activation", middle, knots(seed), 15 if dtype == "int8" else 8, dtype)
    graph.check(result, middle, keep_functions=data.draw(st.booleans()))


@pytest.mark.parametrize("opset", [18, 26])
def test_oldest_and_newest_operators(opset: int) -> None:
    graph = Graph()
    graph.check(graph.call("activation", graph.operand(ALL.reshape(2, 64, 512)), knots(1), 15, "int8"), opset=opset)


def test_the_file_holds_the_knots_only() -> None:
    graph = Graph()
    model = graph.check(graph.call("activation", graph.operand(ALL.reshape(2, 64, 512)), knots(1), 8, "int16"))
    assert model.ByteSize() < 257 * 2 + 4000
