"""`biased_attention`, and `attention` in windows, in ONNX Runtime equal the reference."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.biased_attention import MASK
from intvit.passes.lower_attention import exponential_bits

QUICK = settings(max_examples=30, deadline=None)
CHOICES = st.fixed_dictionaries({"portable": st.booleans(), "keep_functions": st.booleans()})
LEVELS = st.one_of(st.just((1, 0)), st.tuples(st.integers(1, 2048), st.integers(2, 256)), st.just((2047, 256)))
"""Steps and numbers of levels."""
SIZES = st.tuples(st.sampled_from((1, 2, 5)), st.sampled_from((1, 3, 17, 49)), st.integers(1, 3), st.integers(1, 3))
"""Queries, keys, heads, windows."""


def operands(seed: int, sizes: tuple[int, int, int, int], d: int, e: int, pattern: str) -> list[Array]:
    """int8 q `[B, W·T, H·D]`, k `[B, W·S, H·D]`, v `[B, W·S, H·E]`."""
    random = np.random.default_rng(seed)
    tokens, keys, heads, windows = sizes
    shapes = ((windows * tokens, heads * d), (windows * keys, heads * d), (windows * keys, heads * e))
    return [filled(random, (2, *shape), "int8", pattern) for shape in shapes]


def biased(graph: Graph, x: list[Array], heads: int, windows: int, *rest: object, **choices: bool) -> None:
    graph.check(graph.call("biased_attention", *(graph.operand(part) for part in x), heads, windows, *rest), **choices)


@QUICK
@given(st.data(), SEEDS, SIZES, st.sampled_from((1, 4, 7)), st.sampled_from(PATTERNS), CHOICES)
def test_attention_in_windows(
    data: st.DataObject, seed: int, sizes: tuple[int, int, int, int], d: int, pattern: str, choices: dict[str, bool]
) -> None:
    _, keys, heads, windows = sizes
    bits = data.draw(st.integers(8, exponential_bits(keys)))
    score = data.draw(dyadics(heads, pre=12, negative=False))
    out = data.draw(dyadics(heads * 3))
    graph = Graph()
    x = [graph.operand(part) for part in operands(seed, sizes, d, 3, pattern)]
    score_shift, shift, levels = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 30)), data.draw(LEVELS)
    rest = (heads, *score, score_shift, bits, *out, shift, windows, *levels)
    graph.check(graph.call("attention", *x, *rest), **choices)


@QUICK
@given(
    st.data(),
    SEEDS,
    SIZES,
    st.sampled_from((1, 4, 7)),
    st.sampled_from(PATTERNS),
    st.sampled_from((0.0, 0.4, 1.0)),
    CHOICES,
)
def test_biased_attention(
    data: st.DataObject,
    seed: int,
    sizes: tuple[int, int, int, int],
    d: int,
    pattern: str,
    masked: float,
    choices: dict[str, bool],
) -> None:
    tokens, keys, heads, windows = sizes
    bits = data.draw(st.integers(8, exponential_bits(keys)))
    score = data.draw(dyadics(heads, pre=data.draw(st.sampled_from((4, 12, 30)))))
    out = data.draw(dyadics(heads * 3))
    random = np.random.default_rng(seed)
    bias = random.integers(MASK + 1, -MASK, (2, data.draw(st.sampled_from((1, heads))), tokens, keys)).astype(np.int16)
    bias[random.random(bias.shape) < masked] = MASK
    bias[:, :, 0] = MASK if masked else 0
    kinds = random.integers(0, 2, windows).astype(np.int32)
    x = operands(seed, sizes, d, 3, pattern)
    score_shift, shift = data.draw(st.integers(9, 30)), data.draw(st.integers(0, 30))
    rest = (*score, score_shift, bias, kinds, bits, *out, shift, *data.draw(LEVELS))
    biased(Graph(), x, heads, windows, *rest, **choices)


@pytest.mark.parametrize("pre", range(0, 31, 3))
def test_every_pre_shift_of_the_scores(pre: int) -> None:
    x = operands(pre, (3, 9, 2, 1), 32, 1, "random")
    score = row([20_000, 32_767]), row([5, pre])
    bias, kinds = np.zeros((1, 1, 3, 9), np.int16), np.zeros(1, np.int32)
    biased(Graph(), x, 2, 1, *score, 14, bias, kinds, 15, row([30_000, 32_767]), row([2, 3]), 14)


@pytest.mark.parametrize("shift", [9, 13, 14, 15, 16, 30])
@pytest.mark.parametrize("pattern", ["lowest", "highest"])
def test_the_largest_scores(shift: int, pattern: str) -> None:
    x = operands(0, (2, 5, 1, 1), 64, 2, pattern)
    bias, kinds = np.full((1, 1, 2, 5), -MASK - 1, np.int16), np.zeros(1, np.int32)
    bias[..., 1] = MASK + 1
    biased(Graph(), x, 1, 1, row(-32_768), row(0), shift, bias, kinds, 15, row(30_000), row(2), 14)
