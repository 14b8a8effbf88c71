"""Convolution, pooling and resizing of images and feature maps `[B, C, H, W]`."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit import floatops
from intvit.frontend.builder import Builder, placed, zero_padded
from intvit.frontend.materialize import as_tensor, as_view
from intvit.frontend.rules.registry import pair, rule
from intvit.frontend.values import PROBE, NotCanonical, Refused, Value, View, batch_axis

Pair = tuple[int, int]
Four = tuple[int, int, int, int]
NO_PLACES = Refused("where a maximum lies has no integer form")


@rule("conv2d")
def conv2d(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Patches that do not overlap: `patchify` and `linear`. Depthwise: `depthwise`. Else `unfold` and `linear`."""
    image, kernel = x if isinstance(x, View) else as_view(b, x), as_tensor(weight)
    if kernel.ndim != 4:
        raise NotCanonical(f"a convolution over {kernel.ndim - 2} axes has no integer form: only over two")
    out, _, kh, kw = kernel.shape
    size, step, gap = image.index.shape[-2:], pair(stride), pair(dilation)
    around = _padding(padding, (kh, kw), gap)
    offset = None if bias is None else as_tensor(bias)
    patches = step == (kh, kw) and around == (0, 0, 0, 0) and gap == (1, 1) and groups == 1
    if is_image(image) and patches and not (size[0] % kh or size[1] % kw):
        height, width = size[0] // kh, size[1] // kw
        rows = b.emit(floatops.patchify, (image.base, kh, kw), height * width, kh * kw * kernel.shape[1])
        linear = b.linear(rows, kernel.permute(0, 2, 3, 1).reshape(out, -1), offset)
        return linear.moved(linear.index.reshape(PROBE, height, width, out).permute(0, 3, 1, 2))
    if (kh, kw, step, around) == (1, 1, (1, 1), (0, 0, 0, 0)):
        base, place = b.rows(b.of_pixels(image).move(lambda t: t.movedim(1, -1)))
        return placed(b.linear(base, dense(kernel, groups), offset), place).move(lambda t: t.movedim(-1, 1))
    windows = Windows.of(b, image, (kh, kw), step, around, gap)
    if groups == image.index.shape[1] == out and groups > 1:
        zeros = torch.zeros(out) if offset is None else offset
        constants = (b.constant(kernel.reshape(out, -1).T), b.constant(zeros))
        args = (windows.base.base, *constants, *windows.geometry)
        return windows.spread(b.emit(floatops.depthwise, args, windows.rows, out))
    columns = b.once(
        (windows.base.base, "unfold", windows.geometry),
        lambda: b.emit(
            floatops.unfold, (windows.base.base, *windows.geometry), windows.rows, kh * kw * image.index.shape[1]
        ),
    )
    return windows.spread(b.linear(columns, dense(kernel, groups), offset))


@rule("convolution")
def convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    if transposed:
        raise NotCanonical("a transposed convolution has no integer form")
    return conv2d(b, x, weight, bias, stride, padding, dilation, groups)


@dataclass(frozen=True)
class Windows:
    """What a window moves over: feature maps `[N, C, H, W]` as a token tensor, one map below the other in each image.

    Where there are several maps in an image they bring their own padding, and the results at their seams are dropped.
    """

    base: View
    size: Pair
    kernel: Pair
    step: Pair
    around: Four
    gap: Pair
    maps: int
    height: int

    @classmethod
    def of(cls, b: Builder, x: View, kernel: Pair, step: Pair, around: Four, gap: Pair) -> "Windows":
        maps = x.index.shape[0] // PROBE
        height, _ = results(_size(x), kernel, step, around, gap)
        if maps > 1:
            top, left, bottom, right = around
            bottom += -(x.index.shape[-2] + top + bottom) % step[0]
            x, around = zero_padded(x, (left, right, top, bottom)), (0, 0, 0, 0)
        rows, columns = _size(x)
        base = b.unscaled(b.cut(b.of_pixels(x).move(lambda t: t.movedim(1, -1).reshape(PROBE, -1, t.shape[1]))))
        return cls(base, (maps * rows, columns), kernel, step, around, gap, maps, height)

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, Four, Pair]:
        return self.size, self.kernel, self.step, self.around, self.gap

    @property
    def _results(self) -> Pair:
        return results(self.size, self.kernel, self.step, self.around, self.gap)

    @property
    def rows(self) -> int:
        """Tokens of the result, seams included."""
        return math.prod(self._results)

    def spread(self, result: View) -> View:
        """The result as feature maps `[N, C', H', W']`."""
        height, width = self._results
        grid = result.index.reshape(PROBE, height, width, -1)
        apart = self.size[0] // self.maps // self.step[0]
        first = torch.arange(self.maps)[:, None] * apart if self.maps > 1 else torch.zeros(1, 1, dtype=torch.long)
        picked = grid[:, first + torch.arange(self.height)]
        return result.moved(picked.flatten(0, 1).permute(0, 3, 1, 2))


def _size(x: View) -> Pair:
    return int(x.index.shape[-2]), int(x.index.shape[-1])


def dense(kernel: Tensor, groups: int) -> Tensor:
    """The weight `[N, kh·kw·C]` of a convolution in groups: zeros where a channel is of another group."""
    out, inner, kh, kw = kernel.shape
    full = torch.zeros(groups, out // groups, kh, kw, groups, inner)
    for group, part in enumerate(kernel.reshape(groups, out // groups, inner, kh, kw)):
        full[group, ..., group, :] = part.permute(0, 2, 3, 1)
    return full.reshape(out, -1)


def results(size: Pair, kernel: Pair, step: Pair, around: Four, gap: Pair) -> Pair:
    """Rows and columns of the result of a window that moves over an image."""
    extents = [n + before + after for n, before, after in zip(size, around[:2], around[2:], strict=True)]
    found = [(n - (k - 1) * g - 1) // s + 1 for n, k, s, g in zip(extents, kernel, step, gap, strict=True)]
    return found[0], found[1]


def _padding(padding: Any, kernel: Pair, gap: Pair) -> Four:
    """`(top, left, bottom, right)` of a number, two, `"same"` or `"valid"`."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        total = [(k - 1) * g for k, g in zip(kernel, gap, strict=True)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    vertical, horizontal = pair(padding)
    return vertical, horizontal, vertical, horizontal


def is_image(x: View) -> bool:
    """Whether a view is the input itself."""
    if x.base.op != "placeholder" or isinstance(x.factor, Tensor) or x.factor != 1.0:
        return False
    return torch.equal(x.index.flatten(), torch.arange(x.index.numel()))


@rule("avg_pool2d")
def avg_pool2d(
    b: Builder,
    x: Value,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """Means of windows; where zeros of the padding count, a depthwise convolution."""
    if divisor_override is not None:
        raise NotCanonical("an average pool with a divisor of its own")
    view, around, window = (
        as_view(b, x),
        _padding(padding, pair(kernel), (1, 1)),
        (pair(kernel), pair(stride or kernel)),
    )
    if count_include_pad and any(around):
        return _mean_with_padding(b, view, *window, around, ceil_mode)
    return _pooled(b, view, *window, around, "mean", ceil_mode)


def _mean_with_padding(b: Builder, x: View, kernel: Pair, step: Pair, around: Four, ceil_mode: bool) -> View:
    """What lies beyond the padding, in the last window of `ceil_mode`, does not count."""
    height, width = _size(x)
    beyond = _to_last(_size(x), kernel, step, around) if ceil_mode else around
    windows = Windows.of(b, x, kernel, step, beyond, (1, 1))
    channels, area = x.index.shape[1], math.prod(kernel)
    constants = b.constant(torch.full((area, channels), 1 / area)), b.constant(torch.zeros(channels))
    args = (windows.base.base, *constants, *windows.geometry)
    result = windows.spread(b.emit(floatops.depthwise, args, windows.rows, channels))
    if beyond == around:
        return result
    counted = torch.ones(1, 1, height + 2 * around[0], width + 2 * around[1])
    part = F.avg_pool2d(F.pad(counted, (0, beyond[3] - around[3], 0, beyond[2] - around[2])), kernel, step)
    return replace(result, factor=(1 / part).expand(result.index.shape))


@rule("max_pool2d_with_indices")
def max_pool2d_with_indices(b: Builder, x: Value, *args: Any, **named: Any) -> list[Value]:
    return [max_pool2d(b, x, *args, **named), NO_PLACES]


@rule("max_pool2d")
def max_pool2d(
    b: Builder, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    if pair(dilation) != (1, 1):
        raise NotCanonical("a dilated pool")
    around = _padding(padding, pair(kernel), (1, 1))
    return _pooled(b, as_view(b, x), pair(kernel), pair(stride or kernel), around, "max", ceil_mode)


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(b: Builder, x: Value, size: Any) -> Value:
    return _adaptive(b, as_view(b, x), size, "mean")


@rule("adaptive_max_pool2d")
def adaptive_max_pool2d(b: Builder, x: Value, size: Any) -> list[Value]:
    return [_adaptive(b, as_view(b, x), size, "max"), NO_PLACES]


def _adaptive(b: Builder, x: View, size: Any, kind: str) -> View:
    extents = x.index.shape[-2:]
    wanted = [n if w is None else w for n, w in zip(extents, pair(size), strict=True)]
    if any(n % w for n, w in zip(extents, wanted, strict=True)):
        raise NotCanonical(f"a pool of {list(extents)} to {wanted}: windows of different sizes")
    kernel = extents[0] // wanted[0], extents[1] // wanted[1]
    return x if kernel == (1, 1) else _pooled(b, x, kernel, kernel, (0, 0, 0, 0), kind, False)


def _pooled(b: Builder, x: View, kernel: Pair, step: Pair, around: Four, kind: str, ceil_mode: bool) -> View:
    if ceil_mode:
        around = _to_last(_size(x), kernel, step, around)
    if any(around) and x.index.shape[0] != PROBE:
        raise NotCanonical("a pool with padding over parts of an image")
    windows = Windows.of(b, x, kernel, step, around, (1, 1))
    args = (windows.base.base, *windows.geometry[:-1], kind)
    return windows.spread(b.emit(floatops.pool, args, windows.rows, windows.base.channels))


def _to_last(size: Pair, kernel: Pair, step: Pair, around: Four) -> Four:
    """The padding of a pool in `ceil_mode`: up to the end of the last window that starts in the image or before it."""
    behind = []
    for n, k, s, before, after in zip(size, kernel, step, around[:2], around[2:], strict=True):
        last = min(math.ceil((n + before + after - k) / s), (n + before - 1) // s)
        behind.append(max(after, last * s + k - before - n))
    return around[0], around[1], behind[0], behind[1]


@rule("mean")
def mean(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return reduced(b, as_view(b, x), dim, keepdim, "mean")


@rule("sum")
def total(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """As many times the mean."""
    view = as_view(b, x)
    average = reduced(b, view, dim, keepdim, "mean")
    axes = [dim] if isinstance(dim, int) else list(dim)
    return replace(average, factor=average.factor * math.prod(view.index.shape[axis] for axis in axes))


@rule("amax")
def amax(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return reduced(b, as_view(b, x), dim, keepdim, "max")


@rule("max")
def maximum(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> list[Value]:
    """With an axis; `torch.max` of all elements is one of the batch too."""
    if isinstance(dim, Value):
        raise NotCanonical("no rule for the maximum of two tensors")
    return [reduced(b, as_view(b, x), dim, keepdim, "max"), NO_PLACES]


def reduced(b: Builder, x: View, dim: Any, keepdim: bool, kind: str) -> View:
    """The mean or maximum over axes: of windows of one row, in a map with a row for each of the others."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        raise NotCanonical("a reduction over the batch")
    axes = sorted(axis % x.index.ndim for axis in ([dim] if isinstance(dim, int) else dim))
    batch = batch_axis(x)
    if batch > 0:
        axes = [0 if axis == batch else axis + (axis < batch) for axis in axes]
        result = reduced(b, x.move(lambda t: t.movedim(batch, 0)), axes, keepdim, kind)
        return result.move(lambda t: t.movedim(0, batch if keepdim else batch - sum(axis <= batch for axis in axes)))
    kept = [axis for axis in range(1, x.index.ndim) if axis not in axes]
    if 0 in axes:
        raise NotCanonical("a reduction over the batch")
    channel = _channels_of(x, kept)
    others = [axis for axis in kept if axis != channel]
    order = [0, *others, *axes, *([channel] if channel is not None else [])]
    count = math.prod(x.index.shape[axis] for axis in axes)
    maps = x.index.shape[0] // PROBE
    rows = maps * math.prod(x.index.shape[axis] for axis in others)
    base = b.cut(x.move(lambda t: t.permute(order).reshape(PROBE, rows * count, -1)))
    args = (base.base, (rows, count), (1, count), (1, count), (0, 0, 0, 0), kind)
    result = b.emit(floatops.pool, args, rows, base.channels)
    shape = [x.index.shape[axis] for axis in (0, *others, *([channel] if channel is not None else []))]
    index = result.index.reshape(shape)
    back = sorted(range(len(shape) - 1), key=lambda i: [*others, *([channel] if channel is not None else [])][i])
    index = index.permute(0, *(i + 1 for i in back))
    for axis in axes if keepdim else []:
        index = index.unsqueeze(axis)
    return result.moved(index)


def _channels_of(x: View, kept: list[int]) -> int | None:
    """The axis among those that are kept that goes through channels, else the last of them."""
    for axis in reversed(kept):
        lines = x.index.movedim(axis, -1)
        if lines.shape[-1] > 1 and bool((lines // x.channels == lines[..., :1] // x.channels).all()):
            return axis
    return kept[-1] if kept else None
