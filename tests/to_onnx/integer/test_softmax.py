"""`softmax` in ONNX Runtime equals the reference."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.softmax import softmax_bits
from intvit.errors import IntvitError


def check(x: Array, *rest: object, **choices: bool) -> None:
    graph = Graph()
    graph.check(graph.call("softmax", graph.operand(x), *rest), **choices)


@settings(max_examples=40, deadline=None)
@given(
    st.data(),
    SEEDS,
    st.sampled_from((1, 2, 5)),
    st.sampled_from((1, 2, 3, 17, 49, 197, 300)),
    st.sampled_from(PATTERNS),
    st.sampled_from(("int16", "int32")),
    st.integers(8, 15),
    st.booleans(),
)
def test_softmax(
    data: st.DataObject, seed: int, tokens: int, channels: int, pattern: str, dtype: str, bits: int, functions: bool
) -> None:
    random = np.random.default_rng(seed)
    x = filled(random, (2, tokens, channels), dtype, pattern)
    if dtype == "int32":
        x = x >> data.draw(st.integers(2, 20))
    number = data.draw(dyadics(1, pre=data.draw(st.sampled_from((0, 4, 15, 29))), negative=False))
    check(x, *number, data.draw(st.integers(0, 30)), bits, keep_functions=functions)


@pytest.mark.parametrize("channels", [3136, 32_769, 140_000])
@pytest.mark.parametrize("pattern", ["random", "zero", "outlier"])
def test_long_rows(channels: int, pattern: str) -> None:
    x = filled(np.random.default_rng(0), (1, 2, channels), "int16", pattern)
    check(x, row(20_000), row(3), 15, softmax_bits(channels))


@pytest.mark.parametrize("pre", range(31))
def test_every_pre_shift(pre: int) -> None:
    x = filled(np.random.default_rng(pre), (1, 3, 20), "int32", "random") >> 2
    check(x, row(32_767), row(pre), 15, 15)


def test_distances_without_room_are_refused() -> None:
    x = np.array([[[(1 << 30) - 1, -(1 << 30)]]], np.int32)
    with pytest.raises(IntvitError, match="leave 32 bits"):
        check(x, row(5), row(30), 15, 15)
