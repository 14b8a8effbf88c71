"""Which channels of a rearrangement's sources and result hold the same values, and so must be on one grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from intvit.grid import Grid


@dataclass(frozen=True)
class Classes:
    """The class of each channel: of the result, `[C]`, and of each source, `[C_i]`."""

    result: Tensor
    sources: tuple[Tensor, ...]

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], index: Tensor, chunk: int, groups: int | None = None) -> "Classes":
        """Of a `rearrange` of sources `[T_i, C_i]`; `groups` blocks of the result's channels share a grid anyway."""
        channels = index.shape[1] * chunk
        offsets = [0, *accumulate(c for _, c in shapes)]
        # Vertices are the channels of all sources, and behind them those of the result.
        first = torch.cat([torch.arange(0, t * c, chunk) % c + o for (t, c), o in zip(shapes, offsets, strict=False)])
        columns = torch.arange(0, channels, chunk) + offsets[-1]
        vertices = offsets[-1] + channels
        met = (first[index.long()] * vertices + columns).unique()
        inner = torch.arange(chunk)
        blocks = [(ends[:, None] + inner).flatten() for ends in (met // vertices, met % vertices)]
        own = torch.arange(channels)
        shared = channels // (groups or channels)
        pairs = torch.cat([torch.stack(blocks, 1), torch.stack([own, own // shared * shared], 1) + offsets[-1]])
        labels = _components(vertices, pairs)
        *sources, result = torch.split(labels, [*(int(c) for _, c in shapes), channels])
        return cls(result, tuple(sources))

    def largest(self, values: Tensor) -> Tensor:
        """The largest of the result's `values` `[C]` in each class, for each channel; `[1]` where all are equal."""
        best = self._best(values)[self.result]
        return best[:1] if bool((best == best[0]).all()) else best

    def of_source(self, i: int, grid: Grid) -> Grid:
        """The grid of a source, from that of the result."""
        if grid.scale.numel() == 1:
            return grid
        scale = self._best(grid.scale)[self.sources[i]]
        scale = torch.where(scale > 0, scale, grid.scale.max())
        return Grid(scale, torch.zeros(1, dtype=torch.float64), grid.dtype)

    def _best(self, values: Tensor) -> Tensor:
        size = 1 + int(max(part.max() for part in (self.result, *self.sources)))
        return torch.zeros(size, dtype=values.dtype).scatter_reduce(0, self.result, values, "amax")


def _components(vertices: int, pairs: Tensor) -> Tensor:
    """The smallest vertex that is connected to each: labels spread along the pairs until none changes."""
    labels = torch.arange(vertices)
    a, b = pairs.unbind(1)
    while True:
        least = torch.minimum(labels[a], labels[b])
        spread = labels.scatter_reduce(0, a, least, "amin").scatter_reduce(0, b, least, "amin")
        spread = torch.minimum(spread, spread[spread])
        if torch.equal(spread, labels):
            return labels
        labels = spread
