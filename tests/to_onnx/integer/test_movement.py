"""`patchify`, `concat_tokens` and `select_tokens` in ONNX Runtime equal the reference."""

import numpy as np
import pytest
from graphs import SEEDS, Graph, filled
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=25, deadline=None)
SIZES = st.integers(1, 4)


@QUICK
@given(SEEDS, SIZES, SIZES, SIZES, SIZES, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_patchify(seed: int, rows: int, columns: int, h: int, w: int, channels: int, batch: int, keep: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (batch, rows * h, columns * w, channels)).astype(np.uint8)
    graph = Graph()
    graph.check(graph.call("patchify", graph.operand(image), h, w), keep_functions=keep)


@QUICK
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_concat_tokens(seed: int, constants: int, tokens: int, n: int, batch: int, keep: bool) -> None:
    random = np.random.default_rng(seed)
    table, x = filled(random, (constants, n), "int16", "random"), filled(random, (batch, tokens, n), "int16", "random")
    graph = Graph()
    graph.check(graph.call("concat_tokens", table, graph.operand(x)), keep_functions=keep)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (4, 5), (1, 4), (0, 5)])
@pytest.mark.parametrize("keep", [False, True])
def test_select_tokens(dtype: str, start: int, stop: int, keep: bool) -> None:
    x = filled(np.random.default_rng(0), (2, 5, 3), dtype, "random")
    graph = Graph()
    graph.check(graph.call("select_tokens", graph.operand(x), start, stop), keep_functions=keep)
