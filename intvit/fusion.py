"""What becomes one kernel: a node of the integer graph with the elementwise operations that are fused behind it.

A product takes in the requantization, GELU or residual addition that alone reads its sums, so that int32 sums never
leave the registers. What the stages are and which operands they have is the same for every back end (`Fusion`); how the
operands are laid out, and the kernels, are its own (`intvit.legalize`, `intvit.cuda.legalize`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, fx

from intvit.blocks import Blocks
from intvit.dialect import operation_of
from intvit.geometry import Geometry
from intvit.grid import LIMITS
from intvit.kernels.activation import Activation
from intvit.kernels.epilogue import Add, Bias, Per, Requantize, Stage
from intvit.kernels.gelu import Gelu
from intvit.kernels.levels import Levels
from intvit.kernels.multiply import Multiply
from intvit.nodes import arguments

SUMS = ("linear", "depthwise", "product", "softmax")
"""Operations whose kernels have an epilogue."""
BIASED = ("linear", "depthwise")
"""Those whose epilogue begins with a bias."""
ACTIVATIONS = ("gelu", "activation")
Constant = NDArray[np.generic]
Operands = list[fx.Node | Constant]
Kernel = TypeVar("Kernel")


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
        chains = {chain[-1]: chain for node in nodes if name_of(node) in SUMS and (chain := fused_behind(node))}
        chains.update({node: (pixels, node) for node in nodes if (pixels := pixels_of(node)) is not None})
        taken = {node for chain in chains.values() for node in chain}
        return [Group(chains.get(node, (node,))) for node in nodes if node in chains or node not in taken]

    def stages(self, group: Group, n: int) -> tuple[list[Stage], Operands, str]:
        """What a group with a product does with its sums: a bias first if there is one; operands, the result's type."""
        stages: list[Stage] = [Bias()] if name_of(group.nodes[0]) in BIASED else []
        operands: Operands = []
        dtype = self.dtype(group.nodes[0])
        for before, node in zip(group.nodes, group.nodes[1:], strict=False):
            stage, more, dtype = self.stage(node, before, n)
            if isinstance(stage, Gelu) and stage.halfway:
                stages[-1] = self._halfway(stages[-1], before)
            stages.append(stage)
            operands += more
        return stages, operands, dtype

    def stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        """An elementwise operation on the value `own` as a stage of an epilogue, its operands, and its type."""
        rules = {
            "requantize": self._requantize_stage,
            "gelu": self._gelu_stage,
            "activation": self._activation_stage,
            "multiply": self._multiply_stage,
            "add": self._add_stage,
            "levels": self._levels_stage,
        }
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

    def _halfway(self, stage: Stage, node: fx.Node) -> Stage:
        """A stage before a GELU that ends halfway; a requantization whose values may be doubled ends there, too."""
        if not isinstance(stage, Requantize) or stage.shift != 14 or stage.zero_point:
            return stage
        factors = self.array(node.args[1])
        return replace(stage, halfway=bool(((factors == 0) | (factors >= 1 << 14)).all()))

    def _activation_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        _, table, shift, dtype = arguments(node)
        return Activation(int(shift), *LIMITS[str(dtype)]), [self.array(table)], str(dtype)

    def _multiply_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        a, b, multiplier, pre_shift, shift, dtype = arguments(node)
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        arm = node_of(b if a is own else a)
        tokens = self.shapes[node.name][1]
        factor: fx.Node | Constant = arm
        per: Per = "row"
        if arm.op == "get_attr":
            constant = self.array(arm)
            factor, per, tokens = self.table(constant), "token", len(constant)
        elif self.shapes[arm.name][1] != tokens:
            per = "image"
        stage = Multiply(int(shift), *LIMITS[str(dtype)], pre, mul, per, 0 if per == "row" else tokens)
        return stage, [*operands, factor], str(dtype)

    def _levels_stage(self, node: fx.Node, own: fx.Node, n: int) -> tuple[Stage, Operands, str]:
        return Levels(), [self.array(node.args[1]).astype(np.int16)], "int8"

    def quotient(self, divide: fx.Node, n: int) -> tuple[int | None, Stage, Operands, str]:
        """The first shift of a `divide`, the rest of its requantization as a stage, the operands of both, its type."""
        _, _, multiplier, pre_shift, shift, dtype = arguments(divide)
        (pre, mul), operands = self.dyadic(pre_shift, multiplier, n)
        return pre, Requantize(int(shift), *LIMITS[str(dtype)], 0, mul), operands, str(dtype)

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

    def blocks(self, node: fx.Node) -> Blocks:
        """What a `rearrange` moves."""
        tensors, index, chunk = arguments(node)
        shapes = [self.array(x).shape if x.op == "get_attr" else self.shapes[x.name][1:] for x in tensors]
        return Blocks.of(shapes, self.array(index), chunk)

    def fill(self, node: Any, times: int = 1) -> Constant:
        """What lies outside of an image, int8 for each channel, `times` over."""
        return np.tile(self.array(node).astype(np.int8), times)

    def per_head(self, argument: Any, heads: int, dtype: str) -> Constant:
        """An argument of an attention with a value for each of its heads."""
        return np.broadcast_to(self.array(argument), (heads,)).astype(dtype)

    def averaging(self, pool: fx.Node) -> tuple[str, int, list[Constant]]:
        """Kind and shift of a `pool`, and for a mean the multiplier and the pre-shift of each token."""
        *_, kind, multiplier, pre_shift, shift, _ = arguments(pool)
        if kind == "max":
            return "max", 0, []
        fields, tokens = ((multiplier, "int16"), (pre_shift, "int8")), self.shapes[pool.name][1]
        return "mean", int(shift), [np.broadcast_to(self.array(x), (tokens,)).astype(dtype) for x, dtype in fields]

    def array(self, node: Any) -> Any:
        """The constant of a node, as numpy."""
        return self.module.get_buffer(str(node.target)).numpy()

    def dtype(self, node: fx.Node) -> str:
        """The integer type of a node's value."""
        value: Tensor = node.meta["val"]
        return str(value.dtype).removeprefix("torch.")


def fused_behind(sums: fx.Node) -> tuple[fx.Node, ...]:
    """Sums and what is fused into their kernel, each the only reader of the one before.

    A residual addition; or a requantization and, where that has 16 bits, an activation and a multiplication. Levels
    behind any but the addition, whose result has 16 bits.
    """
    reader = _only_reader(sums)
    if reader is None or name_of(reader) not in ("requantize", "add"):
        return (sums,)
    if name_of(reader) == "add":
        return (sums,) if _is_second(sums, reader) else (sums, reader)
    chain = [sums, reader]
    last = _only_reader(chain[-1])
    if last is not None and name_of(last) in ACTIVATIONS and _is_wide(chain[-1]):
        chain.append(last)
    last = _only_reader(chain[-1])
    if last is not None and name_of(last) == "multiply" and _is_wide(chain[-1]) and _takes(chain[-1], last):
        chain.append(last)
    last = _only_reader(chain[-1])
    if last is not None and name_of(last) == "levels":
        chain.append(last)
    return tuple(chain)


def pixels_of(unfold: fx.Node) -> fx.Node | None:
    """The pixels of the image, if an `unfold` alone reads them: its kernel takes them from the image."""
    source = unfold.args[0] if name_of(unfold) == "unfold" else None
    if not isinstance(source, fx.Node) or name_of(source) != "patchify" or _only_reader(source) is not unfold:
        return None
    return source if arguments(source)[1:] == (1, 1) else None


def _is_second(sums: fx.Node, add: fx.Node) -> bool:
    """Whether the first arm of an addition is a sum too, which then takes the addition in."""
    first = node_of(add.args[0])
    return first is not sums and name_of(first) in SUMS and _only_reader(first) is add


def _takes(own: fx.Node, multiply: fx.Node) -> bool:
    """Whether a kernel that ends in `own` takes the multiplication in: it has its shape, and no first factor does."""
    a, b = (node_of(factor) for factor in multiply.args[:2])
    if a is b or own.meta["val"].shape != multiply.meta["val"].shape:
        return False
    return own is a or not (_only_reader(a) is multiply and _is_behind_sums(a))


def _is_behind_sums(node: fx.Node) -> bool:
    """Whether a tensor of 16 bits is the end of a kernel of sums."""
    if not _is_wide(node):
        return False
    source = node_of(node.args[0])
    if _only_reader(source) is not node:
        return False
    return name_of(source) in SUMS if name_of(node) == "requantize" else _is_behind_sums(source)


def _is_wide(node: fx.Node) -> bool:
    """Whether a requantization or an activation has 16 bits."""
    place = {"requantize": 5, "activation": 3}.get(name_of(node))
    return place is not None and node.args[place] == "int16"


def _only_reader(node: fx.Node) -> fx.Node | None:
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    return reader if reader is not None and reader.op == "call_function" else None


def geometry_of(node: fx.Node) -> Geometry:
    """The windows of an `unfold`, `depthwise` or `pool`."""
    first = {"unfold": 2, "depthwise": 4, "pool": 1}[name_of(node)]
    return Geometry.of(*arguments(node)[first : first + (4 if name_of(node) == "pool" else 5)])


def name_of(node: fx.Node) -> str:
    """The operation of a node, "" for what is none."""
    operation = operation_of(node.target) if node.op == "call_function" else None
    return "" if operation is None else operation.name


def node_of(argument: Any) -> fx.Node:
    """An argument that is a node."""
    assert isinstance(argument, fx.Node)
    return argument


def kernel(build: Callable[..., Kernel], *sizes: Any, **more: Any) -> Kernel:
    """What `build` makes; equal kernels are one: blocks share them, and compile once."""
    made: Kernel = _built(build, *sizes, **more)
    return made


@cache
def _built(build: Callable[..., Any], *sizes: Any, **more: Any) -> Any:
    return build(*sizes, **more)
