"""`rmsnorm` in ONNX Runtime equals the reference."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.layernorm import MAX_EPS


def check(x: Array, multiplier: Array, *rest: object, keep_functions: bool = False) -> None:
    graph = Graph()
    graph.check(graph.call("rmsnorm", graph.operand(x), multiplier, *rest), keep_functions=keep_functions)


def of_kinds(seed: int, channels: int) -> Array:
    """`[2, 9, channels]`: rows of every pattern, and noise of two sizes."""
    random = np.random.default_rng(seed)
    rows = [filled(random, (channels,), "int16", pattern) for pattern in PATTERNS]
    rows += [random.normal(0, 2.0 ** random.uniform(0, 15), channels).clip(-32768, 32767) for _ in range(2)]
    return np.stack([rows, rows[::-1]]).astype(np.int16)


@settings(max_examples=15, deadline=None)
@given(
    SEEDS,
    st.sampled_from((1, 2, 7, 32)),
    st.sampled_from((1, 2, 3)),
    st.sampled_from((0, 1, 1 << 17, MAX_EPS)),
    st.integers(-15, 16),
    st.integers(0, 30),
    st.sampled_from(("int8", "int16")),
    st.booleans(),
)
def test_rmsnorm(
    seed: int, size: int, groups: int, eps: int, min_shift: int, shift: int, dtype: str, keep: bool
) -> None:
    random = np.random.default_rng(seed)
    limit = 32767 >> (shift == 30)
    multiplier = random.integers(-limit, limit + 1, random.choice((1, size * groups)))
    check(of_kinds(seed, size * groups), row(multiplier), shift, eps, min_shift, groups, dtype, keep_functions=keep)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("min_shift", range(-15, 17, 4))
@pytest.mark.parametrize("eps", [0, 5, MAX_EPS])
def test_every_min_shift(min_shift: int, eps: int, dtype: str) -> None:
    x = np.concatenate([of_kinds(1, 24), np.exp2(np.arange(24) * 15 / 24).astype(np.int16)[None, None].repeat(2, 0)], 1)
    check(x, row(32_767), 24 if dtype == "int8" else 16, eps, min_shift, 6, dtype)


def test_a_long_row() -> None:
    x = of_kinds(0, 32_767)[:1]
    check(x, row(32_767), 8, 0, -15, 1, "int8")
