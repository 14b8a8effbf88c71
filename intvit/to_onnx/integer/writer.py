"""Writes the nodes of an integer graph: in which form a value is kept, and how its constants are stored.

`rules.py` says which nodes an operation becomes. Every constant that a rounding, a raise or a zero point needs is
worked out from the graph's own and folded into what is there anyway: the bias of a product takes in the raise of its
reader.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import fx

from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.nodes import outputs
from intvit.ranges import Range
from intvit.to_onnx.integer.dyadic import INT32_END, RAISE8, RAISE16, Array, Levels, Rounding
from intvit.to_onnx.integer.requantize import shifted_far
from intvit.to_onnx.scope import Scope

NARROWED = 64
"""From so many numbers on, storing fewer bytes of each is less than the node that widens them."""
LIMITS = {"int8": (-RAISE8, RAISE8 - 1), "int16": (-RAISE16, RAISE16 - 1), "int32": (-INT32_END, INT32_END - 1)}


class Writer:
    """Writes one graph into one scope.

    `values` tell the nodes' shapes at batch 1 and their types, `ranges` what proofs know of them; `portable` chooses
    uint8 second factors. `written` holds each value's name: 8-bit integers are uint8 raised by 128, 16-bit integers are
    int32 raised by 2^15, or by what `lowest` says, and 32-bit integers are themselves.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        values: Mapping[str, Any],
        scope: Scope,
        portable: bool = False,
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        self.module, self.scope, self.portable = module, scope, portable
        self.shapes = {name: tuple(value.shape) for name, value in values.items()}
        self.dtypes = {name: str(value.dtype).removeprefix("torch.") for name, value in values.items()}
        self.ranges = ranges or {}
        self.written: dict[fx.Node, str] = {}
        self.lowest: dict[fx.Node, int] = {}
        self.folded: dict[fx.Node, bool] = {}
        self._signed: dict[fx.Node, str] = {}
        self._widened: dict[tuple[str, str], str] = {}

    def write(self, image: str, rules: Mapping[str, Callable[["Writer", fx.Node], str]]) -> list[str]:
        """All nodes, from uint8 pixels `[B, H, W, C]`; returns the outputs, integers of their own types."""
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.written[node] = image
            elif node.op == "call_function" and node not in self.written:
                self.write_node(node, rules)
        with self.scope.at("outputs"):
            return [self.plain(node) for node in outputs(self.module.graph)]

    def write_node(self, node: fx.Node, rules: Mapping[str, Callable[["Writer", fx.Node], str]]) -> None:
        """One node, whose operands are written; raises `IntvitError` where there is no rule for it."""
        path = node.meta.get("path") or node.name
        if name_of(node) not in rules:
            raise IntvitError(f"{path}: {name_of(node)} has no form in ONNX yet: compile it with `intvit compile`")
        with self.scope.at(path):
            self.written[node] = rules[name_of(node)](self, node)

    def array(self, argument: Any) -> Array:
        """The values of a constant."""
        values: Array = self.module.get_buffer(str(argument.target)).numpy()
        return values

    # constants

    def constant(self, values: Array | int, label: str, dtype: str = "int32") -> str:
        """A row of numbers for the channels, or one where all are equal.

        Raises `IntvitError` for one that is too large.
        """
        array = np.atleast_1d(np.asarray(values))
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise IntvitError(f"{self.scope.path}: {label} leaves 32 bits: it cannot be exported to ONNX")
        return self.scope.constant(array[0] if (array == array[0]).all() else array, dtype, label)

    def narrow(self, values: Array, stored: str, label: str, dtype: str = "int32") -> str:
        """A row of numbers modulo 2^32, stored in fewer bytes where that pays and widened when the model is loaded."""
        values = np.atleast_1d(values)
        limits = np.iinfo(stored)
        fits = values.min() >= limits.min and values.max() <= limits.max
        if values.size < NARROWED or not fits or (values == values[0]).all():
            return self.constant(values % (1 << 32) if dtype == "uint32" else values, label, dtype)
        narrow = self.scope.constant(values, stored, label)
        if (narrow, dtype) not in self._widened:
            self._widened[narrow, dtype] = self.scope.cast(narrow, dtype)
        return self._widened[narrow, dtype]

    def divisor(self, rounding: Rounding) -> str:
        """`2^pre`."""
        return self.narrow(rounding.divisor, "uint16", "divisor")

    def multiplier(self, factors: Array, dtype: str = "int32") -> str:
        """The multipliers of a dyadic number."""
        return self.narrow(factors, "int16", "multiplier", dtype)

    def addend(self, addend: Array, *factors: Array) -> str:
        """An addend that takes back the raises of operands times `factors`; worked out when the model is loaded."""
        rows = [f for f in factors if f.size >= NARROWED]
        base = addend + RAISE16 * sum(rows)
        if not rows or (base != base.flat[0]).any():
            return self.constant(addend, "addend")
        total = self.constant(base, "base")
        for row in rows:
            total = self.scope.op("Sub", total, self.scope.op("Mul", self.multiplier(row), self.scope.int32(RAISE16)))
        return total

    def ends(self, levels: Levels) -> tuple[str, str]:
        """`unit` and `top` of levels."""
        return self.scope.int32(1 << levels.shift), self.scope.int32(levels.count - 1)

    # forms of a value

    def operand(self, node: fx.Node, pre: Array, folded: bool = False) -> tuple[str, str, Array]:
        """What `saturated` takes of a value that is shifted by `pre`, raised, and the divisor; what it is raised by.

        `folded`: the value is raised already.
        """
        rounding = Rounding(pre)
        if folded:
            return self.written[node], self.divisor(rounding), rounding.raised_by
        if rounding.holds(*self._range(node)):
            return self.raised(node, rounding.rise), self.divisor(rounding), rounding.raised_by
        shifted = self.shifted_far(self.raised(node, np.zeros(1, np.int64)), rounding)
        return shifted, self.scope.int32(1), np.array([RAISE16])

    def shifted_far(self, x: str, rounding: Rounding) -> str:
        """int32 that has no room to be raised, shifted, saturated and raised by 2^15."""
        amounts = self.constant(rounding.pre, "pre", "uint32")
        back = self.constant(INT32_END // rounding.divisor - RAISE16, "back")
        rise = self.constant(INT32_END + rounding.divisor // 2, "rise", "uint32")
        return self.scope.call("ShiftFar", shifted_far, x, rise, amounts, back)

    def _range(self, node: fx.Node) -> tuple[int, int]:
        found = self.ranges.get(node.name)
        return LIMITS[self.dtypes[node.name]] if found is None else (found.low, found.high)

    def raised(self, node: fx.Node, rise: Array) -> str:
        """A value as int32, raised by `rise` a channel."""
        x, dtype = self.written[node], self.dtypes[node.name]
        if dtype == "int8":
            x, rise = self.scope.cast(x, "int32"), rise - RAISE8
        elif dtype == "int16":
            rise = rise + self.lowest.get(node, -RAISE16)
        return self.scope.op("Add", x, self.constant(rise, "rise")) if rise.any() else x

    def plain(self, node: fx.Node) -> str:
        """A value as integers of its own type."""
        dtype = self.dtypes[node.name]
        if dtype == "int8":
            return self.signed(node)
        x = self.raised(node, np.zeros(1, np.int64))
        return self.scope.cast(x, "int16") if dtype == "int16" else x

    def signed(self, node: fx.Node) -> str:
        """An 8-bit value as int8."""
        if node not in self._signed:
            centred = self.scope.op("Sub", self.written[node], self.scope.constant(RAISE8, "uint8"))
            self._signed[node] = self.scope.cast(centred, "int8")
        return self._signed[node]
