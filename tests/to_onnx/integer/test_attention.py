"""`attention` in ONNX Runtime equals the reference."""

import numpy as np
import pytest
import torch
from graphs import PATTERNS, SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.attention import exponentials, on_levels
from intvit.errors import IntvitError
from intvit.passes.lower_attention import exponential_bits
from intvit.softmax_levels import SoftmaxLevels
from intvit.to_onnx.integer.attention import Distances, last_log2, sums_fit

QUICK = settings(max_examples=40, deadline=None)
CHOICES = st.fixed_dictionaries({"portable": st.booleans(), "keep_functions": st.booleans()})
LEVELS = st.one_of(st.just((1, 0)), st.tuples(st.integers(1, 2048), st.integers(2, 256)), st.just((2047, 256)))
"""Steps and numbers of levels; of a step over 256 the table is longer than that of the weights without levels."""


def operands(
    seed: int, tokens: int, keys: int, heads: int, d: int, e: int, pattern: str, batch: int = 2
) -> list[Array]:
    """int8 q `[B, T, H·D]`, k `[B, S, H·D]`, v `[B, S, H·E]`."""
    random = np.random.default_rng(seed)
    shapes = ((tokens, heads * d), (keys, heads * d), (keys, heads * e))
    return [filled(random, (batch, *shape), "int8", pattern) for shape in shapes]


def check(x: list[Array], heads: int, *rest: object, **choices: bool) -> None:
    graph = Graph()
    graph.check(graph.call("attention", *(graph.operand(part) for part in x), heads, *rest), **choices)


@QUICK
@given(
    st.data(),
    SEEDS,
    st.sampled_from((1, 2, 5, 7)),
    st.sampled_from((1, 2, 3, 17, 49, 197, 257, 300)),
    st.sampled_from((1, 2, 3)),
    st.sampled_from((1, 4, 7)),
    st.sampled_from(PATTERNS),
    CHOICES,
)
def test_attention(
    data: st.DataObject,
    seed: int,
    tokens: int,
    keys: int,
    heads: int,
    d: int,
    pattern: str,
    choices: dict[str, bool],
) -> None:
    bits = data.draw(st.integers(8, exponential_bits(keys)))
    e = data.draw(st.sampled_from((1, 4, 9)))
    score = data.draw(dyadics(heads, pre=data.draw(st.sampled_from((4, 12, 30))), negative=False))
    out = data.draw(dyadics(heads * e, pre=data.draw(st.sampled_from((4, 15, 30)))))
    score_shift, shift = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 30))
    x = operands(seed, tokens, keys, heads, d, e, pattern)
    check(x, heads, *score, score_shift, bits, *out, shift, 1, *data.draw(LEVELS), **choices)


@pytest.mark.parametrize(("keys", "bits"), [(1370, 13), (512, 15), (257, 15), (256, 15), (16_500, 9), (32_768, 9)])
@pytest.mark.parametrize("pattern", ["random", "lowest", "highest"])
def test_many_keys(keys: int, bits: int, pattern: str) -> None:
    """`o`, raised, would leave 32 bits from 257 keys on."""
    x = operands(0, 2, keys, 1, 2, 3, pattern, 1)
    x[0][:, 1] = 0
    check(x, 1, row(20_000), row(3), 12, bits, row([16_384, -9000, 30_000]), row([0, 1, 2]), 14)


def test_sums_of_9_bits() -> None:
    """One key of many outweighs all: `o` is shifted by one place only, which is halving it."""
    random = np.random.default_rng(0)
    x = operands(0, 1, 16_500, 1, 2, 3000, "random", 1)
    x[0][...], x[1][...], x[1][:, 7] = 127, -128, 127
    multiplier = row(random.integers(8000, 32_768, 3000))
    check(x, 1, row(20_000), row(3), 12, 9, multiplier, row(0), 21)


def test_keys_without_room_are_refused() -> None:
    assert all(sums_fit(keys, exponential_bits(keys)) for keys in range(1, 32_769))
    x = operands(0, 1, 32_897, 1, 1, 1, "small", 1)
    with pytest.raises(IntvitError, match="keys leave 32 bits"):
        check(x, 1, row(20_000), row(3), 12, 8, row(16_384), row(0), 14)


@pytest.mark.parametrize("pre", range(31))
def test_every_pre_shift(pre: int) -> None:
    """Of the scores of one of two heads, and of one of two channels; unused parts of a network have 30."""
    x = operands(pre, 3, 9, 2, 32, 1, "random")
    score = row([20_000, 32_767]), row([5, pre])
    check(x, 2, *score, 14, 15, row([30_000, 32_767]), row([2, pre]), 14)


def test_tables_of_unlike_heads_are_small() -> None:
    """A head whose scores all round to 0 would make the others' tables 2^25 times as long."""
    found = Distances.of(np.array([5, 30]), np.array([20_000, 20_000]), 14, 15, 1 << 21)
    assert (found.grain, found.coarser.tolist(), found.multiplier.tolist()) == (32, [1, 1], [20_000, 0])
    assert found.count < 5000
    assert Distances.of(np.array([30, 30]), np.array([9, 9]), 0, 15, 1 << 21).count == 1


@pytest.mark.parametrize("heads", [1, 6])
def test_equal_scores(heads: int) -> None:
    x = operands(0, 4, 11, heads, 4, 2, "random")
    x[0][...] = 0
    check(x, heads, row(20_000), row(5), 14, 15, row(30_000), row(2), 14)


@pytest.mark.parametrize("bits", range(8, 16))
def test_the_last_weight_is_the_first_that_is_0(bits: int) -> None:
    end = last_log2(bits)
    assert exponentials(torch.tensor([-end, 1 - end], dtype=torch.int32), bits).tolist() == [0, 1]


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize(("step", "levels"), [(1, 2), (1, 256), (128, 16), (300, 256), (1365, 4), (2047, 256)])
def test_the_last_weight_on_levels_is_the_first_that_is_0(step: int, levels: int, bits: int) -> None:
    t = -torch.arange(1 << 15, dtype=torch.int32)
    e = exponentials(on_levels(t, step, levels), bits)
    end = last_log2(bits, SoftmaxLevels(step, levels))
    assert e[end - 1] > 0 and not e[end:].any()


def test_heads_whose_tables_leave_32_bits_are_refused() -> None:
    x = operands(0, 1, 2, 64, 4096, 1, "small", 1)
    with pytest.raises(IntvitError, match="64 heads of 2 keys leave 32 bits"):
        check(x, 64, row(100), row(12), 14, 15, row(30_000), row(2), 14)
