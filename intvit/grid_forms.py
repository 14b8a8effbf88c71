"""8-bit and 16-bit grids of given bounds, on all of their integers or on `2^bits` levels of them."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from intvit.bounds import FINEST, largest
from intvit.codebook import codebook
from intvit.dialect.gelu import FRACTION as GELU_FRACTION
from intvit.dialect.published import GELU_BITS, GELU_SLOPE, finest_scale
from intvit.grid import LIMITS, Grid
from intvit.levels import uniform_levels
from intvit.observers import Histogram, Observer


def symmetric(bound: Tensor, bits: int) -> Grid:
    """int8 about 0, on `2^bits` levels of which the last stands for `bound`."""
    grid = Grid.symmetric(bound, "int8")
    if bits == 8:
        return grid
    table = uniform_levels(bits)
    return replace(grid, scale=grid.scale * LIMITS["int8"][1] / int(table.max()), levels=table)


def affine(low: Tensor, high: Tensor, bits: int) -> Grid:
    """int8 on `2^bits` levels, of which the first stands for `low` and the last for `high`."""
    grid = Grid.affine(low, high, "int8")
    if bits == 8:
        return grid
    table, (first, last) = uniform_levels(bits), LIMITS["int8"]
    scale = grid.scale * (last - first) / (int(table.max()) - first)
    return Grid(scale, low.double() - first * scale, "int8", table)


def around(offset: Tensor, bounds: tuple[Tensor, Tensor], bits: int) -> Grid:
    """int8, with `offset` in the middle."""
    low, high = (bound.double() - offset for bound in bounds)
    bound = largest((low, high)).clamp(min=float(offset.abs().max()) * FINEST)
    return replace(symmetric(bound, bits), offset=offset)


def activated(bounds: tuple[Tensor, Tensor], observer: Observer, bits: int, kind: str) -> Grid:
    """Behind an activation function: 0 is an integer; of few bits, a codebook of this kind."""
    grid = with_whole_zero_point(Grid.affine(*bounds, "int8"))
    if bits == 8:
        return grid
    if not isinstance(observer, Histogram):
        return replace(grid, levels=uniform_levels(bits))
    counts, centres = observer.grouped(1)
    return replace(grid, levels=codebook(grid, centres, counts[0], 1 << bits, kind))


def with_whole_zero_point(grid: Grid) -> Grid:
    """The same grid with its offset at a multiple of the scale, for operations that add an integer zero point."""
    return replace(grid, offset=torch.round(grid.offset / grid.scale) * grid.scale)


def fixed_point(bound: Tensor) -> Grid:
    """int16 with as many fraction bits as `bound` leaves, at most those of the GELU."""
    whole_bits = math.ceil(math.log2(max(float(bound), 1e-9)))
    fraction = max(0, min(GELU_FRACTION, 15 - max(whole_bits, 0) - 1))
    scale = torch.tensor([2.0**-fraction], dtype=torch.float64)
    return Grid(scale, torch.zeros_like(scale), "int16")


def published_gelu(bound: Tensor) -> Grid:
    """int8, coarse enough for the two exponentials of I-ViT's sigmoid to fit 32 bits."""
    return Grid.symmetric(bound.double().clamp(min=127 * finest_scale(GELU_BITS, 2) / GELU_SLOPE), "int8")
