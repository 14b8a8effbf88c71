"""I-ViT's published forms in ONNX Runtime equal the reference."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=25, deadline=None)
CHOICES = st.fixed_dictionaries({"portable": st.booleans(), "keep_functions": st.booleans()})


@QUICK
@given(
    st.data(),
    SEEDS,
    st.sampled_from((1, 3)),
    st.sampled_from((1, 2, 17, 200)),
    st.sampled_from((1, 3)),
    st.sampled_from(PATTERNS),
    CHOICES,
)
def test_attention(
    data: st.DataObject, seed: int, tokens: int, keys: int, heads: int, pattern: str, choices: dict[str, bool]
) -> None:
    random = np.random.default_rng(seed)
    score = data.draw(dyadics(heads, pre=data.draw(st.sampled_from((8, 30)))))
    out = data.draw(dyadics(heads * 4, pre=data.draw(st.sampled_from((8, 30)))))
    x0 = data.draw(st.integers(max(-(((1 << 31) - 1) // (keys << 15)) + 1, -(1 << 15) + 1), -1))
    graph = Graph()
    x = [graph.operand(filled(random, (2, n, heads * 4), "int8", pattern)) for n in (tokens, keys, keys)]
    shifts = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    graph.check(graph.call("attention_published", *x, heads, *score, shifts[0], x0, *out, shifts[1]), **choices)


@QUICK
@given(st.data(), SEEDS, st.sampled_from((1, 5, 8)), st.sampled_from(PATTERNS), st.integers(-100, -1), CHOICES)
def test_gelu(data: st.DataObject, seed: int, n: int, pattern: str, x0: int, choices: dict[str, bool]) -> None:
    graph = Graph()
    x = graph.operand(filled(np.random.default_rng(seed), (2, 9, n), "int8", pattern))
    dyadic = data.draw(dyadics(n, pre=data.draw(st.sampled_from((8, 30)))))
    graph.check(graph.call("gelu_published", x, x0, *dyadic, data.draw(st.integers(0, 30))), **choices)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("channels", [1, 2, 7, 192])
def test_layernorm(channels: int, pattern: str) -> None:
    """Results have 31 bits, so that a requantization has no room to raise them."""
    random = np.random.default_rng(channels)
    graph = Graph()
    x = graph.operand(filled(random, (2, 5, channels), "int16", pattern))
    rows = graph.call("layernorm_published", x, random.integers(-(1 << 29), 1 << 29, channels).astype(np.int32))
    graph.check(rows, graph.call("requantize", rows, row(-20_001), row(16), 9, 0, "int8"))
