"""`rearrange` in ONNX Runtime equals the reference."""

from typing import Any

import moved
import numpy as np
import pytest
import tiny
from graphs import SEEDS, Graph, filled, session
from hypothesis import given, settings
from hypothesis import strategies as st

import intvit

QUICK = settings(max_examples=25, deadline=None)


@QUICK
@given(st.data(), SEEDS, st.sampled_from(["int8", "int16", "int32"]), st.integers(1, 3), st.booleans())
def test_rearrange(data: st.DataObject, seed: int, dtype: str, chunk: int, keep: bool) -> None:
    random = np.random.default_rng(seed)
    graph, count = Graph(), 0
    tensors: list[Any] = []
    for i in range(data.draw(st.integers(1, 3))):
        tokens, blocks = (int(n) for n in random.integers(1, 4, 2))
        constant = i > 0 and data.draw(st.booleans())
        x = filled(random, (tokens, blocks * chunk) if constant else (2, tokens, blocks * chunk), dtype, "random")
        tensors.append(x if constant else graph.operand(x))
        count += tokens * blocks
    index = random.integers(0, count, (int(random.integers(1, 5)), int(random.integers(1, 4)))).astype(np.int32)
    graph.check(graph.call("rearrange", tensors, index, chunk), keep_functions=keep)


@pytest.mark.parametrize("keep", [False, True])
def test_behind_and_before_other_operations(keep: bool) -> None:
    """The form in which sums of products and integers for a GELU are kept is not that of all."""
    random, graph = np.random.default_rng(0), Graph()
    x = graph.operand(filled(random, (2, 4, 6), "int8", "random"))
    weight, bias = filled(random, (8, 6), "int8", "random"), random.integers(-999, 999, 8).astype(np.int32)
    pairs = np.array([[1, 0], [3, 2]], np.int32)
    sums = graph.call("rearrange", [graph.call("linear", x, weight, bias)], pairs, 8)
    one, shift = np.array([20000], np.int32), np.array([2], np.int32)
    middle = graph.call("requantize", sums, one, shift, 14, 0, "int16")
    table = filled(random, (1, 16), "int16", "random")
    longer = graph.call("rearrange", [table, middle, middle], np.array([[0], [2], [1], [4]], np.int32), 16)
    same = graph.call("rearrange", [longer], np.arange(4, dtype=np.int32)[:, None], 16)
    result = graph.call("gelu", same, 11, one, shift, 12, -3)
    graph.check(result, same, keep_functions=keep)


@pytest.mark.parametrize("choices", [{}, {"keep_functions": True}, {"portable": True, "batch": 2}], ids=str)
def test_a_whole_model(choices: dict[str, Any]) -> None:
    model, images = moved.integer_model(), tiny.pixels(2)
    (logits,) = session(intvit.export(model, **choices).proto).run(None, {"image": images})
    assert np.array_equal(logits, model.integers(images)[0])
