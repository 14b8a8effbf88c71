"""What only moves values: run on index maps. Concatenation and padding, which bring in other tensors and zeros."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from intvit import floatops
from intvit.frontend.builder import Builder, zero_padded
from intvit.frontend.materialize import as_tensor, as_view, canonical
from intvit.frontend.rules.elementwise import add
from intvit.frontend.rules.registry import rule
from intvit.frontend.values import (
    PROBE,
    ZERO,
    Constant,
    Layout,
    NotCanonical,
    Value,
    View,
    batch_axis,
    constant_along,
    in_one_image,
    shape_of,
)

MOVEMENT = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "flatten", "unflatten", "squeeze",
            "unsqueeze", "select", "slice", "unbind", "split", "split_with_sizes", "chunk", "narrow", "expand",
            "expand_as", "movedim", "moveaxis", "swapaxes", "swapdims", "mT", "flip", "roll", "repeat", "tile",
            "repeat_interleave", "index_select", "index", "_unsafe_index", "gather", "pixel_shuffle", "pixel_unshuffle",
            "channel_shuffle", "view_as", "reshape_as", "unfold", "tensor_split", "rot90", "ravel", "diagonal",
            "numpy_T", "hsplit", "vsplit", "column_stack"}  # fmt: skip
AS_NUMBERS = {"im2col", "col2im", "upsample_nearest2d", "upsample_nearest1d", "_upsample_nearest_exact2d"}
"""Movements that torch runs on floating-point numbers only."""


def move(name: str, target: Callable[..., Any], value: Any, args: Any, kwargs: Any) -> Any:
    """The result of a movement of a value; None where the value cannot move as what it is."""
    if name == "col2im" and (list(args[1]) != list(args[4]) or set(args[2]) != {1}):
        raise NotCanonical("a fold of windows that overlap")
    function: Callable[..., Any] = torch.reshape if name in ("view", "_unsafe_view") else target
    given = [_plain(argument) for argument in args]
    named = {key: _plain(argument) for key, argument in kwargs.items()}

    def run(t: Tensor) -> Any:
        if name not in AS_NUMBERS:
            return function(t, *given, **named)
        shifted = function(t.double() - ZERO, *given, **named) + ZERO  # so that the zeros that it brings in are `ZERO`
        return (shifted if t.is_floating_point() else shifted.round()).to(t.dtype)

    probe = run(torch.zeros(shape_of(value), dtype=torch.long))
    if isinstance(probe, Tensor):
        return value.move(run)
    moved = [value.move(lambda t, i=i: run(t)[i]) for i in range(len(probe))]
    return None if any(m is None for m in moved) else moved


def _plain(argument: Any) -> Any:
    """An argument as torch takes it; of a tensor that depends on the image, one of its shape."""
    if isinstance(argument, Constant):
        return argument.tensor
    if isinstance(argument, list | tuple):
        return type(argument)(_plain(a) for a in argument)
    return torch.empty(shape_of(argument)) if isinstance(argument, Value) else argument


@rule("cat", "concat", "concatenate")
def cat(b: Builder, tensors: list[Value], dim: int = 0) -> Value:
    """Constant tokens before those of the image; else any tensors, one behind the other."""
    parts = [t if isinstance(t, Constant) else as_view(b, t) for t in tensors]
    parts = [p for p in parts if not (isinstance(p, Constant) and p.tensor.numel() == 0)]
    leader = next(p for p in parts if isinstance(p, View))
    axis, batch = dim % leader.index.ndim, batch_axis(leader)
    if batch > 0:
        moved: list[Value] = [_batch_first(p, batch) for p in parts]
        result = cat(b, moved, 0 if axis == batch else axis + (axis < batch))
        return as_view(b, result).move(lambda t: t.movedim(0, batch))
    if axis == 0:
        raise NotCanonical("a concatenation of images of a batch")
    return _constants_first(b, parts, axis) or _same_base(parts, axis) or _joined(b, parts, axis)


def _batch_first(part: Constant | View, batch: int) -> Constant | View:
    if isinstance(part, Constant):
        return Constant(part.tensor.movedim(batch, 0))
    return part.move(lambda t: t.movedim(batch, 0))


@rule("stack")
def stack(b: Builder, tensors: list[Value], dim: int = 0) -> Value:
    parts = [t if isinstance(t, Constant) else as_view(b, t) for t in tensors]
    axis = dim % (1 + next(p.index.ndim for p in parts if isinstance(p, View)))
    widened: list[Value] = [
        Constant(p.tensor.unsqueeze(axis)) if isinstance(p, Constant) else p.move(lambda t: t.unsqueeze(axis))
        for p in parts
    ]
    return cat(b, widened, axis)


def _constants_first(b: Builder, parts: list[Constant | View], axis: int) -> View | None:
    *first, last = parts
    if axis != 1 or not isinstance(last, View) or not first:
        return None
    if last.index.ndim != 3 or last.index.shape[0] != PROBE:
        return None
    constants = [p.tensor for p in first if isinstance(p, Constant)]
    if len(constants) != len(first) or any(t.ndim != 3 or not constant_along(t, 0) for t in constants):
        return None
    base = b.cut(last)
    constant = torch.cat([t[0] for t in constants])
    args = (b.constant(constant), base.base)
    return b.emit(floatops.concat_tokens, args, constant.shape[0] + base.tokens, base.channels)


def _same_base(parts: list[Constant | View], axis: int) -> View | None:
    """Parts of one tensor, with a factor for each element where theirs differ."""
    views = [p for p in parts if isinstance(p, View)]
    if len(views) < len(parts) or any(v.base is not views[0].base for v in views):
        return None
    index = torch.cat([v.index for v in views], axis)
    factors = [v.factor for v in views]
    if all(not isinstance(f, Tensor) and f == factors[0] for f in factors):
        return replace(views[0], index=index)
    spread = [
        (v.factor if isinstance(v.factor, Tensor) else torch.tensor(float(v.factor))).expand(v.index.shape)
        for v in views
    ]
    return replace(views[0], index=index, factor=torch.cat(spread, axis))


def _joined(b: Builder, parts: list[Constant | View], axis: int) -> View:
    """One movement of all parts; its channels are where those of the first computed part are."""
    leader = next(p for p in parts if isinstance(p, View))
    count = leader.index.shape[0]
    if count != PROBE:
        return _joined(b, [_by_image(p, count) for p in parts], axis + 1).move(lambda t: t.flatten(0, 1))
    layout = replace(Layout.of(leader), shape=_joined_shape(parts, axis))
    sources: list[fx.Node] = []
    numbers, end = [], 0
    for part in parts:
        if isinstance(part, Constant):
            node, local, size = _constant_part(b, part.tensor, layout)
        else:
            small = 2 * part.index.numel() <= PROBE * part.tokens * part.channels
            plain = b.unscaled(canonical(b, part) if small or isinstance(part.factor, Tensor) else part)
            node, local, size = plain.base, in_one_image(plain), plain.tokens * plain.channels
        if node in sources:
            before = sum(_size(b, s) for s in sources[: sources.index(node)])
        else:
            before, end = end, end + size
            sources.append(node)
        numbers.append(torch.where(local < 0, local, local + before))
    joined = torch.cat(numbers, axis - 1)
    result = b.gathered(sources, layout.rows(joined.expand(PROBE, *joined.shape))[0])
    return result.move(layout.back)


def _joined_shape(parts: list[Constant | View], axis: int) -> tuple[int, ...]:
    shapes = [shape_of(part) for part in parts]
    leader = next(shape_of(part) for part in parts if isinstance(part, View))
    return (*leader[:axis], sum(shape[axis] for shape in shapes), *leader[axis + 1 :])


def _by_image(part: Constant | View, count: int) -> Constant | View:
    """Parts of images `[N, ...]` as `[PROBE, N / PROBE, ...]`."""
    if isinstance(part, Constant):
        whole = part.tensor.expand(count, *part.tensor.shape[1:])
        return Constant(whole.unflatten(0, (PROBE, -1)))
    return part.move(lambda t: t.unflatten(0, (PROBE, -1)))


def _size(b: Builder, node: Any) -> int:
    tokens, channels = b.shape_of(node)
    return tokens * channels


def _constant_part(b: Builder, tensor: Tensor, layout: Layout) -> tuple[Any, Tensor, int]:
    if tensor.shape[0] != 1 and not constant_along(tensor, 0):
        raise NotCanonical("a constant differs between the images of a batch")
    own = replace(layout, shape=(PROBE, *tensor.shape[1:]))
    node = b.constant(own.rows(tensor[:1].expand(own.shape))[0])
    size = tensor[0].numel()
    numbers = torch.arange(size).reshape(own.rows(torch.empty(own.shape))[0].shape)
    return node, own.back(numbers.expand(PROBE, *numbers.shape))[0], size


@rule("pad", "constant_pad_nd")
def pad(b: Builder, x: Value, pads: list[int], mode: Any = "constant", value: Any = None) -> Value:
    """Zeros around a tensor; another constant is added to them; `reflect` and `replicate` are movements."""
    view = as_view(b, x)
    if isinstance(mode, int | float):
        mode, value = "constant", mode
    if mode != "constant":
        return view.move(lambda t: F.pad(t.double(), pads, mode=mode).to(t.dtype))
    padded = zero_padded(view, pads)
    number = 0.0 if value is None else float(as_tensor(value))
    if number == 0:
        return padded
    return add(b, padded, Constant(F.pad(torch.zeros(view.index.shape), pads, value=number)))
