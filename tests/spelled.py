"""Captures of small functions, for the tests of the frontend: what they become, and that they compute the same."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from intvit import floatops
from intvit.frontend import capture
from intvit.stages import FloatGraph

SHAPE = (3, 16, 24)
HEIGHT, WIDTH, CHANNELS = 4, 6, 16
TOKENS = HEIGHT * WIDTH
Function = Callable[[Tensor], Any]
_NUMBERS = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))


class Call(nn.Module):
    """A function as a module, so that it has a path."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Embedded(nn.Module):
    """`change` of an image in patches: of the feature map `[B, 16, 4, 6]`, or of its tokens `[B, 24, 16]`."""

    def __init__(self, change: nn.Module | Function, *, tokens: bool) -> None:
        super().__init__()
        self.patch = drawn(nn.Conv2d(3, CHANNELS, 4, 4))
        self.change = change if isinstance(change, nn.Module) else Call(change)
        self.tokens = tokens

    def forward(self, image: Tensor) -> Any:
        x = self.patch(image)
        return self.change(x.flatten(2).mT if self.tokens else x)


def using(function: Callable[..., Any], *modules: nn.Module) -> Function:
    """A function of a tensor and modules, with those modules."""
    return lambda x: function(x, *modules)


def drawn(module: nn.Module, seed: int = 0) -> Any:
    """Random values in every parameter and running statistic, so that nothing hides behind zeros and ones."""
    random = torch.Generator().manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=random) * 0.3 + tensor.data
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.data = buffer.data.abs() + 0.5
    return module.eval()


def constant(*shape: int, seed: int = 0) -> Tensor:
    """The same random numbers for the same shape; also inside what is exported, where none can be drawn."""
    return _NUMBERS[seed : seed + math.prod(shape)].reshape(shape)


def of_tokens(function: nn.Module | Function) -> FloatGraph:
    """The checked canonical graph of a function of tokens `[B, 24, 16]`."""
    return checked(Embedded(function, tokens=True), SHAPE)


def of_map(function: nn.Module | Function) -> FloatGraph:
    """The checked canonical graph of a function of a feature map `[B, 16, 4, 6]`."""
    return checked(Embedded(function, tokens=False), SHAPE)


def of_image(function: nn.Module | Function, shape: tuple[int, int, int] = SHAPE) -> FloatGraph:
    """The checked canonical graph of a function of the image itself."""
    return checked(nn.Sequential(function if isinstance(function, nn.Module) else Call(function)), shape)


def checked(model: nn.Module, shape: tuple[int, int, int], tolerance: float = 1e-4) -> FloatGraph:
    """The canonical graph of `model`, of canonical operations only; equal to it at batches 1 and 3."""
    model.eval()
    graph = capture(model, shape)
    assert {n.target for n in graph.module.graph.nodes if n.op == "call_function"} <= set(floatops.OPERATIONS)
    for batch in (1, 3):
        image = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            found, expected = graph(image), outputs(model, image)
        for got, want in zip(found, expected, strict=True):
            assert got.shape == want.shape
            assert (got - want).norm() <= tolerance * want.norm()
    return graph


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """All tensors that a model returns."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(model(image)) if isinstance(leaf, Tensor)]


def made(graph: FloatGraph) -> str:
    """What a graph consists of, as `linear x 3, attention`, in the order in which each comes first; no `patchify`."""
    names = [n.target.__name__ for n in graph.module.graph.nodes if n.op == "call_function"]
    counts = Counter(name for name in names if name != "patchify")
    return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in counts.items())


def arguments_of(graph: FloatGraph, target: object) -> list[Any]:
    """The arguments of the only operation of its kind."""
    (node,) = graph.module.graph.find_nodes(op="call_function", target=target)
    return list(node.args)
