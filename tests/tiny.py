"""A small Vision Transformer with fixed random weights, for tests that need a whole model and not a good one."""

from copy import deepcopy
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from intvit.calibrate import calibrate
from intvit.dialect import OPERATIONS
from intvit.frontend import capture
from intvit.grids import PRESETS
from intvit.input_grid import InputGrid
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.hoist_selection import hoist_selection
from intvit.passes.pipeline import lower
from intvit.stages import CalibratedGraph, FloatGraph, IntGraph

SHAPE = (3, 32, 32)
GRID = InputGrid((1 / 64,) * 3, (-2.0,) * 3, SHAPE)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TinyViT(nn.Module):
    """32x32 pixels in 8x8 patches, a class token, two blocks, ten classes."""

    def __init__(self, dim: int = 32, depth: int = 2, heads: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 17, dim) * 0.2)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def vit(seed: int = 0) -> TinyViT:
    """The same model every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyViT().eval()


def small() -> TinyViT:
    """One block, for tests that trace it again and again."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyViT(depth=1).eval()


def pixels(count: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """Raw images `[count, 32, 32, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@cache
def captured() -> FloatGraph:
    """The canonical graph of `vit()`."""
    return hoist_selection(capture(vit(), SHAPE))


@cache
def calibrated(preset: str = "default") -> CalibratedGraph:
    """`captured()` with its grids."""
    return calibrate(captured(), [pixels(32), pixels(32, seed=1)], GRID, PRESETS[preset])


@cache
def integer_model(preset: str = "default") -> IntegerModel:
    """`vit()` in integers."""
    graph = lower(calibrated(preset))
    return IntegerModel(graph, Metadata("tiny", preset, "0", GRID, graph.output_scales, graph.output_shapes))


def integer_model_of(module: nn.Module, name: str) -> IntegerModel:
    """Another model of images of the same size in integers."""
    grids = calibrate(hoist_selection(capture(module, SHAPE)), [pixels(32)], GRID, PRESETS["default"])
    graph = lower(grids)
    return IntegerModel(graph, Metadata(name, "default", "0", GRID, graph.output_scales, graph.output_shapes))


def with_small_weights(model: IntegerModel, keep: int = 0) -> IntegerModel:
    """A model whose linear layers, but the first `keep`, have 4-bit weights: a sixteenth of its own, rounded down."""
    module = deepcopy(model.graph.module)
    layers = module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    for node in layers[keep:]:
        weight = module.get_buffer(str(node.args[1].target))
        weight.copy_(weight >> 4)
    metadata = model.metadata
    return IntegerModel(
        IntGraph.of(module, metadata.input_grid, metadata.output_scales, metadata.output_shapes), metadata
    )
