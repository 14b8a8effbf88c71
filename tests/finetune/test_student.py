"""The weights in training: a copy, on grids that follow them."""

import normalized
import numpy as np
import pytest
import tiny
import torch
import windowed

from intvit.finetune.student import Student, digest
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph
from intvit.verify.overflow import prove_no_overflow


@pytest.mark.parametrize("calibrated", [tiny.calibrated(), tiny.calibrated("paper"), windowed.calibrated()])
def test_at_first_it_is_the_model_that_was_calibrated(calibrated: CalibratedGraph) -> None:
    assert digest(Student(calibrated).lowered().graph) == digest(lower(calibrated))


def test_what_was_calibrated_stays_as_it_is() -> None:
    calibrated = tiny.calibrated()
    before = digest(lower(calibrated))
    student = Student(calibrated)
    with torch.no_grad():
        for parameter in student.parameters.values():
            parameter.mul_(1.5)
    assert digest(lower(calibrated)) == before
    assert digest(student.lowered().graph) != before


def test_every_float_constant_is_trained_and_only_weights_decay() -> None:
    student = Student(normalized.calibrated())
    assert all(parameter.is_floating_point() for parameter in student.parameters.values())
    tiny_student = Student(tiny.calibrated())
    assert len(tiny_student.parameters) == 40
    assert {tiny_student.parameters[name].ndim for name in tiny_student.weights()} == {2}
    assert len(tiny_student.weights()) == 14


def weights(student: Student) -> dict[str, torch.Tensor]:
    """The int8 weights of every linear layer, by its name in the integer graph."""
    module = student.lowered().graph.module
    return {
        node.name: module.get_buffer(arguments(node)[1].target)
        for node in module.graph.nodes
        if "linear" in node.name and node.op == "call_function"
    }


def test_the_largest_weight_of_a_row_is_127_however_it_changes() -> None:
    student = Student(tiny.calibrated())
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in student.parameters.values():
            parameter.mul_(1 + torch.rand_like(parameter))
    found = weights(student)
    assert len(found) == 14
    for name, integers in found.items():
        assert (integers.to(torch.int32).abs().amax(1) == 127).all(), name
    prove_no_overflow(student.lowered().graph)


def test_a_row_keeps_its_number_of_steps() -> None:
    calibrated = tiny.calibrated()
    node = next(n for n in calibrated.source.module.graph.nodes if n.name == "linear")
    rows = calibrated.grid(node, Role.ACCUMULATOR)
    coarse = type(rows)(rows.scale * (127 / 7), rows.offset, rows.dtype)
    student = Student(calibrated.with_grid(node, Role.ACCUMULATOR, coarse))
    with torch.no_grad():
        student.parameters[arguments(node)[1].target].mul_(3)
    first = next(iter(weights(student).values()))
    assert (first.to(torch.int32).abs().amax(1) == 7).all()


def test_a_row_of_zeros_keeps_a_grid() -> None:
    student = Student(tiny.calibrated())
    name = next(iter(sorted(student.weights())))
    with torch.no_grad():
        student.parameters[name][0] = 0
    graph = student.lowered().graph
    pixels = torch.from_numpy(tiny.pixels(2))
    assert np.isfinite(graph(pixels)[0].numpy()).all()
    prove_no_overflow(graph)
