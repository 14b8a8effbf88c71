"""Which grids of a piece of a graph are trained: those with few levels that are made and read inside it."""

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Grid, Role
from intvit.nodes import arguments
from intvit.roles import NORMALIZATIONS, READS, heads_reading, roles_read
from intvit.rounding.evaluate import origin
from intvit.rounding.layer import TrainedGrid
from intvit.rounding.segments import Segment
from intvit.stages import CalibratedGraph

MAKERS = (*NORMALIZATIONS, floatops.rms_norm, floatops.linear, floatops.attention, floatops.gelu, floatops.pointwise)
"""Operations whose result nothing else has the grid of."""

TAKEN_OVER = (floatops.unfold, floatops.depthwise, floatops.product)
"""Operations whose own grid, or steps of weights, follow from the grid that they read: it stays as calibrated."""


def open_grids(calibrated: CalibratedGraph, segment: Segment) -> dict[tuple[str, Role], TrainedGrid]:
    """By the name of the node and the role in which it is read."""
    found: dict[tuple[str, Role], TrainedGrid] = {}
    for node in segment.nodes:
        for operand, role in zip(arguments(node), READS.get(node.target, ()), strict=False):  # type: ignore[arg-type]
            source = origin(operand)
            if source not in segment.nodes or source.target not in MAKERS or (source.name, role) in found:
                continue
            if any(reader.target in TAKEN_OVER for reader in roles_read(source)[role]):
                continue
            grid = calibrated.grid(source, role)
            if grid.levels is not None:
                found[source.name, role] = TrainedGrid(grid, _groups(source, role, grid), _anchor(source, grid))
    return found


def _groups(node: fx.Node, role: Role, grid: Grid) -> int:
    return heads_reading(node) if role is Role.SCORE else grid.scale.numel()


def _anchor(node: fx.Node, grid: Grid) -> Tensor:
    """Zero keeps its integer behind an activation function; a range about 0 or a middle keeps that."""
    if node.target in (floatops.gelu, floatops.pointwise):
        return -grid.offset / grid.scale
    return torch.full((1,), -0.5 if node.target in NORMALIZATIONS else 0.0, dtype=torch.float64)
