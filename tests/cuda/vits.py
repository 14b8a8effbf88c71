"""Small Vision Transformers for GPUs, with rows and outputs of every kind."""

from collections.abc import Callable
from functools import cache

import tiny
import torch
from torch import Tensor, nn

from intvit.integer_model import IntegerModel


class Features(nn.Module):
    """The residual stream between two blocks, a LayerNorm's result and the classes: outputs that are read on."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.vit = tiny.TinyViT(dim, heads=heads)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vit = self.vit
        x = vit.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([vit.token.expand(x.shape[0], -1, -1), x], 1) + vit.position
        first, second = vit.blocks
        x = first(x)
        features = vit.norm(x)
        return x, features, vit.head(vit.norm(second(x))[:, 0])


class Patches(nn.Module):
    """No class token: all tokens of one block, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, dim, 8, 8), tiny.Block(dim, 1), nn.Linear(dim, 7)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.block(self.patch(image).flatten(2).transpose(1, 2)))


class Twice(nn.Module):
    """The same output twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches(16)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        y = self.patches(image)
        return y, y


MODELS: dict[str, Callable[[], nn.Module]] = {
    "class token": lambda: tiny.TinyViT(depth=1),
    "padded rows": lambda: tiny.TinyViT(20, depth=1),
    "outputs that are read on": lambda: Features(32, 2),
    "unpadded outputs that are read on": lambda: Features(20, 2),
    "the same output twice": Twice,
    "all tokens": lambda: Patches(40),
}


@cache
def integer_model(name: str) -> IntegerModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = MODELS[name]().eval()
    return tiny.integer_model_of(module, name)
