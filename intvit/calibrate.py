"""Calibration: runs the float graph on real images, and gives every tensor its grid (`intvit.grids`)."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from intvit import floatops
from intvit.errors import IntvitError
from intvit.grids import BYTES, PRESETS, Policy, assign_grids, scores_name
from intvit.importance import shared
from intvit.input_grid import InputGrid
from intvit.leveled import distances
from intvit.observers import MinMax, Observer, ObserverChoice
from intvit.roles import roles_read
from intvit.softmax_distances import SoftmaxDistances
from intvit.stages import CalibratedGraph, FloatGraph


def calibrate(
    graph: FloatGraph,
    batches: Iterable[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy = PRESETS["default"],
    progress: Callable[[int], None] = lambda done: None,
    tokens: Mapping[str, Tensor] = MappingProxyType({}),
) -> CalibratedGraph:
    """Observes every tensor on `batches` of pixels (uint8 `[N, H, W, C]`) and fixes its grid.

    `tokens`: what each token `[T]` of a tensor weighs where its range is searched, by node name; all are alike where
    the graph has fewer of them.

    Raises `IntvitError` where there is no image, or where a layer's output is not finite (names the layer).
    """
    observers, distances = observe(graph, batches, input_grid, policy, progress, tokens)
    return assign_grids(graph, observers, input_grid, policy, distances)


@torch.inference_mode()
def observe(
    graph: FloatGraph,
    batches: Iterable[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy,
    progress: Callable[[int], None] = lambda done: None,
    tokens: Mapping[str, Tensor] = MappingProxyType({}),
) -> tuple[dict[str, Observer], dict[str, SoftmaxDistances]]:
    """Of every tensor, and of the softmax of every attention whose weights get few levels; by node name."""
    runner = _Runner(graph.module, policy, tokens)
    done = 0
    for pixels in filter(len, batches):
        runner.run(torch.from_numpy(input_grid.normalized(pixels)))
        done += len(pixels)
        progress(done)
    if not done:
        raise IntvitError("no image to calibrate with: give at least one")
    return runner.observers, runner.distances


class _Runner(fx.Interpreter):
    """Runs the float graph and shows every result to its observer."""

    def __init__(self, module: fx.GraphModule, policy: Policy, tokens: Mapping[str, Tensor]) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.observers: dict[str, Observer] = {}
        self.distances: dict[str, SoftmaxDistances] = {}
        self._choice, self._policy, self._tokens = ObserverChoice(policy.observer), policy, tokens

    def run_node(self, n: fx.Node) -> object:
        self._node = n
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor):
            if not bool(torch.isfinite(result.sum())) and not bool(torch.isfinite(result).all()):
                raise IntvitError(f"{n.meta.get('path') or n.name}: NaN or inf in the activations of {n.name}")
            if n.name not in self.observers:
                self.observers[n.name] = self._observer(n, result)
            self.observers[n.name].update(result)
        return result

    def _observer(self, node: fx.Node, result: Tensor) -> Observer:
        bits = self._policy.activations if BYTES & set(roles_read(node)) else 8
        tokens = self._tokens.get(node.name)
        known = tokens is not None and len(tokens) == result.shape[1]
        return self._choice.make(result.shape[-1], shared(self.module, node), bits, tokens if known else None)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Attention keeps its scores to itself; where they or the weights are quantized, they are observed here."""
        if target is floatops.attention and self._policy.published:
            q, k, _, heads, scale = args
            queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
            name = scores_name(self._node.name)
            self.observers.setdefault(name, MinMax(1)).update((queries @ keys.mT * scale).reshape(-1, 1))
        elif target is floatops.attention and self._policy.activations < 8:
            q, k, _, *rest = args
            self.distances.setdefault(self._node.name, SoftmaxDistances()).update(distances(q, k, *rest))
        return super().call_function(target, args, kwargs)
