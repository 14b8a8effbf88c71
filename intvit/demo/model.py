"""The demo's float model: a small Vision Transformer for handwritten digits, 16x16 pixels in 4x4 patches.

It is written as anybody would write one, and nothing else in intvit knows it. `intvit.demo.model:digits` is its name.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from intvit.preprocess import Preprocessing

WEIGHTS = Path(__file__).with_name("digits.safetensors")
PREPROCESSING = Preprocessing(size=(16, 16), resize=(16, 16), crop="none", mean=(0.31,), std=(0.348,))
"""One channel, white strokes on black; mean and deviation of the training images."""


class Block(nn.Module):
    """Attention, then an MLP, each behind a LayerNorm and beside a residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        mlp: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mlp


class DigitsViT(nn.Module):
    """`[batch, 1, 16, 16]` to ten logits: 16 patches and a class token, three blocks, 0.15 million parameters."""

    preprocessing = PREPROCESSING
    labels = tuple("0123456789")

    def __init__(self, dim: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, kernel_size=4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 17, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def digits() -> DigitsViT:
    """The trained model (see `train.py`)."""
    model = DigitsViT()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
