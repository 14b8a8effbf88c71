"""A float graph run on all calibration images at once, node by node: in float, and with its operands on their grids."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, fx

from intvit.grid import Role
from intvit.rounding.evaluate import evaluate, read
from intvit.stages import CalibratedGraph

AT_ONCE = 10
"""Images that an operation takes at a time."""


class Streams:
    """The value of each node that is still to be read: `float` and `rounded`, `[images, tokens, channels]`."""

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        """`images`: normalized."""
        self._module, self._images = module, len(images)
        placeholder = next(iter(module.graph.find_nodes(op="placeholder")))
        self.float: dict[str, Tensor] = {placeholder.name: images}
        self.rounded: dict[str, Tensor] = {placeholder.name: images}

    def nodes(self) -> Iterator[fx.Node]:
        """The operations, in order; a value is dropped when its last reader is done."""
        last = {argument: node for node in self._module.graph.nodes for argument in node.all_input_nodes}
        for node in self._module.graph.nodes:
            if node.op == "call_function":
                yield node
            for argument in node.all_input_nodes:
                if last[argument] is node:
                    self.float.pop(argument.name, None)
                    self.rounded.pop(argument.name, None)

    def operand(self, node: fx.Node, role: Role, calibrated: CalibratedGraph) -> Tensor:
        """The rounded stream's value of `node` on the grid on which it is read."""
        return read(calibrated, node, role, lambda x: self.rounded[x.name])

    def run_float(self, node: fx.Node) -> Tensor:
        """The operation in float."""
        return self._run(node, self.float, None)

    def run_rounded(self, node: fx.Node, calibrated: CalibratedGraph) -> Tensor:
        """The operation in float arithmetic, on operands that are on their grids in `calibrated`."""
        return self._run(node, self.rounded, calibrated)

    def _run(self, node: fx.Node, values: dict[str, Tensor], calibrated: CalibratedGraph | None) -> Tensor:
        def value(part: slice, x: fx.Node) -> Tensor:
            return self._module.get_buffer(str(x.target)) if x.op == "get_attr" else values[x.name][part]

        parts = [slice(start, start + AT_ONCE) for start in range(0, self._images, AT_ONCE)]
        return torch.cat([evaluate(node, partial(value, part), calibrated) for part in parts])
