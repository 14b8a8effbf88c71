"""Activations of the profile `qdq`: which function a table is, and its float form beside the integers."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from intvit.dialect.activation import activation
from intvit.grid import Grid
from intvit.passes.lower_activation import SHIFTS, table_of
from intvit.pointwise import Function, evaluate

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from intvit.to_onnx.qdq.elementwise import interpolated  # noqa: E402
from intvit.to_onnx.qdq.recognized import recognized  # noqa: E402
from intvit.to_onnx.scope import Scope  # noqa: E402

SHAPE = (64, 1024)
EVERY = np.arange(-(1 << 15), 1 << 15).astype(np.int16).reshape(1, *SHAPE)
NAMED: dict[str, tuple[Function, set[str]]] = {
    "silu": ((("sigmoid", "x"), ("mul", "x", "0")), {"SiLU"}),
    "quick gelu": ((("mul", "x", 1.702), ("sigmoid", "0"), ("mul", "x", "1")), {"SiLU"}),
    "relu": ((("relu", "x"),), {"LeakyRelu"}),
    "leaky relu": ((("leaky_relu", "x", 0.1),), {"LeakyRelu"}),
    "relu6": ((("relu6", "x"),), {"Clip", "LeakyRelu"}),
    "hard sigmoid": ((("hardsigmoid", "x"),), {"Clip", "LeakyRelu"}),
    "hard tanh": ((("hardtanh", "x"),), {"Clip", "LeakyRelu"}),
    "hard swish": ((("hardswish", "x"),), {"HardSwish"}),
    "sigmoid": ((("sigmoid", "x"),), {"Sigmoid"}),
    "tanh": ((("tanh", "x"),), {"Sigmoid"}),
}
OTHERS: dict[str, Function] = {
    "softplus": (("softplus", "x"),),
    "mish": (("mish", "x"),),
    "elu": (("elu", "x"),),
    "gelu": (("gelu", "x"),),
    "square": (("square", "x"),),
    "minus": (("neg", "x"),),
    "constant": (("mul", "x", 0.0), ("add", "0", 3.0)),
    "bump": (("square", "x"), ("neg", "0"), ("exp", "1")),
}


def table(function: Function, bound: float, dtype: str, reach: float = 1.0) -> NDArray[np.int16]:
    """Of operands within `bound`, in steps of results seen for those within `reach` of it."""
    grid = Grid.symmetric(torch.tensor([bound]), "int16")
    places = torch.linspace(-bound, bound, 1001, dtype=torch.float64) * reach
    seen = evaluate(function, places)
    ends = (seen.min().reshape(1), seen.max().reshape(1))
    out = Grid.affine(*ends, dtype) if dtype == "int8" else Grid.symmetric(seen.abs().max().reshape(1), dtype)
    found: NDArray[np.int16] = table_of(function, grid, out).numpy()
    return found


def run(scope: Scope, y: str, x: NDArray[np.float32]) -> Any:
    info = onnx.helper.make_tensor_value_info
    element = onnx.TensorProto.FLOAT
    model = scope.model([info("x", element, ["b", *SHAPE])], [info(y, element, ["b", *SHAPE])], "test")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def integers(knots: NDArray[np.int16], dtype: str) -> Any:
    return activation(torch.from_numpy(EVERY), torch.from_numpy(knots), SHIFTS[dtype], dtype).numpy()


@pytest.mark.parametrize("reach", [1.0, 0.6])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("bound", [0.7, 3.0, 8.0, 40.0])
@pytest.mark.parametrize("name", NAMED)
def test_a_named_function_is_recognized(name: str, bound: float, dtype: str, reach: float) -> None:
    """Its float form is as near to the integers as lines between knots are to it: to a hundredth of the range."""
    function, kinds = NAMED[name]
    knots = table(function, bound, dtype, reach)
    found = recognized(knots, SHIFTS[dtype])
    assert found is not None and found.kind in kinds
    scope = Scope.graph(21)
    y = run(scope, found.write(scope, "x"), (EVERY * found.operand).astype(np.float32)) / found.scale
    wanted = integers(knots, dtype).astype(np.float64)
    rounding = 0.51 if dtype == "int8" else 1.6
    line = {0.7: 0.006, 3.0: 0.006, 8.0: 0.01, 40.0: 0.06}[bound] * np.ptp(wanted)
    low, high = (-128, 127) if dtype == "int8" else (-(1 << 15), (1 << 15) - 1)
    assert np.abs(y.clip(low, high) - wanted).max() <= rounding + line


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("bound", [0.7, 8.0])
@pytest.mark.parametrize("name", OTHERS)
def test_another_is_looked_up(name: str, bound: float, dtype: str) -> None:
    """To half a step of its integers, which are rounded."""
    knots = table(OTHERS[name], bound, dtype)
    if recognized(knots, SHIFTS[dtype]) is not None:
        pytest.skip("in this range it is another function too")
    scope = Scope.graph(21)
    y = interpolated(scope, "x", knots, SHIFTS[dtype], dtype, 0.25, SHAPE)
    found = run(scope, y, EVERY.astype(np.float32)) / 0.25
    assert np.abs(found - integers(knots, dtype)).max() <= 0.501


def test_the_look_up_takes_what_lies_beyond_16_bits() -> None:
    knots = table(OTHERS["mish"], 8.0, "int8")
    scope = Scope.graph(21)
    y = interpolated(scope, "x", knots, 15, "int8", 1.0, SHAPE)
    found = run(scope, y, (EVERY * 3.0).astype(np.float32))
    ends = integers(knots, "int8").ravel()[[0, -1]]
    assert np.abs(found.ravel()[[0, -1]] - ends).max() <= 0.501


def test_a_random_table_is_not_recognized() -> None:
    random = np.random.default_rng(0)
    assert recognized(random.integers(-(1 << 15), 1 << 15, 257).astype(np.int16), 15) is None
    assert recognized(np.full(257, 9, np.int16), 15) is None
    assert recognized(np.where(np.arange(257) < 128, -(1 << 15), (1 << 15) - 1).astype(np.int16), 8) is None
