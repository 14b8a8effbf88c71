"""A linear layer of integers on its way to its rounding, and a grid whose scale is still open."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit.grid import Grid
from intvit.grids import BIAS_RANGE
from intvit.rounding.on_grid import straight_through

NEARNESS = 0.45
"""Of a weight's start to its integer, in steps: where GPTQ moved it further, it starts from there."""


@dataclass(frozen=True)
class Layer:
    """Integers `[N, K]` within `±largest`, and what they were before rounding (`real`, in steps).

    Steps of the rows `[N]`, bias `[N]`; all float32. `grid`: of the input, whose scale the columns have.
    """

    integers: Tensor
    real: Tensor
    step: Tensor
    bias: Tensor
    grid: Grid
    largest: int

    @property
    def weight(self) -> Tensor:
        """Float `[N, K]`."""
        return (self.integers.double() * self.step.double()[:, None] / self.grid.scale).float()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def with_room_for(self, bias: Tensor) -> "Layer":
        """A row whose weights are nearly 0 beside a bias `[N]` gets the step at which the bias fits its integers.

        The integers of the bias hold the offsets of the input's grid too, as far as these can move the row.
        """
        step = self.step.double()[:, None]
        offsets = (self.grid.offset / self.grid.scale).abs().expand(self.real.shape[1])
        least = (bias.double().abs() + (self.real.double() * step).abs() @ offsets)[:, None] / BIAS_RANGE
        tight = step < least
        real = torch.where(tight, self.real * (step / least).float(), self.real)
        integers = torch.where(tight, real.round().clamp(-self.largest, self.largest), self.integers)
        return replace(self, integers=integers, real=real, step=torch.where(tight, least, step)[:, 0].float())


class TrainedGrid:
    """A grid whose scales are trained, while what its integer `anchor` `[1]` or `[C]` stands for stays."""

    def __init__(self, grid: Grid, groups: int, anchor: Tensor) -> None:
        """`groups`: the number of different scales, each of neighbouring channels."""
        self.grid, self._anchor, self._repeated = grid, anchor, grid.scale.numel() // groups
        self.log_scale = nn.Parameter(grid.scale.float()[:: self._repeated].log())

    @property
    def scale(self) -> Tensor:
        """`[C]` or `[1]`."""
        return self.log_scale.exp().repeat_interleave(self._repeated)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` at the nearest values of the grid."""
        scale = self.scale
        return straight_through(x, self.grid, scale, self._offset(scale).float())

    def _offset(self, scale: Tensor) -> Tensor:
        return self.grid.offset + (self.grid.scale - scale) * self._anchor

    def result(self) -> Grid:
        """The grid with the scales as they are now."""
        scale = self.scale.detach().double()
        return replace(self.grid, scale=scale, offset=self._offset(scale))


class TrainedLayer:
    """A layer while it is trained; its columns follow the scale of its input's grid."""

    def __init__(self, layer: Layer, grid: TrainedGrid | None = None) -> None:
        self._layer, self._grid = layer, grid
        near = layer.integers + (layer.real - layer.integers).clamp(-NEARNESS, NEARNESS)
        self.real = nn.Parameter(near.clone())
        self.log_step = nn.Parameter(layer.step.log())
        self.bias = nn.Parameter(layer.bias.clone())

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for an input that is on its grid."""
        largest = self._layer.largest
        columns = self._layer.grid.scale.float() if self._grid is None else self._grid.scale
        inside = self.real.clamp(-largest, largest)
        integers = inside + (inside.detach().round() - inside.detach())
        return F.linear(x, integers * self.log_step.exp()[:, None] / columns, self.bias)

    def result(self) -> Layer:
        """The layer as it is now."""
        layer = self._layer
        return replace(
            layer,
            integers=self.real.detach().round().clamp(-layer.largest, layer.largest),
            real=self.real.detach(),
            step=self.log_step.detach().exp(),
            bias=self.bias.detach().clone(),
            grid=layer.grid if self._grid is None else self._grid.result(),
        )
