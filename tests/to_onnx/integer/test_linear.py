"""`linear` with what reads it, in ONNX Runtime, equals the reference."""

import numpy as np
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, dyadics, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from intvit.errors import IntvitError

QUICK = settings(max_examples=25, deadline=None)
WIDTHS = st.sampled_from((1, 5, 8, 33, 64, 100))
CHOICES = st.fixed_dictionaries({"portable": st.booleans(), "keep_functions": st.booleans()})


def operand(seed: int, k: int, pattern: str, tokens: int = 3) -> Array:
    return filled(np.random.default_rng(seed), (2, tokens, k), "int8", pattern)


def product(
    graph: Graph, x: fx.Node, seed: int, k: int, n: int, pattern: str = "random", most: int = 1 << 20
) -> fx.Node:
    """A `linear` with weights of a pattern and random biases."""
    random = np.random.default_rng(seed)
    weight = filled(random, (n, k), "int8", pattern)
    return graph.call("linear", x, weight, random.integers(-most, most, n).astype(np.int32))


@QUICK
@given(SEEDS, WIDTHS, WIDTHS, st.sampled_from(PATTERNS), st.sampled_from(PATTERNS), st.sampled_from((1, 3)), CHOICES)
def test_sums(seed: int, k: int, n: int, rows: str, weights: str, tokens: int, choices: dict[str, bool]) -> None:
    graph = Graph()
    graph.check(product(graph, graph.operand(operand(seed, k, rows, tokens)), seed, k, n, weights), **choices)


@QUICK
@given(st.data(), SEEDS, WIDTHS, WIDTHS, st.sampled_from(("int8", "int16", "int32")), st.integers(0, 30), CHOICES)
def test_requantized(
    data: st.DataObject, seed: int, k: int, n: int, dtype: str, shift: int, choices: dict[str, bool]
) -> None:
    multiplier, pre = data.draw(dyadics(n, pre=data.draw(st.sampled_from((12, 15, 30)))))
    graph = Graph()
    sums = product(graph, graph.operand(operand(seed, k, data.draw(st.sampled_from(PATTERNS)))), seed, k, n)
    graph.check(graph.call("requantize", sums, multiplier, pre, shift, 3, dtype), **choices)


@QUICK
@given(st.data(), SEEDS, st.sampled_from((12, 15, 30)), st.sampled_from((12, 15, 30)), CHOICES)
def test_products_of_one_operand(
    data: st.DataObject, seed: int, first: int, second: int, choices: dict[str, bool]
) -> None:
    """They become one product, where their pre-shifts allow it; a third is requantized in another way."""
    graph = Graph()
    x = graph.operand(operand(seed, 20, "random"))
    results = []
    for i, (n, pre, shift) in enumerate(((8, first, 14), (5, second, 14), (7, 9, 15), (6, 12, 14))):
        sums = product(graph, x, seed + i, 20, n)
        results.append(graph.call("requantize", sums, *data.draw(dyadics(n, pre=pre)), shift, 0, "int8"))
    model = graph.check(*results, **choices)
    products = [node for node in model.graph.node if node.op_type in ("MatMulInteger", "Linear", "LinearPortable")]
    assert 2 <= len(products) <= 4


def test_products_of_one_operand_are_one() -> None:
    graph = Graph()
    x = graph.operand(operand(0, 20, "random"))
    sums = [product(graph, x, i, 20, n) for i, n in enumerate((8, 5, 7))]
    pre = [row(3), row([2, 3, 4, 5, 6]), row(4)]
    model = graph.check(
        *(graph.call("requantize", y, row(20000), p, 15, 0, "int8") for y, p in zip(sums, pre, strict=True))
    )
    assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) == 1


def test_large_shifts_are_in_the_bias_too() -> None:
    graph = Graph()
    sums = product(graph, graph.operand(operand(0, 20, "random")), 0, 20, 6)
    shifts = row([9, 15, 16, 20, 25, 30])
    model = graph.check(graph.call("requantize", sums, row(20_000), shifts, 12, 0, "int8"))
    assert not [node for node in model.graph.node if node.op_type == "BitShift"]


def test_one_of_several_products_has_no_room() -> None:
    """Its large bias keeps it out of the product that the others become."""
    graph = Graph()
    x = graph.operand(operand(0, 20, "random"))
    weights = [filled(np.random.default_rng(i), (4, 20), "int8", "random") for i in range(3)]
    biases = [row([5] * 4), row([(1 << 31) - (1 << 20)] * 4), row([-7] * 4)]
    sums = [graph.call("linear", x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    model = graph.check(*(graph.call("requantize", y, row(20_000), row(15), 16, 0, "int8") for y in sums))
    assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) == 2


@QUICK
@given(st.data(), SEEDS, WIDTHS, st.sampled_from((12, 15, 30)), st.booleans(), CHOICES)
def test_added(data: st.DataObject, seed: int, n: int, most: int, first: bool, choices: dict[str, bool]) -> None:
    dyadic, other = data.draw(dyadics(n, 1 << 14, most)), data.draw(dyadics(n, 1 << 14, 3))
    graph = Graph()
    sums = product(graph, graph.operand(operand(seed, 9, "random")), seed, 9, n)
    stream = graph.operand(filled(np.random.default_rng(seed), (2, 3, n), "int16", "random"))
    arms = [(sums, *dyadic), (stream, *other)]
    a, b = arms if first else arms[::-1]
    graph.check(graph.call("add", *a, *b, 14), **choices)


def test_added_to_another_product() -> None:
    graph = Graph()
    x = graph.operand(operand(0, 9, "random"))
    a, b = product(graph, x, 1, 9, 6), product(graph, x, 2, 9, 6)
    graph.check(graph.call("add", a, row(16000), row(9), b, row([1, -5, 9, 16384, -16384, 0]), row(4), 14))


def test_added_to_itself() -> None:
    graph = Graph()
    sums = product(graph, graph.operand(operand(0, 9, "random")), 0, 9, 6)
    graph.check(graph.call("add", sums, row(16000), row(9), sums, row(-1600), row(4), 12))


def test_read_twice() -> None:
    graph = Graph()
    sums = product(graph, graph.operand(operand(0, 9, "random")), 0, 9, 6)
    narrow = graph.call("requantize", sums, row(16000), row(9), 14, 0, "int8")
    wide = graph.call("requantize", sums, row(160), row(17), 4, 0, "int16")
    graph.check(sums, narrow, wide)


@pytest.mark.parametrize("bias", (2**30, 2**31 - 200_000, -(2**31) + 200_000))
def test_large_biases(bias: int) -> None:
    """No room is left to raise the sums by what their reader wants."""
    graph = Graph()
    x = graph.operand(operand(0, 4, "random"))
    weight = filled(np.random.default_rng(0), (3, 4), "int8", "random")
    sums = graph.call("linear", x, weight, row([bias, 5, -bias]))
    graph.check(graph.call("requantize", sums, row(16000), row([15, 14, 16]), 14, 0, "int16"))


def test_sums_that_leave_32_bits_when_raised() -> None:
    """Raised activations are up to 255, so that the sums of 66,312 channels are not proved."""
    graph = Graph()
    x = graph.operand(operand(0, 66_400, "lowest", 1)[:1])
    sums = graph.call("linear", x, np.full((1, 66_400), 127, np.int8), row(0))
    with pytest.raises(IntvitError, match="sums of raised activations leave 32 bits"):
        graph.check(sums)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize("pre", [15, 16, 20, 24, 30])
@pytest.mark.parametrize("bias", [-(1 << 30) - (1 << 29), -(1 << 30) - (1 << 28), (1 << 30) + (1 << 28)])
def test_sums_that_a_raise_does_not_make_positive(dtype: str, pre: int, bias: int) -> None:
    """Large pre-shifts raise by 2^30 only: sums below -2^30 must not be taken for the lowest level."""
    graph = Graph()
    random = np.random.default_rng(pre)
    weight = filled(random, (8, 64), "int8", "random")
    x = graph.operand(operand(pre, 64, "random"))
    sums = graph.call("linear", x, weight, np.full(8, bias, np.int32))
    shift = {"int8": 22, "int16": 14, "int32": 9}[dtype]
    graph.check(graph.call("requantize", sums, row(20000), row(pre), shift, 0, dtype))
    if dtype == "int16":
        graph = Graph()
        sums = graph.call("linear", graph.operand(operand(pre, 64, "random")), weight, np.full(8, bias, np.int32))
        residual = graph.operand(filled(random, (2, 3, 8), "int16", "random"))
        graph.check(graph.call("add", residual, row(8000), row(0), sums, row(16000), row(pre), 13))
