"""The canonical float operations: the closed set that every captured model is reduced to, and that the passes lower.

A token tensor is always `[batch, tokens, channels]`; heads are consecutive blocks of channels. The operations run in
torch float32, so that a canonical graph is still the user's model: it is calibrated, and compared with, by running it.
Feature maps are token tensors too, a token for each pixel, row by row.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.pointwise import Function, evaluate

Pair = tuple[int, int]
Four = tuple[int, int, int, int]


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


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    scale: float | tuple[float, ...],
    windows: int = 1,
    bias: Tensor | None = None,
    kinds: tuple[int, ...] = (),
) -> Tensor:
    """`softmax(q kᵀ · scale + bias) v` per window and head; q `[B, W·T, H·D]`, k `[B, W·S, H·D]`, v `[B, W·S, H·E]`.

    Windows are consecutive blocks of tokens. `scale` is one number, or one per head. `bias` `[K, H or 1, T, S]` holds
    the kinds of bias, -inf where a key is masked, and `kinds` says which of them each window has.
    """
    queries, keys, values = (heads_of_windows(x, windows, heads) for x in (q, k, v))
    mask = None if bias is None else bias[list(kinds)]
    if isinstance(scale, tuple):
        queries, scale = queries * torch.tensor(scale).reshape(-1, 1, 1), 1.0
    if mask is None:
        result = _attention_without_bias(queries, keys, values, scale)
    else:
        result = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    return result.transpose(2, 3).flatten(3).flatten(1, 2)


def _attention_without_bias(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """torch's kernel that keeps no scores takes four dimensions: 1370 tokens would take gigabytes of them."""
    q, k, v = (x.flatten(0, 1) for x in (queries, keys, values))
    result: Tensor = F.scaled_dot_product_attention(q, k, v, scale=scale).unflatten(0, queries.shape[:2])
    return result


def heads_of_windows(x: Tensor, windows: int, heads: int) -> Tensor:
    """`[B, W·T, H·D]` to `[B, W, H, T, D]`."""
    batch, tokens, channels = x.shape
    return x.reshape(batch, windows, tokens // windows, heads, channels // heads).transpose(2, 3)


def concat_tokens(constant: Tensor, x: Tensor) -> Tensor:
    """Constant tokens `[K, C]` before those of `x`."""
    return torch.cat([constant.expand(x.shape[0], -1, -1), x], 1)


def select_tokens(x: Tensor, start: int, stop: int) -> Tensor:
    """Tokens `start` to `stop - 1`."""
    return x[:, start:stop]


def rearrange(tensors: Sequence[Tensor], index: Tensor, chunk: int) -> Tensor:
    """Blocks of `chunk` neighbouring channels of any tensors, in any order and number.

    Every tensor, `[B, T_i, C_i]` or a constant `[T_i, C_i]`, is cut into blocks, those of the first before those of the
    second; `index` `[T, C / chunk]` says which block comes where in the result, `[B, T, C]`.
    """
    batch = max(x.shape[0] for x in tensors if x.ndim == 3)
    blocks = torch.cat([x.expand(batch, *x.shape[-2:]).reshape(batch, -1, chunk) for x in tensors], 1)
    return blocks[:, index.flatten()].reshape(batch, index.shape[0], -1)


def pointwise(x: Tensor, function: Function) -> Tensor:
    """A function of each element alone (`intvit.pointwise`)."""
    return evaluate(function, x)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product by elements; `b` may have one token for all of `a`, or be a constant `[tokens or 1, channels]`."""
    return a * b


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient by elements; each column of `b` `[B, T, G]` divides a block of `C / G` neighbouring channels of `a`."""
    return a / b.repeat_interleave(a.shape[-1] // b.shape[-1], -1)


def product(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """`a bᵀ` of two tensors, in groups of consecutive tokens: a `[B, G·M, K]`, b `[B, G·N, K]` to `[B, G·M, N]`."""
    left, right = (x.reshape(x.shape[0], groups, x.shape[1] // groups, x.shape[2]) for x in (a, b))
    return (left @ right.mT).flatten(1, 2)


def softmax(x: Tensor, scale: float) -> Tensor:
    """Softmax of `scale · x` over the channels."""
    return (x * scale).softmax(-1)


def unfold(x: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Four, dilation: Pair) -> Tensor:
    """What a convolution reads for each of its outputs: `[B, H·W, C]` to `[B, H'·W', kh·kw·C]`, in the order (y, x, c).

    `size` is `(H, W)`, `padding` `(top, left, bottom, right)` of zeros.
    """
    return _windows(x, size, kernel, stride, padding, dilation).flatten(2)


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Four,
    dilation: Pair,
) -> Tensor:
    """A convolution of every channel by itself; weight `[kh·kw, C]`, bias `[C]`."""
    return (_windows(x, size, kernel, stride, padding, dilation) * weight).sum(2) + bias


def pool(x: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Four, kind: str) -> Tensor:
    """`"mean"` or `"max"` of the pixels that a window holds, those of the padding left out."""
    found = _windows(x, size, kernel, stride, padding, (1, 1), torch.nan)
    if kind == "max":
        return found.nan_to_num(nan=-torch.inf).amax(2)
    return found.nanmean(2)


def _windows(
    x: Tensor, size: Pair, kernel: Pair, stride: Pair, padding: Four, dilation: Pair, fill: float = 0.0
) -> Tensor:
    """`[B, H·W, C]` to `[B, H'·W', kh·kw, C]`."""
    top, left, bottom, right = padding
    image = F.pad(x.unflatten(1, size), (0, 0, left, right, top, bottom), value=fill)
    for axis, extent, step, gap in zip((1, 2), kernel, stride, dilation, strict=True):
        image = image.unfold(axis, (extent - 1) * gap + 1, step)[..., ::gap]
    return image.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(1, 2)


def rms_norm(x: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """Each of `groups` blocks of channels by the root of its mean square: `x / sqrt(mean(x²) + eps) · weight`."""
    blocks = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return (blocks * (blocks.square().mean(-1, keepdim=True) + eps).rsqrt()).flatten(-2) * weight


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Normalization over the tokens and each of `groups` blocks of channels."""
    return F.group_norm(x.mT, groups, weight, bias, eps).mT


OPERATIONS = (
    patchify,
    linear,
    layer_norm,
    gelu,
    add,
    attention,
    concat_tokens,
    select_tokens,
    rearrange,
    pointwise,
    multiply,
    divide,
    product,
    softmax,
    unfold,
    depthwise,
    pool,
    rms_norm,
    group_norm,
)
