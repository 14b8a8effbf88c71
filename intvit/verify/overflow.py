"""The overflow proof: the interval of every intermediate of every operation, from the real weights.

Each operation of the dialect has its interval rule beside its reference (`Operation.ranges`); this file only walks the
graph. Intervals are Python integers, so the proof itself cannot overflow.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

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


class _Checks(fx.Interpreter):
    """Runs the checks of all operations in the place of the operations, on tensors without values; fills `found`.

    `torch.library` would do the same through its dispatcher, which takes fifty times as long.
    """

    def __init__(self, module: fx.GraphModule, found: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._found = found

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except (TypeError, RuntimeError) as error:
            place, reason = n.meta.get("path") or n.name, str(error).splitlines()[0]
            raise VerifyError(f"{place}: breaks a rule of the integer dialect: {reason}") from error
        if isinstance(result, Tensor):
            self._found[n.name] = n.meta["val"] = result
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = operation_of(target)
        if operation is None:
            raise TypeError(f"{getattr(target, '__name__', target)} is not an operation of it")
        operation.require_kinds(*args, **kwargs)
        return operation.check(*args, **kwargs)


def fake_values(graph: IntGraph, batch: int = 1) -> dict[str, Tensor]:
    """Shape and dtype of every node, by the operations' own checks; each node keeps its own as `meta["val"]`."""
    channels, height, width = graph.input_grid.shape
    image = torch.empty(batch, height, width, channels, dtype=torch.uint8, device="meta")
    found: dict[str, Tensor] = {}
    _Checks(graph.module, found).run(image)
    return found
