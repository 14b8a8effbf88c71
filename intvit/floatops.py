"""The canonical float operations: the closed set that every captured model is reduced to, and that the passes lower.

A token tensor is always `[batch, tokens, channels]`; heads are consecutive blocks of channels. The operations run in
torch float32, so that a canonical graph is still the user's model: it is calibrated, and compared with, by running it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patchify(image: Tensor, height: int, width: int) -> Tensor:
    """`[B, C, H, W]` to `[B, (H/height)·(W/width), height·width·C]`, each row in the order (y, x, channel)."""
    batch, channels, h, w = image.shape
    grid = image.reshape(batch, channels, h // height, height, w // width, width)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, height * width * channels)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight.T + bias` with weight `[N, K]`, bias `[N]`."""
    return F.linear(x, weight, bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def gelu(x: Tensor) -> Tensor:
    """Exact GELU; the tanh form differs from it by less than 0.0005 and is captured as the same operation."""
    return F.gelu(x)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two token tensors; `b` may be a constant `[tokens, channels]`."""
    return a + b


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """`softmax(q kᵀ · scale) v` per head; q `[B, T, H·D]`, k `[B, S, H·D]`, v `[B, S, H·E]`."""
    queries, keys, values = (x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale).transpose(1, 2).flatten(2)


def concat_tokens(constant: Tensor, x: Tensor) -> Tensor:
    """Constant tokens `[K, C]` before those of `x`."""
    return torch.cat([constant.expand(x.shape[0], -1, -1), x], 1)


def select_tokens(x: Tensor, start: int, stop: int) -> Tensor:
    """Tokens `start` to `stop - 1`."""
    return x[:, start:stop]


OPERATIONS = (patchify, linear, layer_norm, gelu, add, attention, concat_tokens, select_tokens)
