"""`unfold`, `depthwise` and `pool`: what reads the windows of an image whose pixels are tokens, channels last.

    unfold      y[t, (i, c)] = x[pixel i of window t, c]                                         int8 to int8
    depthwise   y[t, c]      = Σ_i x[pixel i of window t, c] w[i, c] + b[c]                      int8 to int32
    pool        y[t, c]      = saturate(requantized(Σ_i x[pixel i of window t, c]))  or  max_i   int8 or int16, kept

over the `kh·kw` pixels `i` of a window, row by row. A pixel outside of the image is `fill`, the integer that stands for
0 in its channel, so that a convolution is an `unfold` and a `linear`, or `depthwise`. `pool` leaves such pixels out;
its mean multiplies by `1 / count` of each window, so that `multiplier` and `pre_shift` have an entry per token: with
`pre_shift = ceil(log2 count)` any sum of 16-bit integers fits 16 bits behind it, and the result is within two steps of
the exact mean: half a step where `count` is a power of two. Of 8-bit integers less need be shifted away: one step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from intvit.dialect.arithmetic import RANGE, requantized
from intvit.dialect.operation import dtype_named, operation, require, require_channels, require_dtype
from intvit.dialect.requantize import requantized_ranges
from intvit.geometry import Geometry
from intvit.ranges import Operand, Range, Ranges

KINDS = ("mean", "max")
MOST_PIXELS = 1 << 15
"""Of a window that is summed: of 16-bit integers so many fit 31 bits."""


def pixels_of(image: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """Each pixel of all windows in turn: `[B, H', W', C]` of an image `[B, H, W, C]` that covers its padding."""
    rows, columns = geometry.rows, geometry.columns
    for i in range(rows.kernel):
        for j in range(columns.kernel):
            y, x = i * rows.dilation, j * columns.dilation
            lines = slice(y, y + (rows.count - 1) * rows.stride + 1, rows.stride)
            yield image[:, lines, x : x + (columns.count - 1) * columns.stride + 1 : columns.stride]


def filled(x: Tensor, fill: Tensor, geometry: Geometry) -> Tensor:
    """`[B, H·W, C]` as an image with its padding, `fill` `[C]` or `[1]`."""
    top, left, bottom, right = geometry.padding
    height, width = geometry.size
    image = fill.to(x.dtype).expand(x.shape[-1]).repeat(x.shape[0], top + height + bottom, left + width + right, 1)
    image[:, top : top + height, left : left + width] = x.unflatten(1, geometry.size)
    return image


def _require_image(x: Tensor, geometry: Geometry) -> None:
    require(x.ndim == 3, "x must be [batch, tokens, channels]")
    require(x.shape[1] == geometry.pixels, f"x must have {geometry.pixels} tokens, not {x.shape[1]}")


def _require_fill(x: Tensor, fill: Tensor) -> None:
    require_dtype("fill", fill, torch.int32)
    require(list(fill.shape) == [x.shape[-1]], f"fill must be [{x.shape[-1]}]")


def _fill_range(fill: Tensor) -> Range:
    found = Range(int(fill.min()), int(fill.max()))
    require(found.fits(8), f"fill must be within 8 bits, not {found.low}..{found.high}")
    return found


def _unfold_check(
    x: Tensor,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    require_dtype("x", x, torch.int8)
    geometry = Geometry.of(size, kernel, stride, padding, dilation)
    _require_image(x, geometry)
    _require_fill(x, fill)
    return x.new_empty(x.shape[0], geometry.tokens, geometry.taps * x.shape[2])


def _unfold_ranges(
    x: Operand,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Ranges:
    outside = _fill_range(fill)
    padded = Geometry.of(size, kernel, stride, padding, dilation).padded
    return Ranges(x.union(outside) if padded else x)


@operation(check=_unfold_check, ranges=_unfold_ranges)
def unfold(
    x: Tensor,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """int8 `[B, H·W, C]` to `[B, H'·W', kh·kw·C]`, in the order (y, x, channel)."""
    geometry = Geometry.of(size, kernel, stride, padding, dilation)
    found = torch.stack([*pixels_of(filled(x, fill, geometry), geometry)], 3)
    return found.reshape(x.shape[0], geometry.tokens, -1)


def _depthwise_check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    require_dtype("x", x, torch.int8)
    require_dtype("weight", weight, torch.int8)
    require_dtype("bias", bias, torch.int32)
    geometry = Geometry.of(size, kernel, stride, padding, dilation)
    _require_image(x, geometry)
    _require_fill(x, fill)
    channels = x.shape[-1]
    require(list(weight.shape) == [geometry.taps, channels], f"weight must be [{geometry.taps}, {channels}]")
    require(list(bias.shape) == [channels], f"bias must be [{channels}]")
    return x.new_empty(x.shape[0], geometry.tokens, channels, dtype=torch.int32)


def _depthwise_ranges(
    x: Operand,
    weight: Tensor,
    bias: Tensor,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Ranges:
    _fill_range(fill)
    padded = Geometry.of(size, kernel, stride, padding, dilation).padded
    wide, outside = weight.to(torch.int64), fill.to(torch.int64)
    least = outside.clamp(max=x.low) if padded else torch.full_like(outside, x.low)
    most = outside.clamp(min=x.high) if padded else torch.full_like(outside, x.high)
    positive, negative = wide.clamp(min=0).sum(0), wide.clamp(max=0).sum(0)
    low, high = positive * least + negative * most, positive * most + negative * least
    partial = Range(min(int(low.min()), 0), max(int(high.max()), 0))
    total = Range(int((low + bias).min()), int((high + bias).max()))
    return Ranges(total, {"accumulator": partial.union(total)})


@operation(check=_depthwise_check, ranges=_depthwise_ranges)
def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    fill: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """int8 `[B, H·W, C]` with int8 weights `[kh·kw, C]` of each channel, in int32 `[B, H'·W', C]`."""
    geometry = Geometry.of(size, kernel, stride, padding, dilation)
    image = filled(x, fill, geometry).to(torch.int32)
    total = bias.repeat(x.shape[0], *geometry.result, 1)
    for pixel, factors in zip(pixels_of(image, geometry), weight.to(torch.int32), strict=True):
        total += pixel * factors
    return total.flatten(1, 2)


def _pool_check(
    x: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    kind: str,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    dtype: str,
) -> Tensor:
    require(dtype in ("int8", "int16"), f"dtype must be int8 or int16, not {dtype!r}")
    require_dtype("x", x, dtype_named(dtype))
    geometry = Geometry.of(size, kernel, stride, padding)
    _require_image(x, geometry)
    require(kind in KINDS, f"kind must be {' or '.join(KINDS)}, not {kind!r}")
    require(min(geometry.counts) > 0, "every window must hold a pixel of the image")
    require(geometry.taps <= MOST_PIXELS, f"a window must have at most {MOST_PIXELS} pixels, not {geometry.taps}")
    require_channels(geometry.tokens, multiplier=multiplier, pre_shift=pre_shift)
    require(0 <= shift <= 30, f"shift must be in 0..30, not {shift}")
    return x.new_empty(x.shape[0], geometry.tokens, x.shape[2])


def _pool_ranges(
    x: Operand,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    kind: str,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    dtype: str,
) -> Ranges:
    if kind == "max":
        return Ranges(x)
    counts = Geometry.of(size, kernel, stride, padding).counts
    total = x * Range(min(counts), max(counts))
    partial = total.union(Range(0, 0))
    inner = requantized_ranges(total, pre_shift, multiplier, shift)
    limits = RANGE[dtype_named(dtype)]
    return Ranges(inner.result.clamp(*limits), {"sum": partial, **inner.intermediates})


@operation(check=_pool_check, ranges=_pool_ranges)
def pool(
    x: Tensor,
    size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    kind: str,
    multiplier: Tensor,
    pre_shift: Tensor,
    shift: int,
    dtype: str,
) -> Tensor:
    """Mean or largest of the pixels that a window holds, int8 or int16 `[B, H·W, C]` to `[B, H'·W', C]`.

    `multiplier`, `pre_shift`: int32 `[H'·W']` or `[1]`; `kind` "max" ignores them.
    """
    geometry = Geometry.of(size, kernel, stride, padding)
    low, high = RANGE[x.dtype]
    if kind == "max":
        image = filled(x, torch.full_like(multiplier[:1], low), geometry)
        return torch.stack([*pixels_of(image, geometry)]).amax(0).flatten(1, 2)
    image = filled(x.to(torch.int32), torch.zeros_like(multiplier[:1]), geometry)
    total = torch.stack([*pixels_of(image, geometry)]).sum(0, dtype=torch.int32).flatten(1, 2)
    return requantized(total, pre_shift[:, None], multiplier[:, None], shift).clamp(low, high).to(x.dtype)
