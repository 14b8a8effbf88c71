"""`LowerRearrange`: before, after, and how near it is to float, whatever meets in a channel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sites
import torch
import windowed
from torch import fx
from windowed import Sketch

from intvit import floatops
from intvit.passes.lower_rearrange import LowerRearrange

TOKENS, WIDTH = 16, windowed.WIDTH
CLOSE = 0.03


def patches(sketch: Sketch) -> fx.Node:
    """The image in 16 patches, embedded."""
    image = sketch.pixels.args[0]
    sketch.graph.erase_node(sketch.pixels)
    return sketch.linear(sketch.call(floatops.patchify, image, 8, 8, shape=(TOKENS, 192)))


def moved(sketch: Sketch, sources: list[fx.Node], index: Any, chunk: int) -> fx.Node:
    table = torch.from_numpy(np.ascontiguousarray(index, np.int32))
    sketch.root.register_buffer("places", table)
    shape = (len(table), table.shape[1] * chunk)
    return sketch.call(floatops.rearrange, sources, sketch.graph.get_attr("places"), chunk, shape=shape)


def windows(sketch: Sketch) -> fx.Node:
    rows = np.arange(TOKENS).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 1)
    return sketch.linear(moved(sketch, [sketch.norm(patches(sketch))], rows, WIDTH))


def transpose(sketch: Sketch) -> fx.Node:
    """All channels of the result have something of each channel of the source: one scale for all."""
    return sketch.linear(moved(sketch, [patches(sketch)], np.arange(TOKENS * WIDTH).reshape(TOKENS, WIDTH).T, 1))


def padding(sketch: Sketch) -> fx.Node:
    """Tokens of two tensors and of a constant, whose channels are not alike."""
    x = patches(sketch)
    rows = np.array([0, 33, 5, 17, 32, 2])[:, None]
    return sketch.linear(moved(sketch, [x, sketch.gelu(x), sketch.constant(2, WIDTH)], rows, WIDTH))


def residual(sketch: Sketch) -> fx.Node:
    x = patches(sketch)
    return sketch.linear(sketch.norm(sketch.add(x, moved(sketch, [x], np.arange(TOKENS)[::-1, None], WIDTH))))


SITES: dict[str, tuple[Callable[[Sketch], fx.Node], str, int]] = {
    "windows": (windows, "int8", WIDTH),
    "transpose": (transpose, "int8", 1),
    "padding": (padding, "int8", WIDTH),
    "residual": (residual, "int16", 1),
}


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    build, dtype, scales = SITES[name]
    sketch = Sketch()
    calibrated = sketch.calibrated(build(sketch))
    graph, new = sites.lowered(LowerRearrange(), calibrated)
    sources, index, chunk = new.args
    assert graph.value(index).dtype == torch.int32 and chunk * graph.value(index).shape[1] in (TOKENS, WIDTH)
    assert all(graph.value(x).dtype is getattr(torch, dtype) for x in sources if graph.is_constant(x))
    (after,) = new.users
    assert after.args[3] == dtype
    assert graph.value(after.args[1]).numel() == scales
    assert sites.noise(calibrated, graph) < CLOSE
