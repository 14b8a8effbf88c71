"""`gelu` in ONNX Runtime equals the reference: for all 16-bit integers, and as the only reader of a requantization."""

import numpy as np
import pytest
from graphs import SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.to_onnx.integer.gelu import support

QUICK = settings(max_examples=25, deadline=None)
ALL = np.arange(-(1 << 15), 1 << 15).astype(np.int16)


def every(channels: int) -> Array:
    """All 16-bit integers, `[1, ..., channels]`."""
    return np.resize(ALL, (1, -(-len(ALL) // channels), channels))


@QUICK
@given(
    st.integers(0, 13),
    st.integers(-32_767, 32_767),
    st.integers(0, 15),
    st.integers(0, 30),
    st.sampled_from((0, -100, 127, -128, 300, -70_000)),
    st.booleans(),
)
def test_every_integer(fraction: int, multiplier: int, pre: int, shift: int, zero: int, keep: bool) -> None:
    graph = Graph()
    x = graph.operand(every(8))
    graph.check(graph.call("gelu", x, fraction, row(multiplier), row(pre), shift, zero), keep_functions=keep)


@pytest.mark.parametrize("fraction", range(14))
def test_as_quantized(fraction: int) -> None:
    """The multiplier of results up to 4."""
    graph = Graph()
    x = graph.operand(every(3))
    graph.check(graph.call("gelu", x, fraction, row(16_384 + 77), row(0), 21, -111))


@pytest.mark.parametrize("pre", range(16, 31))
def test_every_pre_shift(pre: int) -> None:
    graph = Graph()
    x = graph.operand(every(8))
    graph.check(
        graph.call("gelu", x, 0, row(32_767), row(pre), 3, 5), graph.call("gelu", x, 13, row(-9), row(pre), 0, 0)
    )


@QUICK
@given(st.data(), SEEDS, st.sampled_from((1, 5, 8, 100)), st.integers(0, 13), st.integers(0, 30), st.booleans())
def test_a_scale_for_each_channel(
    data: st.DataObject, seed: int, n: int, fraction: int, shift: int, keep: bool
) -> None:
    graph = Graph()
    x = graph.operand(filled(np.random.default_rng(seed), (2, 40, n), "int16", "random"))
    node = graph.call("gelu", x, fraction, *data.draw(dyadics(n, pre=15)), shift, -3)
    graph.check(node, keep_functions=keep)


@QUICK
@given(st.data(), SEEDS, st.integers(0, 13), st.sampled_from((1, 3, 4, 6)), st.booleans(), st.booleans())
def test_behind_a_product(data: st.DataObject, seed: int, fraction: int, n: int, read_twice: bool, keep: bool) -> None:
    """The requantization gives no more levels than the GELU tells apart, unless another reads them."""
    random = np.random.default_rng(seed)
    graph = Graph()
    x = graph.operand(filled(random, (3, 5, 7), "int8", data.draw(st.sampled_from(("random", "lowest", "highest")))))
    sums = graph.call(
        "linear", x, filled(random, (n, 7), "int8", "random"), random.integers(-999, 999, n).astype(np.int32)
    )
    middle = graph.call("requantize", sums, *data.draw(dyadics(n, pre=8)), data.draw(st.integers(0, 20)), 2, "int16")
    result = graph.call("gelu", middle, fraction, row(data.draw(st.integers(-999, 32_767))), row(2), 17, -100)
    graph.check(*((result, middle) if read_twice else (result,)), keep_functions=keep)


def test_behind_selected_tokens() -> None:
    graph = Graph()
    x = graph.operand(filled(np.random.default_rng(0), (2, 4, 8), "int16", "random"))
    middle = graph.call("requantize", x, row(30_000), row(0), 15, 0, "int16")
    graph.check(graph.call("gelu", graph.call("select_tokens", middle, 1, 3), 10, row(16_000), row(0), 20, -100))


@pytest.mark.parametrize(("multiplier", "count"), [(0, 1), (1, 1)])
def test_support_of_a_constant(multiplier: int, count: int) -> None:
    found = support(13, np.array([multiplier], np.int32), np.array([15], np.int32), 30, 0)
    assert found == (0, count)


def test_support_is_tight() -> None:
    lowest, count = support(10, np.array([16_384], np.int32), np.array([0], np.int32), 21, -111)
    assert -(1 << 12) <= lowest < 0 < lowest + count < 1 << 15
