"""Small Vision Transformers for ONNX: outputs of every kind, layer scales, weights that ask much of the arithmetic."""

from collections.abc import Callable
from functools import cache

import tiny
import torch
from torch import Tensor, nn

from intvit.integer_model import IntegerModel


class Features(nn.Module):
    """The residual stream between two blocks, a LayerNorm's result and the classes: outputs that are read on."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = tiny.TinyViT(20, heads=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vit = self.vit
        x = vit.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([vit.token.expand(x.shape[0], -1, -1), x], 1) + vit.position
        x = vit.blocks[0](x)
        features = vit.norm(x)
        return x, features, vit.head(vit.norm(vit.blocks[1](x))[:, 0])


class Patches(nn.Module):
    """No class token: all tokens of one block, with one head; the same output twice, from modules with taken names."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.image, self.block, self.logits = nn.Conv2d(3, dim, 8, 8), tiny.Block(dim, 1), nn.Linear(dim, 7)
        self.output_0 = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        y = self.logits(self.output_0(self.block(self.image(image).flatten(2).transpose(1, 2))))
        return y, y


class Named(nn.Module):
    """Classes from a module that is called what the graph's output is."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.logits = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.patches(image).flatten(2).transpose(1, 2))


class Scaled(tiny.Block):
    """A block of DINOv2: each branch has a scale for each channel."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.scale1, self.scale2 = (nn.Parameter(torch.rand(dim) * 0.3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(attended) * self.scale1
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)))) * self.scale2


def scaled() -> tiny.TinyViT:
    vit = tiny.TinyViT(24, depth=1, heads=3)
    vit.blocks = nn.ModuleList([Scaled(24, 3)])
    return vit


def pruned() -> tiny.TinyViT:
    """Channels of every size, down to parts of the largest that 16 bits do not tell, and rows of zeros."""
    vit = tiny.TinyViT(32, depth=2)
    with torch.no_grad():
        for block in vit.blocks:
            for linear in (block.qkv, block.proj, block.fc1, block.fc2):
                sizes = torch.exp2(-(torch.arange(len(linear.bias)) % 23).float())
                linear.weight *= sizes[:, None]
                linear.bias *= sizes
            block.fc1.weight[::5], block.fc1.bias[::5] = 0, 0
    return vit


def faint() -> tiny.TinyViT:
    """A residual stream far below the root of `eps`."""
    vit = tiny.TinyViT(16, depth=1)
    with torch.no_grad():
        for parameter in (vit.patch.weight, vit.patch.bias, vit.token, vit.position):
            parameter *= 1e-6
        for linear in (vit.blocks[0].proj, vit.blocks[0].fc2):
            linear.weight *= 1e-6
            linear.bias *= 1e-6
    return vit


MODELS: dict[str, Callable[[], nn.Module]] = {
    "class token": lambda: tiny.TinyViT(depth=1),
    "rows of 20": lambda: tiny.TinyViT(20, depth=1, heads=4, classes=3),
    "outputs that are read on": Features,
    "all tokens, one output twice": Patches,
    "a module called logits": Named,
    "layer scales": scaled,
    "pruned": pruned,
    "faint": faint,
}


@cache
def integer_model(name: str) -> IntegerModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = MODELS[name]().eval()
    return tiny.integer_model_of(module, name)
