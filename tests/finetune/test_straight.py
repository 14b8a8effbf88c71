"""Forward the integer graph, to the bit; backward the float graph, but for what is off its grid."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import biased
import coarse
import gated
import mixed
import normalized
import numpy as np
import pytest
import tiny
import torch
import windowed
from torch import Tensor, fx

from intvit.finetune.straight import StraightThrough, Value, rounded, straight
from intvit.finetune.student import Student
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.noise import results
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph

MODELS: dict[str, Callable[[], CalibratedGraph]] = {
    "tiny": tiny.calibrated,
    "paper": lambda: tiny.calibrated("paper"),
    "windowed": windowed.calibrated,
    "gated": gated.calibrated,
    "biased": biased.calibrated,
    "mixed": mixed.calibrated,
    "normalized": normalized.calibrated,
    "coarse": coarse.calibrated,
}
ONE, ZERO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@pytest.fixture(params=MODELS)
def calibrated(request: pytest.FixtureRequest) -> CalibratedGraph:
    """Between them they have every operation."""
    return MODELS[request.param]()


def images_for(calibrated: CalibratedGraph, count: int = 4) -> tuple[Tensor, Tensor]:
    """uint8 `[N, H, W, C]`, and normalized."""
    channels, *size = calibrated.input_grid.shape
    pixels = np.random.default_rng(5).integers(0, 256, (count, *size, channels), np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(calibrated.input_grid.normalized(pixels))


def test_forward_is_the_integer_graph_to_the_bit(calibrated: CalibratedGraph) -> None:
    pixels, images = images_for(calibrated)
    outputs = Student(calibrated).lowered()(pixels, images)
    graph = lower(calibrated)
    integers = graph(pixels)
    assert len(outputs) == len(integers)
    for output, q, scale in zip(outputs, integers, graph.output_scales, strict=True):
        assert output.requires_grad
        np.testing.assert_array_equal(output.detach().numpy(), (q.numpy() * scale).astype(np.float32))


def test_every_float_operation_has_its_integers(calibrated: CalibratedGraph) -> None:
    lowered = Student(calibrated).lowered()
    held = {entry.origin.name for name, entry in lowered.written.items()}
    operations = calibrated.source.module.graph.nodes
    assert [n.name for n in operations if n.op == "call_function" and n.name not in held] == []


def fine(calibrated: CalibratedGraph) -> CalibratedGraph:
    """On grids with steps of 2^-22, of weights too: so fine and wide that they change little that float32 shows."""
    steps = {key: 2.0**-44 if key[1] is Role.ACCUMULATOR else 2.0**-22 for key in calibrated.grids}
    return replace(calibrated, grids={key: Grid(ONE * step, ZERO, "int32") for key, step in steps.items()})


class Float(fx.Interpreter):
    """The float graph with a student's parameters, as autograd has it."""

    def __init__(self, student: Student) -> None:
        super().__init__(student.calibrated().source.module)
        self.parameters = student.parameters

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.parameters[target] if target in self.parameters else super().get_attr(target, args, kwargs)


def test_backward_is_the_float_graph_where_grids_are_fine(calibrated: CalibratedGraph) -> None:
    _, images = images_for(calibrated)
    student = Student(calibrated)
    exact = results(calibrated.source.module, images)
    values = {name: Value(value.clone(), Grid(ONE, ZERO, "int32")) for name, value in exact.items() if name != "output"}
    got = gradients(student, StraightThrough(fine(student.calibrated()), student.parameters, values).run(images))
    wanted = gradients(student, Float(student).run(images))
    assert sum(bool(gradient.any()) for gradient in wanted.values()) > len(wanted) / 2
    for name, gradient in wanted.items():
        tolerance = 1e-3 * float(gradient.abs().max()) + 1e-4
        torch.testing.assert_close(
            got[name], gradient, rtol=1e-3, atol=tolerance, msg=lambda m, name=name: f"{name} {m}"
        )


def gradients(student: Student, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Of a sum of all outputs, each with a sign of its own."""
    total = sum((x * torch.cos(torch.arange(x.numel()).reshape(x.shape))).sum() for x in outputs)
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(student.parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(student.parameters.items(), found, strict=True)
    }


def test_with_eight_bits_gradients_point_the_same_way() -> None:
    calibrated = tiny.calibrated()
    pixels, images = images_for(calibrated, 8)
    student = Student(calibrated)
    got = gradients(student, student.lowered()(pixels, images))
    wanted = gradients(student, Float(student).run(images))
    large = [name for name, gradient in wanted.items() if float(gradient.norm()) > 1e-3]
    assert len(large) > 30
    for name in large:
        cosine = torch.nn.functional.cosine_similarity(got[name].flatten(), wanted[name].flatten(), 0)
        assert float(cosine) > 0.99, name


def test_a_gradient_ends_where_a_value_saturates() -> None:
    grid = Grid(ONE / 64, ZERO, "int8")
    x = torch.tensor([-2.5, -2.0, -1.0, 0.3, 127 / 64, 1.99, 2.5], requires_grad=True)
    result = rounded(x, grid)
    np.testing.assert_array_equal(result.detach().numpy(), grid.dequantize(grid.quantize(x.detach())).numpy())
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_the_value_is_what_is_given() -> None:
    x, value = torch.tensor([1e30, -3.0, 5.0], requires_grad=True), torch.tensor([0.1, 0.2, 0.3])
    result = straight(x, value)
    assert torch.equal(result, value)
    result.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1]


def test_a_saturated_operand_gets_no_gradient() -> None:
    calibrated = tiny.calibrated()
    pixels, images = images_for(calibrated)
    student = Student(calibrated)
    bias = arguments(next(n for n in calibrated.source.module.graph.nodes if n.name == "linear"))[2].target
    with torch.no_grad():
        student.parameters[bias][3] += 1000.0
    gradient = gradients(student, student.lowered()(pixels, images))[bias]
    assert float(gradient[3]) == 0
    assert bool((gradient[:3] != 0).all())
