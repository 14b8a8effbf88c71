"""A model as a list of kernels over tensors, with the memory of those tensors: what is compiled, for any target.

Steps that do not need each other's results make a phase: its tasks run at once, and threads wait for one another only
between phases. A DeiT block has seven: LayerNorm; queries, keys and values; attention; its projection; LayerNorm; the
two layers of the perceptron.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import fx

from intvit import memory
from intvit.fusion import Constant, Group
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import Isa
from intvit.legalize import Cuts, Legalizer, Tunable
from intvit.nodes import outputs
from intvit.verify.overflow import shapes_of

if TYPE_CHECKING:
    from tvm import tirx


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor `[batch * tokens, columns]` that a step writes."""

    tokens: int
    columns: int
    dtype: str

    @property
    def bytes(self) -> int:
        """At batch 1."""
        return self.tokens * self.columns * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False)
class Image:
    """The input: uint8 `[batch, height, width, channels]`."""

    shape: tuple[int, int, int]


Argument = Value | Image | Constant


class Call(Protocol):
    """A kernel of a back end and what it is given; `columns` and `dtype` are the result's, padding included."""

    @property
    def function(self) -> "tirx.PrimFunc": ...

    @property
    def arguments(self) -> tuple[fx.Node | Constant, ...]: ...

    @property
    def columns(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    @property
    def multiply_adds(self) -> int: ...

    @property
    def tunable(self) -> Tunable | None: ...


@dataclass(frozen=True, eq=False)
class Step:
    """A kernel with its operands; `path` is the float model's operation, `multiply_adds` those of one image."""

    kernel: Call
    arguments: tuple[Argument, ...]
    result: Value
    path: str

    @property
    def name(self) -> str:
        return str(self.kernel.function.attrs["global_symbol"])


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order; `outputs` are the values that are handed out."""

    image: Image
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]

    @cached_property
    def phases(self) -> tuple[int, ...]:
        """The phase of each step: a new one begins where a step reads what its phase writes."""
        phase, written, found = 0, set[Value](), []
        for step in self.steps:
            if any(a in written for a in step.arguments if isinstance(a, Value)):
                phase, written = phase + 1, set()
            written.add(step.result)
            found.append(phase)
        return tuple(found)

    @cached_property
    def offsets(self) -> dict[Value, int]:
        """Where each intermediate value lies in the workspace, at batch 1."""
        return dict(zip(self._inner, self._plan.offsets, strict=True))

    @property
    def workspace(self) -> int:
        """Bytes of all intermediate values at batch 1."""
        return self._plan.size

    @property
    def _inner(self) -> list[Value]:
        return [step.result for step in self.steps if step.result not in self.outputs]

    @cached_property
    def _plan(self) -> memory.Plan:
        last: dict[Value, int] = {}
        for step, phase in zip(self.steps, self.phases, strict=True):
            last.update(dict.fromkeys((a for a in (*step.arguments, step.result) if isinstance(a, Value)), phase))
        first = {step.result: phase for step, phase in zip(self.steps, self.phases, strict=True)}
        return memory.plan([memory.Lifetime(v.bytes, first[v], last[v]) for v in self._inner])


class Rules(Protocol):
    """Which kernel each group of a graph becomes: a `Fusion` with `call`."""

    def groups(self) -> list[Group]: ...

    def call(self, group: Group) -> Call: ...


def program_of(model: IntegerModel, isa: Isa, cuts: Cuts = MappingProxyType({})) -> Program:
    """The kernels of a model on one instruction set, cut into tasks as `cuts` say, else by their rules."""
    return assembled(model, lambda module, shapes: Legalizer(module, shapes, isa, cuts))


def assembled(model: IntegerModel, rules: Callable[[fx.GraphModule, dict[str, tuple[int, ...]]], Rules]) -> Program:
    """The kernels of a model, by the rules for its graph and the shapes in it at batch 1."""
    graph = model.graph.module.graph
    shapes = shapes_of(model.graph)
    legalizer = rules(model.graph.module, shapes)
    channels, height, width = model.metadata.input_grid.shape
    image = Image((height, width, channels))
    values: dict[fx.Node, Value | Image] = {graph.find_nodes(op="placeholder")[0]: image}
    steps = []
    for group in legalizer.groups():
        call = legalizer.call(group)
        result = Value(shapes[group.result.name][1], call.columns, call.dtype)
        arguments = tuple(values[a] if isinstance(a, fx.Node) else a for a in call.arguments)
        steps.append(Step(call, arguments, result, str(group.nodes[0].meta.get("path", ""))))
        values[group.result] = result
    handed_out = [values[node] for node in outputs(graph)]
    return Program(image, tuple(steps), tuple(v for v in handed_out if isinstance(v, Value)))
