"""`unfold`, `depthwise` and `pool` in ONNX Runtime equal the reference."""

import math

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Graph, dyadics, filled
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.errors import IntvitError
from intvit.geometry import Geometry

QUICK = settings(max_examples=10, deadline=None)
CHOICES = st.fixed_dictionaries({"keep_functions": st.booleans(), "opset": st.sampled_from((18, 21))})
Lists = tuple[list[int], list[int], list[int], list[int], list[int]]


@st.composite
def geometries(draw: st.DrawFn, dilated: bool = True) -> Lists:
    axes = []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2 if dilated else 1))
        size = draw(st.integers((kernel - 1) * dilation + 1, 9))
        before, after = draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))
        axes.append((size, kernel, draw(st.integers(1, 3)), before, after, dilation))
    size, kernel, stride, before, after, dilation = (list(pair) for pair in zip(*axes, strict=True))
    return size, kernel, stride, [*before, *after], dilation


@QUICK
@given(geometries(), SEEDS, st.integers(1, 9), st.sampled_from(PATTERNS), st.booleans(), CHOICES)
def test_unfold(lists: Lists, seed: int, n: int, pattern: str, alike: bool, choices: dict[str, bool]) -> None:
    random = np.random.default_rng(seed)
    fill = random.integers(-128, 128, 1 if alike else n).repeat(n if alike else 1).astype(np.int32)
    x = filled(random, (2, math.prod(lists[0]), n), "int8", pattern)
    graph = Graph()
    graph.check(graph.call("unfold", graph.operand(x), fill, *lists), **choices)


@QUICK
@given(st.data(), geometries(), SEEDS, st.integers(1, 70), st.sampled_from(PATTERNS), CHOICES)
def test_depthwise(
    data: st.DataObject, lists: Lists, seed: int, n: int, pattern: str, choices: dict[str, bool]
) -> None:
    """The sums, and what a requantization makes of them."""
    random = np.random.default_rng(seed)
    x = filled(random, (2, math.prod(lists[0]), n), "int8", data.draw(st.sampled_from(PATTERNS)))
    weight = filled(random, (math.prod(lists[1]), n), "int8", pattern)
    fill, bias = (random.integers(-end, end, n).astype(np.int32) for end in (128, 1 << 20))
    graph = Graph()
    sums = graph.call("depthwise", graph.operand(x), weight, bias, fill, *lists)
    graph.check(sums, graph.call("requantize", sums, *data.draw(dyadics(n)), 14, 3, "int8"), **choices)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", ["mean", "max"])
@QUICK
@given(st.data(), geometries(dilated=False), SEEDS, st.integers(1, 9), st.integers(0, 30), CHOICES)
def test_pool(
    kind: str,
    dtype: str,
    data: st.DataObject,
    lists: Lists,
    seed: int,
    n: int,
    shift: int,
    choices: dict[str, bool],
) -> None:
    """Behind it another, which takes 16-bit integers as the first leaves them."""
    windows = Geometry.of(*lists)
    x = filled(np.random.default_rng(seed), (2, windows.pixels, n), dtype, data.draw(st.sampled_from(PATTERNS)))
    multiplier, pre = data.draw(dyadics(windows.tokens, pre=data.draw(st.sampled_from((4, 15, 24)))))
    graph = Graph()
    y = graph.call("pool", graph.operand(x), *lists[:4], kind, multiplier, pre, shift, dtype)
    one = np.ones(1, np.int32)
    size = list(windows.result)
    again = graph.call("pool", y, size, size, [1, 1], [0] * 4, kind, 20000 * one, 3 * one, 14, dtype)
    graph.check(y, again, **choices)


@pytest.mark.parametrize("value", [-(2**15), 2**15 - 1, -12345])
@pytest.mark.parametrize("count", [2**15, 2**15 - 1])
def test_mean_of_many_pixels(count: int, value: int) -> None:
    """Their sums leave no room to be raised."""
    x = np.full((1, count, 2), value, np.int16)
    x[:, 0, 1] = 77
    graph = Graph()
    pre, multiplier = np.full(1, 15, np.int32), np.full(1, 1 << 14, np.int32)
    graph.check(
        graph.call(
            "pool", graph.operand(x), [1, count], [1, count], [1, 1], [0] * 4, "mean", multiplier, pre, 14, "int16"
        )
    )


def test_sums_that_leave_32_bits() -> None:
    """Distances from the padding are up to 255, so that the bias has less room than the dialect leaves it."""
    x, size = np.zeros((1, 4, 1), np.int8), [2, 2]
    weight, fill = np.full((4, 1), 127, np.int8), np.full(1, 127, np.int32)
    bias = np.array([2**31 - 1 - 127 * 4 * 127], np.int32)
    graph = Graph()
    sums = graph.call("depthwise", graph.operand(x), weight, bias, fill, size, size, [1, 1], [0] * 4, [1, 1])
    with pytest.raises(IntvitError, match="leave 32 bits"):
        graph.check(sums)
