"""How peers take turns, and the statistics of their times, on numbers that can be counted by hand."""

import time

import numpy as np
import pytest

from intvit.bench.timing import Turns, ratio, summary, take_turns

QUICK = Turns(rounds=4, calls=3, seconds=10, pause=0, warm_up=2)


def test_summary_is_in_milliseconds() -> None:
    found = summary(np.arange(11).reshape(1, 11) / 1000)
    assert (found.median, found.p10, found.p90, found.calls) == (
        pytest.approx(5),
        pytest.approx(1),
        pytest.approx(9),
        11,
    )


def test_summary_takes_all_calls_of_all_rounds() -> None:
    found = summary(np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0], [2.0, 2.0, 2.0]]))
    assert (found.median, found.calls) == (2000, 9)


def test_the_ratio_of_constant_times_has_no_spread() -> None:
    found = ratio(np.full((5, 3), 0.6), np.full((5, 2), 0.2))
    assert (found.value, found.low, found.high) == (pytest.approx(3), pytest.approx(3), pytest.approx(3))


def test_rounds_are_resampled_together() -> None:
    """A round in which the machine was slow for both does not widen the spread of their ratio."""
    drift = np.array([1, 2, 4, 8, 16.0])[:, None] * np.ones((5, 3))
    found = ratio(2 * drift, drift)
    assert (found.value, found.low, found.high) == (2, 2, 2)
    apart = ratio(2 * drift, drift[::-1])
    assert apart.low < 1 < 4 < apart.high


def test_the_spread_holds_the_ratio_and_is_the_same_every_time() -> None:
    random = np.random.default_rng(1)
    above, below = random.uniform(2, 3, (20, 5)), random.uniform(1, 2, (20, 5))
    found = ratio(above, below)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(np.median(above) / np.median(below))
    assert ratio(above, below) == found


def test_a_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="5 rounds cannot be compared with 4"):
        ratio(np.ones((5, 2)), np.ones((4, 2)))


def test_turns_are_rounds_of_calls_with_one_that_is_not_counted() -> None:
    called: list[str] = []
    done: list[int] = []
    times = take_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, QUICK, done.append)
    assert {name: taken.shape for name, taken in times.items()} == {"a": (4, 3), "b": (4, 3)}
    assert "".join(called) == "aabb" + "aaaabbbb" * 4
    assert done == [1, 2, 3, 4]
    assert all((taken > 0).all() for taken in times.values())


def test_a_turn_is_as_long_as_it_may_be() -> None:
    slow = Turns(rounds=2, calls=10, seconds=0.001, pause=0, warm_up=1)
    assert take_turns({"a": lambda: time.sleep(0.002)}, slow)["a"].shape == (2, 1)


def test_three_rounds_are_made_whatever_the_limit() -> None:
    assert take_turns({"a": lambda: None}, Turns(rounds=9, calls=2, pause=0, limit=0))["a"].shape == (3, 2)
    assert take_turns({"a": lambda: None}, Turns(rounds=1, calls=2, pause=0, limit=0))["a"].shape == (1, 2)
