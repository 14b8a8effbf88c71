"""Which nodes move what `rearrange` moves: the cheapest ones, and on any table the right ones."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.blocks import Blocks
from intvit.to_onnx.rearrange import Plan
from intvit.to_onnx.scope import Scope

onnxruntime = pytest.importorskip("onnxruntime")

BATCH = 2
Shapes = list[tuple[int, int, bool]]


def moved(shapes: Shapes, index: np.ndarray, chunk: int, batch: int | None = None) -> tuple[np.ndarray, list[str]]:
    """What ONNX Runtime makes of tensors that count their own elements, and the kinds of nodes."""
    images = batch or BATCH
    count, xs = 0, []
    for tokens, channels, constant in shapes:
        x = np.arange(count, count + tokens * channels, dtype=np.int32).reshape(tokens, channels)
        count += x.size
        xs.append(x if constant else np.stack([x + 100000 * i for i in range(images)]))
    scope = Scope.graph(21, batch)
    values = [x if constant else None for x, (*_, constant) in zip(xs, shapes, strict=True)]
    plan = Plan.of(Blocks.of([x.shape[-2:] for x in xs], index, chunk), values)
    names = {f"x{i}": xs[i] for i in plan.computed}
    constants = [scope.constant(x, "int32", "constant") for x in plan.constants]
    y = scope.op("Identity", plan.write(scope, list(names), constants), label="y")
    int32, make = onnx.TensorProto.INT32, onnx.helper.make_tensor_value_info
    inputs = [make(name, int32, [batch, *x.shape[1:]]) for name, x in names.items()]
    proto = scope.model(inputs, [make(y, int32, [batch, len(index), index.shape[1] * chunk])], "test")
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = np.concatenate([np.broadcast_to(x, (images, *x.shape[-2:])).reshape(images, -1, chunk) for x in xs], 1)
    found = session.run(None, names)[0]
    np.testing.assert_array_equal(found, expected[:, index.ravel()].reshape(images, len(index), -1))
    return found, [node.op_type for node in proto.graph.node][:-1]


def grid(*sizes: int) -> np.ndarray:
    return np.arange(int(np.prod(sizes))).reshape(sizes)


ROWS = np.arange(12)[:, None]
MOVES = "Reshape Transpose Reshape"
CASES: dict[str, tuple[Shapes, np.ndarray, int, str]] = {
    "as it is": ([(12, 6, False)], grid(12, 3), 2, ""),
    "tokens in a row": ([(12, 6, False)], ROWS[3:7], 6, "Slice"),
    "channels in a row": ([(12, 6, False)], grid(12, 3)[:, 1:], 2, "Reshape Slice Reshape"),
    "other rows": ([(12, 6, False)], grid(6, 12), 1, "Reshape"),
    "windows": ([(16, 5, False)], grid(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 1), 5, MOVES),
    "merged patches": ([(16, 5, False)], grid(2, 2, 2, 2).transpose(0, 2, 3, 1).reshape(-1, 4), 5, MOVES),
    "transpose": ([(12, 6, False)], grid(12, 6).T, 1, "Transpose"),
    "every second token": ([(12, 6, False)], ROWS[1::2], 6, "Reshape Slice Reshape"),
    "every third channel": ([(12, 6, False)], grid(12, 6)[:, 2::3], 1, "Reshape Slice Reshape"),
    "every second, moved": (
        [(64, 6, False)],
        grid(8, 8)[::2, ::2].T.reshape(-1, 1),
        6,
        "Reshape Slice Transpose Reshape",
    ),
    "one token": ([(12, 6, False)], ROWS[4:5], 6, "Slice"),
    "shifted tokens": ([(12, 6, False)], np.roll(ROWS, 5, 0), 6, "Gather"),
    "repeated tokens": ([(12, 6, False)], ROWS.repeat(2, 0), 6, "Gather"),
    "backward": ([(12, 6, False)], ROWS[::-1], 6, "Gather"),
    "long rows, every second moved": ([(64, 40, False)], grid(8, 8)[::2, ::2].T.reshape(-1, 1), 40, "Gather"),
    "shuffled channels": ([(3, 6, False)], grid(3, 6)[:, [0, 5, 1, 4, 2, 3]], 1, "Gather"),
    "shuffled blocks": ([(3, 12, False)], grid(3, 6)[:, [0, 5, 1, 4, 2, 3]], 2, "Reshape Gather Reshape"),
    "shifted tokens, last channels": (
        [(12, 6, False)],
        grid(12, 3)[np.roll(ROWS[:, 0], 5), 1:],
        2,
        "Gather Reshape Slice Reshape",
    ),
    "blocks of other tokens": ([(4, 6, False)], np.array([[0, 3], [7, 1]]), 3, "Reshape Gather Reshape"),
    "class token": ([(1, 6, True), (12, 6, False)], np.arange(13)[:, None], 6, "Shape Concat Expand Concat"),
    "channels of both": (
        [(3, 2, False), (3, 4, False)],
        np.array([[t, 3 + 2 * t, 4 + 2 * t] for t in range(3)]),
        2,
        "Concat",
    ),
    "parts of both": (
        [(3, 4, False), (3, 4, False)],
        np.array([[1], [7], [9]]),
        2,
        "Reshape Slice Reshape Slice Reshape Concat",
    ),
    "interleaved": (
        [(3, 4, False), (3, 4, False)],
        np.array([[t, 3 + t] for t in (0, 1, 2)]).reshape(-1, 1),
        4,
        "Reshape Reshape Concat Reshape Transpose Reshape",
    ),
    "padded windows": (
        [(9, 4, False), (1, 4, True)],
        np.pad(grid(3, 3), (0, 1), constant_values=9).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 1),
        4,
        "Shape Concat Expand Reshape Reshape Concat Gather",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_nodes(name: str) -> None:
    shapes, index, chunk, expected = CASES[name]
    _, kinds = moved(shapes, index, chunk)
    assert " ".join(kinds) == expected


@pytest.mark.parametrize("name", ["class token", "padded windows"])
@pytest.mark.parametrize("batch", [1, 3])
def test_of_a_fixed_batch(name: str, batch: int) -> None:
    shapes, index, chunk, _ = CASES[name]
    _, kinds = moved(shapes, index, chunk, batch)
    assert "Shape" not in kinds


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_movement(data: st.DataObject, chunk: int, seed: int) -> None:
    """Counters over grids with parts left out, tokens and channels apart, and no order at all."""
    random = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(("grid", "apart", "any", "several")))
    if kind == "grid":
        sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
        order = data.draw(st.permutations(range(len(sizes))))
        parts = tuple(slice(int(random.integers(n)), None, data.draw(st.integers(1, 2))) for n in sizes)
        taken = grid(*sizes)[parts].transpose(order)
        moved([(int(np.prod(sizes[:-1])), sizes[-1] * chunk, False)], taken.reshape(taken.shape[0], -1), chunk)
    elif kind == "apart":
        rows, columns = (random.integers(0, 4, int(random.integers(1, 6))) for _ in range(2))
        moved([(4, 4 * chunk, False)], rows[:, None] * 4 + columns, chunk)
    else:
        shapes = [(int(t), int(k), False) for t, k in random.integers(1, 4, (1 if kind == "any" else 3, 2))]
        shapes = [(t, k * chunk, i == 1) for i, (t, k, _) in enumerate(shapes)]
        count = sum(t * c // chunk for t, c, _ in shapes)
        moved(shapes, random.integers(0, count, (int(random.integers(1, 6)), int(random.integers(1, 4)))), chunk)
