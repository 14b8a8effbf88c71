"""The overflow proof: the interval of every intermediate of every operation, from the real weights.

Each operation of the dialect has its interval rule beside its reference (`Operation.ranges`); this file only walks the
graph. Intervals are Python integers, so the proof itself cannot overflow.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from intvit.dialect import operation_of
from intvit.errors import VerifyError
from intvit.ranges import Operand, Ranges
from intvit.stages import IntGraph


@dataclass(frozen=True)
class Proved:
    """The ranges of one node, and how many of its 31 magnitude bits they use."""

    node: str
    path: str
    operation: str
    ranges: Ranges

    @property
    def largest(self) -> int:
        return max((r.magnitude for r in self.ranges.intermediates.values()), default=self.ranges.result.magnitude)


def prove_no_overflow(graph: IntGraph) -> tuple[Proved, ...]:
    """The ranges of every node, in order. Raises `VerifyError` with every layer and bound that does not fit."""
    proved = analyse(graph)
    faults = [
        f"{entry.path or entry.node}: {entry.operation}: {name} can reach [{found.low}, {found.high}], "
        f"beyond {entry.ranges.bits}-bit integers"
        for entry in proved
        for name, found in entry.ranges.overflowing().items()
    ]
    if faults:
        raise VerifyError(f"{len(faults)} intermediates can overflow:\n  " + "\n  ".join(faults))
    return proved


def analyse(graph: IntGraph) -> tuple[Proved, ...]:
    """The ranges of every node for every possible image, fitting or not; refuses parameters that break a rule."""
    shapes = shapes_of(graph)
    known: dict[fx.Node, Operand] = {}
    proved = []
    for node in graph.module.graph.nodes:
        if node.op == "placeholder":
            known[node] = Operand(0, 255, shapes[node.name])
        operation = operation_of(node.target) if node.op == "call_function" else None
        if operation is not None:
            try:
                ranges = operation.ranges(*(_argument(graph.module, known, a) for a in node.args))
            except TypeError as error:
                raise VerifyError(f"{node.meta.get('path') or node.name}: {operation.name}: {error}") from error
            known[node] = Operand(ranges.result.low, ranges.result.high, shapes[node.name])
            proved.append(Proved(node.name, node.meta.get("path", ""), operation.name, ranges))
    return tuple(proved)


def _argument(module: fx.GraphModule, known: dict[fx.Node, Operand], argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return [_argument(module, known, a) for a in argument]
    if not isinstance(argument, fx.Node):
        return argument
    return module.get_buffer(str(argument.target)) if argument.op == "get_attr" else known[argument]


def shapes_of(graph: IntGraph) -> dict[str, tuple[int, ...]]:
    """Shape of every node at batch 1. Raises `VerifyError` where an operation's check refuses its arguments."""
    return {name: tuple(value.shape) for name, value in fake_values(graph).items()}


class _Checks(FakeTensorProp):
    """Runs the checks of all operations; a rule that is broken is reported with its layer."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except (TypeError, RuntimeError) as error:
            place, reason = n.meta.get("path") or n.name, str(error).splitlines()[0]
            raise VerifyError(f"{place}: breaks a rule of the integer dialect: {reason}") from error


def fake_values(graph: IntGraph, batch: int = 1) -> dict[str, torch.Tensor]:
    """Shape and dtype of every node, by the operations' own checks."""
    channels, height, width = graph.input_grid.shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        image = torch.empty(batch, height, width, channels, dtype=torch.uint8)
    checks = _Checks(graph.module, mode)
    checks.extra_traceback = False
    checks.propagate_dont_convert_inputs(image)
    return {n.name: n.meta["val"] for n in graph.module.graph.nodes if "val" in n.meta and n.op != "output"}
