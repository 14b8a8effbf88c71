"""The integer program against every choice there is."""

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.rounding.allocation import CHOICES, allocate, stored_bytes

LOSS = st.floats(0, 1e6) | st.floats(1e-12, 1e-6)
LAYER = st.tuples(st.integers(1, 1 << 24), LOSS, LOSS)


def total(losses: dict[str, dict[int, float]], chosen: dict[str, int]) -> float:
    return sum(losses[name][bits] for name, bits in chosen.items())


def taken(weights: dict[str, int], chosen: dict[str, int]) -> int:
    return sum(stored_bytes(weights[name], bits) for name, bits in chosen.items())


def by_trying(losses: dict[str, dict[int, float]], weights: dict[str, int], limit: int) -> float:
    """The least loss of all choices that keep to the limit."""
    choices = [dict(zip(losses, bits, strict=True)) for bits in product(*losses.values())]
    return min((total(losses, chosen) for chosen in choices if taken(weights, chosen) <= limit), default=inf)


@settings(max_examples=150, deadline=None)
@given(st.lists(LAYER, min_size=1, max_size=7), st.floats(0, 1), st.sampled_from([(4, 8), (3, 6), (4, 6, 8)]))
def test_the_best_of_all_choices(layers: list[tuple[int, float, float]], share: float, bits: tuple[int, ...]) -> None:
    """At most the solver's tolerance, relative to all losses together, above the least."""
    weights = {str(i): count for i, (count, _, _) in enumerate(layers)}
    losses = {str(i): {b: low + high * (8 - b) for b in bits} for i, (_, low, high) in enumerate(layers)}
    ends = [sum(stored_bytes(count, b) for count in weights.values()) for b in (min(bits), max(bits))]
    limit = int(ends[0] + share * (ends[1] - ends[0]))
    found = allocate(losses, weights, limit)
    assert list(found) == list(losses) and taken(weights, found) <= limit
    everything = sum(sum(of_layer.values()) for of_layer in losses.values())
    assert total(losses, found) <= by_trying(losses, weights, limit) + 1e-11 * everything
    assert allocate(losses, weights, limit) == found


def test_bytes_are_those_of_files() -> None:
    assert [stored_bytes(9, bits) for bits in (3, 4, 5, 6, 8)] == [5, 5, 9, 9, 9]
    assert [stored_bytes(9, bits) for bits in CHOICES] == [5, 9]


def test_what_costs_most_keeps_eight_bits() -> None:
    weights = dict.fromkeys("abcdef", 1000)
    losses = {name: {4: 1e-9 * (i + 1), 8: 0.0} for i, name in enumerate(weights)}
    losses["c"][4] = 1e3
    for limit in range(3000, 6001, 250):
        found = allocate(losses, weights, limit)
        eight = [name for name in "cfedba" if found[name] == 8]
        assert "".join(eight) == "cfedba"[: (limit - 3000) // 500]


def test_one_large_layer_against_several_small_ones() -> None:
    """By loss per byte `large` is first; it does not fit, and two others are worth more than what is left."""
    weights = {"large": 600, "one": 400, "two": 400}
    losses = {"large": {4: 7.0, 8: 0.0}, "one": {4: 4.0, 8: 0.0}, "two": {4: 4.0, 8: 0.0}}
    assert allocate(losses, weights, 700 + 400) == {"large": 4, "one": 8, "two": 8}
    assert allocate(losses, weights, 700 + 399) == {"large": 8, "one": 4, "two": 4}


def test_layers_without_loss_and_no_layers() -> None:
    assert allocate({}, {}, 0) == {}
    assert set(allocate({"a": {4: 0.0, 8: 0.0}}, {"a": 10}, 5).values()) == {4}


def test_a_limit_that_no_choice_keeps_to() -> None:
    with pytest.raises(ValueError, match="at most 4 bytes"):
        allocate({"a": {4: 1.0, 8: 0.0}}, {"a": 10}, 4)
