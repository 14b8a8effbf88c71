"""Small models whose int8 tensors lie on fewer levels than 256 wherever a product reads them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import mixed
import tiny
import torch
import windowed
from torch import Tensor

from intvit import floatops
from intvit.grid import Role
from intvit.integer_model import IntegerModel
from intvit.levels import uniform_levels
from intvit.metadata import Metadata
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph

CODEBOOK = torch.tensor([-127, -90, -60, -40, -25, -14, -7, -3, 0, 2, 5, 11, 22, 44, 80, 119])


def nearest(codes: Tensor) -> Tensor:
    """int8 `[256]`: the nearest of the codes for each integer."""
    return codes[(torch.arange(-128, 128)[:, None] - codes).abs().argmin(1)].to(torch.int8)


TABLES = {
    Role.PRODUCT: uniform_levels(4),
    Role.SCORE: nearest(CODEBOOK),
    Role.VALUE: uniform_levels(6),
    Role.MATRIX: uniform_levels(5),
}


def on_levels(grids: CalibratedGraph, tables: Mapping[Role, Tensor]) -> CalibratedGraph:
    """The same with a table for every tensor of these roles but the image."""
    for node in grids.source.module.graph.nodes:
        for role, table in tables.items():
            if node.target is not floatops.patchify and (node.name, role) in grids.grids:
                grids = grids.with_grid(node, role, replace(grids.grid(node, role), levels=table))
    return grids


@cache
def calibrated(name: str = "tiny") -> CalibratedGraph:
    """The small Vision Transformer, or another model."""
    return on_levels({"tiny": tiny, "mixed": mixed, "windowed": windowed}[name].calibrated(), TABLES)


@cache
def integer_model(name: str = "tiny") -> IntegerModel:
    """The same in integers."""
    graph = lower(calibrated(name))
    metadata = Metadata(f"coarse {name}", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes)
    return IntegerModel(graph, metadata)
