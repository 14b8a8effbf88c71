"""Every linear layer's weights rounded in order, each for the input that the rounded layers before it leave.

    x̂ = the layer's input as the rounded model has it, on its grid       y = the float model's output of the layer
    W' undoes the errors of x̂ (`target`), Ŵ is W' rounded (`gptq`), b̂ = E[y] - Ŵ E[x̂]

Then the layers of each block are trained together (`training`). The result is a calibrated graph whose weights lie on
their grids, so that lowering finds the same integers; nothing after it knows how they were chosen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.roles import heads_reading
from intvit.rounding.constants import give_constants
from intvit.rounding.evaluate import origin
from intvit.rounding.gptq import rounded
from intvit.rounding.layer import Layer
from intvit.rounding.objective import Batches, WeightedError
from intvit.rounding.opened import open_grids
from intvit.rounding.segments import Segment, segments
from intvit.rounding.statistics import Moments, moments
from intvit.rounding.streams import AT_ONCE, Streams
from intvit.rounding.target import target
from intvit.rounding.tokens import Energy, shares, shares_of_read
from intvit.rounding.training import Piece, Recipe, train
from intvit.stages import CalibratedGraph, FloatGraph, copy_of

SHARES = {8: (1.0,), 7: (1.0,), 6: (0.8, 1.0), 5: (0.8, 1.0), 4: (0.6, 0.8, 1.0), 3: (0.4, 0.6, 0.8, 1.0)}
"""Of the step that holds a row's largest weight, by bits: the fewer levels, the more a narrower range helps."""


@dataclass(frozen=True)
class Plan:
    """`bits` of a linear layer's weights; how much is done for them.

    `ridge`: of the target, the float weights without. `recipe`: the layers of a block are trained together.
    """

    bits: Callable[[fx.Node], int]
    ridge: float | None = None
    recipe: Recipe | None = None


@torch.no_grad()
def round_weights(
    source: FloatGraph,
    calibrated: CalibratedGraph,
    images: Tensor,
    plan: Plan,
    gradients: Mapping[str, Energy],
    progress: Callable[[str], None] = lambda name: None,
) -> CalibratedGraph:
    """`calibrated` with the weights of its linear layers rounded, and the scales of its coarsest grids trained.

    `source`: the graph over all tokens, of which the calibrated one may compute fewer; `images`: normalized;
    `gradients`: the energies of `source`, by which tokens are weighed.
    """
    rounding = _Rounding(source, calibrated, images, plan, gradients)
    for node in rounding.streams.nodes():
        rounding.step(node)
        progress(node.name)
    return rounding.calibrated_with_layers()


class _Rounding:
    """What is known on the way: the layers that are done, and the grids as they are by then."""

    def __init__(
        self,
        source: FloatGraph,
        calibrated: CalibratedGraph,
        images: Tensor,
        plan: Plan,
        gradients: Mapping[str, Energy],
    ) -> None:
        self._module, self._calibrated, self._plan = source.module, calibrated, plan
        self._kept = {node.name for node in _linear(calibrated.source)}
        self._weights = {name: shares(energy.tokens) for name, energy in gradients.items()}
        self._read = {name: energy.tokens > 0 for name, energy in gradients.items()}
        self._weights_of_read = {name: shares_of_read(energy.tokens) for name, energy in gradients.items()}
        self._entry = images
        parts = segments(source.module.graph) if plan.recipe is not None else []
        self._entries, self._ends = {part.entry.name for part in parts}, {part.nodes[-1].name: part for part in parts}
        self._layers: dict[str, Layer] = {}
        self.streams = Streams(source.module, images)

    def step(self, node: fx.Node) -> None:
        """One operation in both streams; a layer is rounded, and those of a segment trained where it ends."""
        exact, inexact = self.streams.float, self.streams.rounded
        exact[node.name] = self.streams.run_float(node)
        if node.name in self._kept:
            inexact[node.name] = self._round(node)
        else:
            inexact[node.name] = self.streams.run_rounded(node, self._calibrated)
        if node.name in self._ends:
            inexact[node.name] = self._train(self._ends[node.name], exact[node.name])
        if node.name in self._entries:
            self._entry = inexact[node.name]

    def _round(self, node: fx.Node) -> Tensor:
        source = arguments(node)[0]
        x = self._operand(node, source)
        weight = self._module.get_buffer(str(arguments(node)[1].target))
        statistics = rows(x, self.streams.float[node.name], self._weights.get(node.name))
        grid = self._calibrated.grid(origin(source), Role.PRODUCT)
        self._layers[node.name] = layer = round_layer(weight, grid, statistics, self._plan.bits(node), self._plan.ridge)
        self._calibrated = no_finer_than_sums(self._calibrated, node, layer.step.double())
        return layer(x)

    def _operand(self, node: fx.Node, source: fx.Node) -> Tensor:
        """What the layer `node` reads; of tokens that the answer does not depend on, as the float model has it.

        Grids are not made for those: DINOv2 (small, random weights) had 9 dB behind a layer whose bias made up for what
        they lost, and 37 for the token that is read.
        """
        x = self.streams.operand(source, Role.PRODUCT, self._calibrated)
        read = self._read.get(node.name)
        return x if read is None else torch.where(read[:, None], x, self.streams.float[source.name])

    def _train(self, segment: Segment, wanted: Tensor) -> Tensor:
        """The layers of a segment, together; what leaves it then."""
        assert self._plan.recipe is not None
        layers = {node.name: self._layers[node.name] for node in segment.layers if node.name in self._kept}
        piece = Piece(self._calibrated, self._module, segment.entry.name, segment.nodes)
        grids = open_grids(self._calibrated, segment)
        batches = Batches(self._entry, wanted, self._plan.recipe.images)
        loss = WeightedError(self._weights_of_read.get(segment.layers[-1].name), wanted)
        trained, found = train(piece, layers, grids, batches, loss, self._plan.recipe)
        self._layers |= {name: layer.with_room_for(layer.bias) for name, layer in trained.items()}
        for key, grid in found.items():
            self._calibrated = replace(self._calibrated, grids={**self._calibrated.grids, key: grid})
        piece = replace(piece, calibrated=self._calibrated)
        return torch.cat([piece(part, self._layers) for part in self._entry.split(AT_ONCE)])

    def calibrated_with_layers(self) -> CalibratedGraph:
        """The result."""
        return with_weights(self._calibrated, self._layers)


def rows(x: Tensor, y: Tensor, token_weight: Tensor | None) -> Moments:
    """The moments of all tokens of all images."""
    weight = None if token_weight is None else token_weight.repeat(len(x))
    return moments(x.flatten(0, 1), y.flatten(0, 1), weight)


def round_layer(weight: Tensor, grid: Grid, found: Moments, bits: int, ridge: float | None = None) -> Layer:
    """`weight` `[N, K]` in float, for an input on `grid`; the `target` of this ridge takes its place."""
    columns, largest = grid.scale.expand(weight.shape[1]), (1 << (bits - 1)) - 1
    wanted = (weight if ridge is None else target(weight, found, ridge)) * columns.float()
    integers, step = rounded(wanted, found.xx / (columns * columns[:, None]), largest, SHARES[bits])
    layer = Layer(integers, wanted / step.float()[:, None], step.float(), torch.zeros(len(step)), grid, largest)
    layer = layer.with_room_for(found.y_mean)
    return replace(layer, bias=(found.y_mean - layer.weight.double() @ found.x_mean).float())


def no_finer_than_sums(calibrated: CalibratedGraph, node: fx.Node, step: Tensor) -> CalibratedGraph:
    """Queries, keys and values on grids no finer than the steps `[N]` of the layer's sums, of which they are made.

    Those that hardly differ from token to token have far finer ones, which tell nothing and which no requantization
    reaches. Other roles keep theirs: what follows from the grid is fixed.
    """
    for role in (Role.SCORE, Role.VALUE):
        grid = calibrated.grids.get((node.name, role))
        if grid is not None:
            size = len(step) // (heads_reading(node) if role is Role.SCORE else len(step))
            least = step.unflatten(0, (-1, size)).amax(1).repeat_interleave(size)
            coarser = grid.no_finer_than(least)
            calibrated = replace(calibrated, grids={**calibrated.grids, (node.name, role): coarser})
    return calibrated


def with_weights(calibrated: CalibratedGraph, found: Mapping[str, Layer]) -> CalibratedGraph:
    """The graph with these weights, by the names of their nodes, and the steps of their rows as grids."""
    source = calibrated.source
    module = copy_of(source.module)
    for node in module.graph.find_nodes(op="call_function", target=floatops.linear):
        give_constants(module, node, found[node.name].weight, found[node.name].bias)
    module.graph.eliminate_dead_code()
    changed = FloatGraph.of(copy_of(module), module.graph, source.input_shape, source.output_shapes)
    result = replace(calibrated, source=changed)
    for node in _linear(changed):
        old = calibrated.grid(node, Role.ACCUMULATOR)
        result = result.with_grid(node, Role.ACCUMULATOR, Grid(found[node.name].step.double(), old.offset, old.dtype))
    return result


def _linear(graph: FloatGraph) -> list[fx.Node]:
    return list(graph.module.graph.find_nodes(op="call_function", target=floatops.linear))
