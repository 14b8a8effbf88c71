"""What becomes one kernel: a node of the integer graph with the elementwise operations that are fused behind it.

A product takes in the requantization, GELU or residual addition that alone reads its sums, so that int32 sums never
leave the registers. What the stages are and which operands they have is the same for every back end (`Fusion`); how the
operands are laid out, and the kernels, are its own (`intvit.legalize`, `intvit.cuda.legalize`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, fx

from intvit.dialect import operation_of
from intvit.grid import LIMITS
from intvit.kernels.epilogue import Add, Bias, Requantize, Stage
from intvit.kernels.gelu import Gelu
from intvit.nodes import arguments

Constant = NDArray[np.generic]
Operands = list[fx.Node | Constant]


@dataclass(frozen=True)
class Group:
    """Nodes that become one kernel, in order; the last one's value is the kernel's result."""

    nodes: tuple[fx.Node, ...]

    @property
    def result(self) -> fx.Node:
        return self.nodes[-1]


class Fusion(ABC):
    """Groups of the nodes of one graph, `shapes` at batch 1, and the stages of their epilogues."""

    def __init__(self, module: fx.GraphModule, shapes: dict[str, tuple[int, ...]]) -> None:
        self.module, self.shapes = module, shapes

    @abstractmethod
    def channels(self, values: ArrayLike, n: int, dtype: str) -> Constant:
        """A value for each of `n` columns as the kernels read them."""

    def table(self, constant: Constant) -> Constant:
        """Rows of constants, one for each token, as the kernels read them."""
        return constant

    def groups(self) -> list[Group]:
        """The graph cut into kernels, each at the place of its last node."""
        nodes = [node for node in self.module.graph.nodes if node.op == "call_function"]
        chains = {chain[-1]: chain for node in nodes if name_of(node) == "linear" and (chain := fused_behind(node))}
        taken = {node for chain in chains.values() for node in chain}
        return [Group(chains.get(node, (node,))) for node in nodes if node in chains or node not in taken]

    def stages(self, group: Group, n: int) -> tuple[list[Stage], Operands, str]:
        """What a group with a product does with its sums: stages after the bias, their operands, the result's type."""
        stages: list[Stage] = [Bias()]
        operands: Operands = []
        dtype = "int32"
        for before, node in zip(group.nodes, group.nodes[1:], strict=False):
            stage, more, dtype = self.stage(node, before, n)
            stages.append(stage)
            operands += more
        return stages, operands, dtype

    def stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        """An elementwise operation on the value `own` as a stage of an epilogue, its operands, and its type."""
        rules = {"requantize": self._requantize_stage, "gelu": self._gelu_stage, "add": self._add_stage}
        return rules[name_of(node)](node, own, n)

    def _requantize_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        _, multiplier, pre_shift, shift, zero_point, dtype = arguments(node)
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        low, high = LIMITS[str(dtype)]
        stage = Requantize(int(shift), low, high, pre, mul, int(zero_point))
        return stage, operands, str(dtype)

    def _gelu_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        _, fraction, multiplier, pre_shift, shift, zero_point = arguments(node)
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        stage = Gelu(int(fraction), int(shift), int(zero_point), pre, mul)
        if mul is not None:
            operands.append(self.channels(mul, n, "int16"))
        return stage.shared, [*operands, self.channels(zero_point, n, "int16")], "int8"

    def _add_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        *dyadics, shift = arguments(node)
        first, second = dyadics[:3], dyadics[3:]
        mine, other = (first, second) if first[0] is own else (second, first)
        (pre, mul), operands = self.dyadic(mine[2], mine[1], n)
        (arm_pre, arm_mul), more = self.dyadic(other[2], other[1], n, shared=True)
        arm = node_of(other[0])
        if arm.op != "get_attr":
            stage = Add(int(shift), pre, mul, arm_pre, arm_mul, self.dtype(arm))
            return stage, [*operands, *more, arm], "int16"
        constant = self.array(arm)
        stage = Add(int(shift), pre, mul, arm_pre, arm_mul, "int16", constant.shape[0])
        return stage, [*operands, *more, self.table(constant)], "int16"

    def dyadic(
        self, pre_shift: Any, multiplier: Any, n: int, shared: bool = False
    ) -> tuple[tuple[int | None, int | None], list[Any]]:
        """A dyadic number: one for all channels is a constant of the code, else an operand per column.

        With `shared` the multiplier is always an operand, so that layers which differ in it share a kernel.
        """
        fields: list[int | None] = []
        operands: list[Any] = []
        for argument, dtype in ((pre_shift, "int8"), (multiplier, "int16")):
            values = self.array(argument)
            if (values == values.flat[0]).all() and not (shared and dtype == "int16"):
                fields.append(int(values.flat[0]))
            else:
                fields.append(None)
                operands.append(self.channels(values, n, dtype))
        return (fields[0], fields[1]), operands

    def array(self, node: Any) -> Any:
        """The constant of a node, as numpy."""
        return self.module.get_buffer(str(node.target)).numpy()

    def dtype(self, node: fx.Node) -> str:
        """The integer type of a node's value."""
        value: Tensor = node.meta["val"]
        return str(value.dtype).removeprefix("torch.")


def fused_behind(linear: fx.Node) -> tuple[fx.Node, ...]:
    """A linear and what is fused into it: its only reader, if elementwise, and the GELU that alone reads that."""
    chain = [linear]
    reader = _only_reader(linear)
    if reader is not None and name_of(reader) in ("requantize", "add"):
        chain.append(reader)
        last = _only_reader(reader)
        if (
            name_of(reader) == "requantize"
            and reader.args[5] == "int16"
            and last is not None
            and name_of(last) == "gelu"
        ):
            chain.append(last)
    if name_of(chain[-1]) == "add" and _is_second_linear(linear, chain[-1]):
        chain.pop()
    return tuple(chain)


def _is_second_linear(linear: fx.Node, add: fx.Node) -> bool:
    """Whether the first arm of an addition is a linear too, which then takes the addition in."""
    return (
        add.args[0] is not linear
        and name_of(node_of(add.args[0])) == "linear"
        and _only_reader(node_of(add.args[0])) is add
    )


def _only_reader(node: fx.Node) -> fx.Node | None:
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    return reader if reader is not None and reader.op == "call_function" else None


def name_of(node: fx.Node) -> str:
    """The operation of a node, "" for what is none."""
    operation = operation_of(node.target) if node.op == "call_function" else None
    return "" if operation is None else operation.name


def node_of(argument: Any) -> fx.Node:
    """An argument that is a node."""
    assert isinstance(argument, fx.Node)
    return argument
