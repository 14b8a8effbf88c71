"""What fewer bits in one tensor would change in the model's output, measured on the integer graph.

    q' = round(q / 4) · 4        two bits less (ties to even, within the type), in this tensor alone
    noise = |y(q') - y|² / |y|²  y: the first output, all images together

Only what depends on the tensor is computed again. Accumulators of 32 bits are left out: no option narrows them. Noise
energy grows by 4 with every bit less, so tensors at the top of the list are those that more bits, or a better grid, pay
off for, and those at the bottom can do with fewer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from intvit.dialect import operation_of
from intvit.grid import DTYPES, LIMITS
from intvit.stages import IntGraph

BITS_LESS = 2
_NARROW = {DTYPES[name]: LIMITS[name] for name in ("uint8", "int8", "int16")}


@dataclass(frozen=True)
class Effect:
    """Noise energy in the output, as a share of its own, from fewer bits in what `node` writes."""

    node: str
    path: str
    operation: str
    dtype: str
    noise: float


def effects(
    graph: IntGraph,
    pixels: NDArray[np.uint8],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Effect, ...]:
    """An effect per tensor of 8 or 16 bits, the largest first, from at least one image `[N, H, W, C]`.

    There are none where the output is 0 for all images.

        `progress` is told how many of how many runs are done: one per tensor and image.
    """
    nodes = list(graph.module.graph.nodes)
    noise: dict[fx.Node, float] = {}
    energy, done = 0.0, 0
    for image in pixels:
        values = _values(graph.module, nodes, torch.from_numpy(image[None]))
        output = nodes[-1].args[0][0]
        exact = values[output].double()
        energy += float(exact.square().sum())
        chosen = [node for node in nodes if node.op == "call_function" and values[node].dtype in _NARROW]
        for node in chosen:
            changed = _rerun(nodes, values, node, coarser(values[node]), output).double()
            noise[node] = noise.get(node, 0.0) + float((changed - exact).square().sum())
            done += 1
            progress(done, len(chosen) * len(pixels))
    if energy == 0:
        return ()
    found = [_effect(node, total / energy, values[node]) for node, total in noise.items()]
    return tuple(sorted(found, key=lambda effect: -effect.noise))


def coarser(q: Tensor) -> Tensor:
    """Integers of 8 or 16 bits on the grid of `BITS_LESS` bits less, of the same type."""
    wide = q.to(torch.int32)
    even = (wide >> BITS_LESS) & 1
    rounded = (wide + (1 << (BITS_LESS - 1)) - 1 + even) >> BITS_LESS
    return (rounded << BITS_LESS).clamp(*_NARROW[q.dtype]).to(q.dtype)


def _effect(node: fx.Node, noise: float, value: Tensor) -> Effect:
    operation = operation_of(node.target)
    assert operation is not None
    dtype = str(value.dtype).removeprefix("torch.")
    return Effect(node.name, node.meta.get("path", "") or "", operation.name, dtype, noise)


def _values(module: fx.GraphModule, nodes: list[fx.Node], image: Tensor) -> dict[fx.Node, Any]:
    """The value of every node but the output."""
    values: dict[fx.Node, Any] = {}
    with torch.inference_mode():
        for node in nodes[:-1]:
            if node.op == "placeholder":
                values[node] = image
            elif node.op == "get_attr":
                values[node] = module.get_buffer(str(node.target))
            else:
                values[node] = _called(node, values)
    return values


def _rerun(
    nodes: list[fx.Node], values: dict[fx.Node, Any], changed: fx.Node, value: Tensor, output: fx.Node
) -> Tensor:
    """The output where `changed` has another value."""
    fresh: dict[fx.Node, Any] = {changed: value}
    with torch.inference_mode():
        for node in nodes[nodes.index(changed) + 1 : -1]:
            if any(source in fresh for source in node.all_input_nodes):
                fresh[node] = _called(node, {n: fresh.get(n, values[n]) for n in node.all_input_nodes})
    result: Tensor = fresh.get(output, values[output])
    return result


def _called(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What the operation of a node gives on these inputs."""
    assert callable(node.target)
    return node.target(*fx.map_arg(node.args, values.__getitem__))
