"""`requantize` and `add` in ONNX Runtime equal the reference, for every parameter that the dialect allows."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.requantize import ADD_MULTIPLIER

QUICK = settings(max_examples=30, deadline=None)
CHANNELS = st.sampled_from((1, 3, 7, 16, 70))
TYPES = st.sampled_from(("int8", "int16", "int32"))
HALF30 = 1 << 29


def operand(seed: int, channels: int, dtype: str, pattern: str, batch: int = 2) -> Array:
    """`[batch, 3, channels]`; int32 operands leave room for the half of a shift by 30."""
    x = filled(np.random.default_rng(seed), (batch, 3, channels), dtype, pattern)
    return x.clip(-(2**31), 2**31 - 1 - HALF30).astype(dtype) if dtype == "int32" else x


@QUICK
@given(st.data(), SEEDS, CHANNELS, TYPES, TYPES, st.sampled_from(PATTERNS), st.integers(0, 30))
def test_requantize(data: st.DataObject, seed: int, n: int, source: str, target: str, pattern: str, shift: int) -> None:
    multiplier, pre = data.draw(dyadics(n, pre=30))
    zero = data.draw(st.sampled_from((0, 1, -128, 127, -40000, 1 << 20)))
    graph = Graph()
    x = graph.operand(operand(seed, n, source, pattern))
    graph.check(graph.call("requantize", x, multiplier, pre, shift, zero, target))


@pytest.mark.parametrize("pre", range(31))
def test_every_pre_shift_at_its_halves(pre: int) -> None:
    half = (1 << pre) >> 1
    ends = [k * (1 << pre) + half + d for k in (-32769, -3, -1, 0, 1, 32766, 32767) for d in (-1, 0, 1)]
    inside = [v for v in ends if -(2**31) <= v < 2**31 - half]
    x = np.array(inside, np.int32).reshape(1, -1, 1)
    graph = Graph()
    node = graph.operand(x)
    graph.check(*(graph.call("requantize", node, row(m), row(pre), 0, 0, "int32") for m in (1, -1, 32767, -32767)))


def test_no_room_to_raise() -> None:
    x = np.array([2**31 - 1, 2**31 - 2**15, 2**30, 0, -(2**31)], np.int32).reshape(1, 1, 5)
    graph = Graph()
    node = graph.operand(x)
    graph.check(graph.call("requantize", node, row(3), row(0), 1, 0, "int32"))


def test_pre_shifts_of_many_channels_are_stored_small() -> None:
    random = np.random.default_rng(0)
    graph = Graph()
    x = graph.operand(operand(0, 200, "int16", "random"))
    multiplier, pre = random.integers(-32767, 32768, 200), random.integers(0, 16, 200)
    model = graph.check(graph.call("requantize", x, row(multiplier), row(pre), 15, 0, "int8"))
    assert sum(len(t.raw_data) for t in model.graph.initializer) < 200 * 4 + 800 + 200


@QUICK
@given(st.data(), SEEDS, CHANNELS, st.sampled_from(PATTERNS), st.integers(0, 30))
def test_add(data: st.DataObject, seed: int, n: int, pattern: str, shift: int) -> None:
    kinds = data.draw(st.sampled_from((("int16", "int16"), ("int32", "int16"), ("int32", "int32"))))
    (m, pre), (m2, pre2) = (data.draw(dyadics(n, ADD_MULTIPLIER, pre=30)) for _ in range(2))
    if shift == 30:  # the half of a shift by 30 leaves half the room
        m, m2 = m // 2, m2 // 2
    graph = Graph()
    a, b = (graph.operand(operand(seed + i, n, kind, pattern)) for i, kind in enumerate(kinds))
    graph.check(graph.call("add", a, m, pre, b, m2, pre2, shift))


@QUICK
@given(st.data(), SEEDS, CHANNELS, st.sampled_from(("int16", "int32")), st.booleans(), st.integers(0, 29))
def test_add_constant(data: st.DataObject, seed: int, n: int, dtype: str, first: bool, shift: int) -> None:
    (m, pre), (m2, pre2) = (data.draw(dyadics(n, ADD_MULTIPLIER, pre=15)) for _ in range(2))
    random = np.random.default_rng(seed)
    graph = Graph()
    x = graph.operand(operand(seed, n, dtype, "random"))
    arms = [(x, m, pre), (filled(random, (3, n), "int16", data.draw(st.sampled_from(PATTERNS))), m2, pre2)]
    (a, *dyadic), (b, *dyadic2) = arms if first else arms[::-1]
    graph.check(graph.call("add", a, *dyadic, b, *dyadic2, shift))


def test_add_of_a_value_to_itself() -> None:
    graph = Graph()
    x = graph.operand(operand(0, 5, "int16", "random"))
    graph.check(graph.call("add", x, row(9000), row(0), x, row(-700), row(3), 13))


def test_multipliers_of_16_bits() -> None:
    """The proof admits these, as the constants are small."""
    graph = Graph()
    x = graph.operand(operand(0, 4, "int16", "random"))
    table = filled(np.random.default_rng(0), (3, 4), "int16", "small")
    graph.check(graph.call("add", x, row(32767), row(0), table, row(32767), row(0), 15))
