"""A graph on its way from float to integer, and the few ways in which passes touch it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from intvit import boundary, floatops
from intvit.dialect import operation_of
from intvit.dialect.levels import levels
from intvit.errors import IntvitError, VerifyError
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.noise import Written
from intvit.roles import stored_role
from intvit.stages import CalibratedGraph, copy_of

LEGAL = {*floatops.OPERATIONS, boundary.quantize, boundary.dequantize}


class Lowering:
    """A copy of a calibrated graph that holds float operations, integer operations and the boundaries between them.

    Passes read a float node as integers with `read`, emit integer operations with `emit`, and hand their result back
    to the float side with `write`. It stays runnable in torch after every pass.
    """

    def __init__(self, calibrated: CalibratedGraph) -> None:
        self.calibrated = calibrated
        self.module = copy_of(calibrated.source.module)
        self.graph = self.module.graph
        self._sources = {node.name: node for node in calibrated.source.module.graph.nodes}
        self._stored = {n.name: stored_role(n) for n in self.graph.nodes if n.op == "call_function"}
        self._grids: dict[tuple[object, ...], tuple[str, str]] = {}
        self._path = ""
        self.output_scales: tuple[float, ...] = ()
        self.written: dict[str, Written] = {}

    # Reading and writing grids

    def origin(self, node: fx.Node) -> fx.Node:
        """The node of the float graph whose value `node` holds: grids are kept under its name."""
        return node.meta.get("origin", node)  # type: ignore[no-any-return]

    def grid(self, node: fx.Node, role: Role) -> Grid:
        return self.calibrated.grid(self.origin(node), role)

    def stored(self, node: fx.Node) -> Role:
        """The role in which the integer operation of `node` writes its result."""
        return self._stored[self.origin(node).name]

    def stored_grid(self, node: fx.Node) -> Grid:
        return self.grid(node, self.stored(node)).without_levels

    def read(self, node: fx.Node, grid: Grid) -> fx.Node:
        """The integers of float `node` on `grid`, and on its levels: one node for all that read it on that grid."""
        if grid.levels is None or self._is_on(node, grid.levels):
            return self._boundary(boundary.quantize, node, grid)
        shared = next((user for border in node.users for user in border.users if user.meta.get("levels") is grid), None)
        if shared is not None:
            return shared
        with self.graph.inserting_before(node.next):  # before all that reads it
            border = self._boundary(boundary.quantize, node, grid)
            found = self.emit(levels, border, grid.levels)
        found.meta.update(path=border.meta["path"], levels=grid)
        return found

    def _is_on(self, node: fx.Node, table: Tensor) -> bool:
        """Whether `node` holds windows of a tensor that is read for them on these levels."""
        name = self.origin(node).name
        source = self._sources[self.calibrated.aliases.get(name, name)]
        if source.target is not floatops.unfold:
            return False
        return self.calibrated.grid(arguments(source)[0], Role.PRODUCT).levels is table

    def write(self, node: fx.Node, grid: Grid) -> fx.Node:
        """The float value of integer `node` on `grid`."""
        return self._boundary(boundary.dequantize, node, grid)

    def _boundary(self, target: Callable[..., Tensor], node: fx.Node, grid: Grid) -> fx.Node:
        key = (*grid.scale.tolist(), *grid.offset.tolist(), grid.scale.numel(), grid.dtype)
        if key not in self._grids:
            self._grids[key] = (self.add_buffer("scale", grid.scale), self.add_buffer("offset", grid.offset))
        scale, offset = (self.graph.get_attr(name) for name in self._grids[key])
        border = self.graph.call_function(target, (node, scale, offset, grid.dtype))
        border.meta["path"] = node.meta.get("path", "")
        return border

    # Building

    def find(self, target: Callable[..., Tensor]) -> list[fx.Node]:
        return list(self.graph.find_nodes(op="call_function", target=target))

    def value(self, node: Any) -> Tensor:
        """The tensor of a constant node."""
        return self.module.get_buffer(str(node.target))

    def is_constant(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and node.op == "get_attr"

    def add_buffer(self, kind: str, tensor: Tensor) -> str:
        name = next(n for i in range(10**9) if not hasattr(self.module, n := f"{kind}_{i}"))
        self.module.register_buffer(name, tensor)
        return name

    def constant(self, tensor: Tensor, kind: str = "integers") -> fx.Node:
        return self.graph.get_attr(self.add_buffer(kind, tensor))

    def emit(self, operation: Any, *args: Any, name: str | None = None) -> fx.Node:
        """An integer operation; tensors among `args` become constants."""
        nodes = [self.constant(a.contiguous()) if isinstance(a, Tensor) else a for a in args]
        node = self.graph.create_node("call_function", operation, tuple(nodes), name=name)
        node.meta["path"] = self._path
        return node

    @contextmanager
    def replacing(self, node: fx.Node) -> Iterator[Callable[[fx.Node], None]]:
        """Emits before `node`, and lets the node that is handed in take its place."""
        self._path = node.meta.get("path", "")
        origin = self.origin(node)

        def replacement(new: fx.Node) -> None:
            new.meta["origin"] = origin
            if new.target is boundary.dequantize:
                self.written[arguments(new)[0].name] = Written(origin, self.stored_grid(new))
            node.replace_all_uses_with(new)

        try:
            with self.graph.inserting_before(node):
                yield replacement
        except ValueError as error:
            raise IntvitError(f"{self._path or node.name}: {error}: calibrate with more or other images") from error
        self.graph.erase_node(node)

    # Checking

    def finish(self, pass_name: str) -> None:
        """Removes what is dead and checks the graph after a pass; a failure names the pass."""
        self.graph.eliminate_dead_code()
        try:
            self.check()
        except (TypeError, RuntimeError) as error:
            raise VerifyError(f"after {pass_name}: {error}") from error

    def check(self) -> None:
        self.graph.lint()
        for node in self.graph.nodes:
            if node.op == "call_function" and node.target not in LEGAL and operation_of(node.target) is None:
                raise TypeError(f"{node.name}: {node.target} is not an operation of any stage")

    def run(self, image: Tensor) -> Any:
        """Runs the graph as it stands; `image` is normalized float, or uint8 once the input is lowered."""
        self.module.recompile()
        with torch.inference_mode():
            return self.module(image)
