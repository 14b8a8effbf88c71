"""The types of the stages: trace -> calibrate -> lower.

Each is frozen and made by one function, so that a wrong order does not type-check: `frontend.capture` -> `FloatGraph`,
`calibrate` -> `CalibratedGraph`, `lower` -> `IntGraph`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.input_grid import InputGrid
from intvit.softmax_levels import SoftmaxLevels


def copy_of(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph, with the same names, over the same constants; those that no node uses are left out.

    A constant that has several names keeps the first.
    """
    root = torch.nn.Module()
    names: dict[int, str] = {}
    for name in sorted({str(node.target) for node in module.graph.find_nodes(op="get_attr")}):
        constant = module.get_buffer(name)
        if names.setdefault(id(constant), name) == name:
            root.register_buffer(name, constant)
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.find_nodes(op="get_attr"):
        node.target = names[id(module.get_buffer(str(node.target)))]
    return fx.GraphModule(root, graph)


@dataclass(frozen=True)
class FloatGraph:
    """An fx graph of `intvit.floatops` only: `[batch, *input_shape]` to outputs `[batch, *output_shapes[i]]`."""

    module: fx.GraphModule
    input_shape: tuple[int, int, int]
    output_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        root: torch.nn.Module,
        graph: fx.Graph,
        input_shape: tuple[int, int, int],
        output_shapes: tuple[tuple[int, ...], ...],
    ) -> "FloatGraph":
        module = fx.GraphModule(root, graph)
        illegal = [n for n in graph.nodes if n.op == "call_function" and n.target not in floatops.OPERATIONS]
        if illegal:
            raise AssertionError(f"not canonical: {illegal}")
        return cls(module, input_shape, output_shapes)

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """The float outputs of normalized images `[batch, channels, height, width]`."""
        results = self.module(image)
        return tuple(
            result.reshape(image.shape[0], *shape) for result, shape in zip(results, self.output_shapes, strict=True)
        )


@dataclass(frozen=True)
class CalibratedGraph:
    """A float graph with the grid of every tensor in every role, by node name; made by `calibrate`.

    `softmax_levels`: of the attentions whose weights lie on logarithmic levels, by node name.
    """

    source: FloatGraph
    input_grid: InputGrid
    published: bool
    grids: Mapping[tuple[str, Role], Grid] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)
    softmax_levels: Mapping[str, SoftmaxLevels] = field(default_factory=dict)

    def grid(self, node: fx.Node, role: Role) -> Grid:
        """The grid of `node` where it is read or written as `role`; a selection of tokens has its source's."""
        name = self.aliases.get(node.name, node.name)
        return self.grids[name, role]

    def mean(self, node: fx.Node) -> Tensor | None:
        return self.means.get(self.aliases.get(node.name, node.name))

    def with_grid(self, node: fx.Node, role: Role, grid: Grid) -> "CalibratedGraph":
        name = self.aliases.get(node.name, node.name)
        return replace(self, grids={**self.grids, (name, role): grid})

    def with_alias(self, node: fx.Node, source: fx.Node) -> "CalibratedGraph":
        return replace(self, aliases={**self.aliases, node.name: self.aliases.get(source.name, source.name)})

    def with_softmax_levels(self, node: fx.Node, levels: SoftmaxLevels) -> "CalibratedGraph":
        return replace(self, softmax_levels={**self.softmax_levels, node.name: levels})

    def with_mean(self, node: fx.Node, mean: Tensor) -> "CalibratedGraph":
        return replace(self, means={**self.means, node.name: mean})


@dataclass(frozen=True)
class IntGraph:
    """An fx graph of `intvit::` operations only, from uint8 pixels `[batch, H, W, C]` to integers; made by `lower`.

    Output `i` stands for `output_scales[i] · integers`, of shape `[batch, *output_shapes[i]]`.
    """

    module: fx.GraphModule
    input_grid: InputGrid
    output_scales: tuple[float, ...]
    output_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        module: fx.GraphModule,
        input_grid: InputGrid,
        output_scales: tuple[float, ...],
        output_shapes: tuple[tuple[int, ...], ...],
    ) -> "IntGraph":
        """A graph of its own, without constants that no node uses."""
        return cls(copy_of(module), input_grid, output_scales, output_shapes)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The reference: the integer outputs of uint8 images `[batch, H, W, C]`."""
        with torch.inference_mode():
            results = self.module(pixels)
        return tuple(
            result.reshape(pixels.shape[0], *shape) for result, shape in zip(results, self.output_shapes, strict=True)
        )
