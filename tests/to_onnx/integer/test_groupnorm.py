"""`groupnorm` in ONNX Runtime equals the reference."""

import numpy as np
import pytest
from graphs import SEEDS, Array, Graph, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.layernorm import MAX_EPS

MOST_BIAS = 1 << 29


def check(x: Array, multiplier: Array, bias: Array, *rest: object, keep_functions: bool = False) -> None:
    graph = Graph()
    graph.check(graph.call("groupnorm", graph.operand(x), multiplier, bias, *rest), keep_functions=keep_functions)


def images(random: np.random.Generator, tokens: int, channels: int) -> Array:
    """`[7, tokens, channels]`: noise of every size around different means, constants, an outlier, two values."""
    shape = (7, tokens, channels)
    x = random.normal(0, 1, shape) * np.reshape([20000, 300, 3, 0.4, 0, 0, 0], (7, 1, 1))
    x += np.reshape([0, 100, 30000, -20000, random.integers(-32768, 32768), -32768, 0], (7, 1, 1))
    x[5, 0, 0], x[6, :, ::2], x[6, :, 1::2] = 32767, -32768, 32767
    return x.round().clip(-32768, 32767).astype(np.int16)


@settings(max_examples=15, deadline=None)
@given(
    SEEDS,
    st.integers(1, 20),
    st.sampled_from((1, 2, 5, 16)),
    st.sampled_from((1, 2, 3)),
    st.sampled_from((0, 1, 1 << 17, MAX_EPS)),
    st.integers(-15, 16),
    st.integers(0, 30),
    st.sampled_from(("int8", "int16")),
    st.booleans(),
)
def test_groupnorm(
    seed: int, tokens: int, size: int, groups: int, eps: int, min_shift: int, shift: int, dtype: str, keep: bool
) -> None:
    random = np.random.default_rng(seed)
    limit, most = 32767 >> (shift == 30), random.choice((1, 1 << 12, MOST_BIAS))
    channels = size * groups
    multiplier = random.integers(-limit, limit + 1, random.choice((1, channels)))
    bias = random.integers(-most, most, random.choice((1, channels)))
    x = images(random, tokens, channels)
    check(x, row(multiplier), row(bias), shift, groups, eps, min_shift, dtype, keep_functions=keep)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("min_shift", range(-15, 17, 4))
@pytest.mark.parametrize("eps", [0, 5, MAX_EPS])
def test_every_min_shift(min_shift: int, eps: int, dtype: str) -> None:
    x = images(np.random.default_rng(0), 12, 8)
    check(x, row(32_767), row(5), 10 if dtype == "int8" else 4, 2, eps, min_shift, dtype)


def test_the_largest_group() -> None:
    """All sums at their ends, and an outlier that saturates."""
    x = np.full((3, 1 << 15, 32), -(1 << 15), np.int16)
    x[1, ::2], x[2, 5, 7] = (1 << 15) - 1, (1 << 15) - 1
    check(x, row(900), row(3), 9, 1, 0, -15, "int8")
