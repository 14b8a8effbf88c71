"""`product` in ONNX Runtime equals the reference."""

import numpy as np
from graphs import PATTERNS, SEEDS, Graph, filled, row
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=20, deadline=None)
@given(
    SEEDS,
    *[st.sampled_from((1, 2, 3, 7))] * 3,
    st.sampled_from((1, 2, 49, 300)),
    st.sampled_from(PATTERNS),
    st.fixed_dictionaries({"portable": st.booleans(), "keep_functions": st.booleans()}),
)
def test_product(seed: int, groups: int, m: int, n: int, k: int, pattern: str, choices: dict[str, bool]) -> None:
    random = np.random.default_rng(seed)
    graph = Graph()
    a, b = (graph.operand(filled(random, (2, groups * rows, k), "int8", pattern)) for rows in (m, n))
    graph.check(graph.call("product", a, b, groups), **choices)


def test_its_sums_are_requantized_added_and_weighed() -> None:
    random = np.random.default_rng(0)
    graph = Graph()
    a, b = (graph.operand(filled(random, (3, rows, 40), "int8", "random")) for rows in (6, 8))
    sums = graph.call("product", a, b, 2)
    narrow = graph.call("requantize", sums, row(20_000), row(3), 14, 3, "int8")
    weights = graph.call("softmax", sums, row(20_000), row(5), 14, 15)
    total = graph.call("add", sums, row(9000), row(4), weights, row(500), row(0), 12)
    graph.check(narrow, total, weights)


def test_a_tensor_by_itself() -> None:
    graph = Graph()
    x = graph.operand(filled(np.random.default_rng(1), (2, 12, 5), "int8", "random"))
    graph.check(graph.call("product", x, x, 3))
