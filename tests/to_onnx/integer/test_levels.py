"""`levels` in ONNX Runtime equals the reference for all 256 integers, and its file holds a byte for each."""

import numpy as np
import pytest
from graphs import SEEDS, Array, Graph, dyadics, filled
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=12, deadline=None)
EVERY = np.arange(-128, 128).astype(np.int8)


def table(seed: int) -> Array:
    return np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)


@QUICK
@given(SEEDS, st.integers(1, 9), st.booleans())
def test_every_integer(seed: int, channels: int, keep: bool) -> None:
    graph = Graph()
    x = graph.operand(np.resize(EVERY, (2, -(-256 // channels), channels)))
    graph.check(graph.call("levels", x, table(seed)), keep_functions=keep)


@QUICK
@given(st.data(), SEEDS, st.integers(1, 9), st.booleans())
def test_between_products(data: st.DataObject, seed: int, n: int, portable: bool) -> None:
    """Behind a requantization, and read by a product and as a result."""
    random = np.random.default_rng(seed)
    graph = Graph()
    x = graph.operand(filled(random, (3, 5, 7), "int8", data.draw(st.sampled_from(("random", "lowest", "highest")))))
    weights = filled(random, (n, 7), "int8", "random"), random.integers(-999, 999, n).astype(np.int32)
    middle = graph.call("requantize", graph.call("linear", x, *weights), *data.draw(dyadics(n, pre=3)), 15, 2, "int8")
    levels = graph.call("levels", middle, table(seed))
    after = filled(random, (4, n), "int8", "random"), random.integers(-999, 999, 4).astype(np.int32)
    graph.check(graph.call("linear", levels, *after), levels, middle, portable=portable)


@pytest.mark.parametrize("opset", [18, 26])
def test_oldest_and_newest_operators(opset: int) -> None:
    graph = Graph()
    graph.check(graph.call("levels", graph.operand(EVERY.reshape(2, 4, 32)), table(1)), opset=opset)


def test_the_file_holds_the_table_once() -> None:
    graph = Graph()
    x = graph.operand(EVERY.reshape(2, 4, 32))
    twice = graph.call("levels", graph.call("levels", x, table(1)), table(1))
    assert graph.check(twice).ByteSize() < 256 + 2000
