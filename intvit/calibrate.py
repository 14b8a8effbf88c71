"""Calibration: runs the float graph on real images, and gives every tensor its grid (`intvit.grids`)."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from intvit import floatops
from intvit.errors import IntvitError
from intvit.grids import PRESETS, Policy, assign_grids, scores_name
from intvit.importance import shared
from intvit.input_grid import InputGrid
from intvit.observers import MinMax, Observer, ObserverChoice
from intvit.stages import CalibratedGraph, FloatGraph


def calibrate(
    graph: FloatGraph,
    batches: Iterable[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy = PRESETS["default"],
    progress: Callable[[int], None] = lambda done: None,
) -> CalibratedGraph:
    """Observes every tensor on `batches` of pixels (uint8 `[N, H, W, C]`) and fixes its grid.

    Raises `IntvitError` where there is no image, or where a layer's output is not finite (names the layer).
    """
    observers = _observe(graph, batches, input_grid, policy, progress)
    return assign_grids(graph, observers, input_grid, policy)


@torch.inference_mode()
def _observe(
    graph: FloatGraph,
    batches: Iterable[NDArray[np.uint8]],
    input_grid: InputGrid,
    policy: Policy,
    progress: Callable[[int], None],
) -> dict[str, Observer]:
    observers: dict[str, Observer] = {}
    runner = _Runner(graph.module, observers, policy)
    done = 0
    for pixels in filter(len, batches):
        runner.run(torch.from_numpy(input_grid.normalized(pixels)))
        done += len(pixels)
        progress(done)
    if not done:
        raise IntvitError("no image to calibrate with: give at least one")
    return observers


class _Runner(fx.Interpreter):
    """Runs the float graph and shows every result to its observer."""

    def __init__(self, module: fx.GraphModule, observers: dict[str, Observer], policy: Policy) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.observers, self.choice = observers, ObserverChoice(policy.observer)
        self.observe_scores = policy.published

    def run_node(self, n: fx.Node) -> object:
        self._node = n
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor):
            if not bool(torch.isfinite(result.sum())) and not bool(torch.isfinite(result).all()):
                raise IntvitError(f"{n.meta.get('path') or n.name}: NaN or inf in the activations of {n.name}")
            if n.name not in self.observers:
                self.observers[n.name] = self.choice.make(result.shape[-1], shared(self.module, n))
            self.observers[n.name].update(result)
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Attention keeps its scores to itself; I-ViT's form quantizes them, so they are observed here."""
        if target is floatops.attention and self.observe_scores:
            q, k, _, heads, scale = args
            queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
            name = scores_name(self._node.name)
            if name not in self.observers:
                self.observers[name] = MinMax(1)
            self.observers[name].update((queries @ keys.mT * scale).reshape(-1, 1))
        return super().call_function(target, args, kwargs)
