"""Lazy values as views: a function, a norm, scores or probabilities that something else reads than was hoped for."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from intvit import floatops
from intvit.frontend.builder import Builder
from intvit.frontend.matrices import scores_view, softmax_view
from intvit.frontend.values import (
    PROBE,
    Constant,
    Layout,
    Mapped,
    NotCanonical,
    Probabilities,
    Scores,
    View,
    constant_along,
)
from intvit.pointwise import Function, evaluate

LINEAR_STEPS = {"add", "sub", "mul", "div", "neg"}
PROBES = torch.linspace(-8, 8, 1001, dtype=torch.float64)
GELU_TOLERANCE = 1e-3
"""Between the exact GELU and its form with tanh there is 0.0005."""


def as_view(b: Builder, value: Any) -> View:
    """The view that a value is or becomes, of the image its pixels. Raises `NotCanonical` for what depends on none."""
    if isinstance(value, View):
        return b.of_pixels(value)
    with b.making(value):
        return _made(b, value)


def _made(b: Builder, value: Any) -> View:
    if isinstance(value, Mapped):
        return mapped_view(b, value)
    if isinstance(value, Scores):
        return scores_view(b, value)
    if isinstance(value, Probabilities):
        rows = softmax_view(b, scores_view(b, value.scores))
        return rows.move(lambda t: t.mT) if value.transposed else rows
    raise NotCanonical("expects a token tensor here")


def as_tensor(value: Any) -> Tensor:
    """The tensor of a constant or a number."""
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise NotCanonical("expects a constant here, not a tensor that depends on the image")


def mapped_view(b: Builder, value: Mapped) -> View:
    """A function of the whole base of a view; what is a factor and an offset is folded into what made it."""
    x, function = b.of_pixels(value.view), value.function
    line = straight_line(function)
    if line is not None:
        factor, offset = line
        scaled = replace(x, factor=factor)
        if offset == 0:
            return scaled
        x = unscaled(b, scaled)
        if bool((x.index < 0).any()):
            x = b.cut(x)
        offsets = torch.full((x.channels,), offset)
        return replace(b.scaled(x, torch.ones(x.channels), offsets), index=x.index)
    if bool((x.index < 0).any()) or 2 * x.index.numel() <= PROBE * x.tokens * x.channels:
        x = canonical(b, x)
    if is_gelu(function):
        made = b.once((x.base, "gelu"), lambda: b.emit(floatops.gelu, (x.base,), *x.shape))
    else:
        made = b.once((x.base, function), lambda: b.emit(floatops.pointwise, (x.base, function), *x.shape))
    return replace(x, base=made.base)


def unscaled(b: Builder, x: View) -> View:
    """The same elements with no factor left, in any order."""
    return b.unscaled(evenly_scaled(b, x))


def evenly_scaled(b: Builder, x: View) -> View:
    """The same elements with one factor for all of them, in any order."""
    return canonical(b, x) if isinstance(x.factor, Tensor) else x


def canonical(b: Builder, x: View, *channels: int) -> View:
    """The same elements as a whole node of its own, whose channels are those axes, or else what `Layout` finds."""
    layout = Layout(tuple(x.index.shape), channels) if channels else Layout.of(x)
    return b.cut(x.move(layout.rows)).move(layout.back)


def straight_line(function: Function) -> tuple[float, float] | None:
    """Factor and offset of a function that is `factor · x + offset`."""
    if not {str(step[0]) for step in function} <= LINEAR_STEPS:
        return None
    at = torch.tensor([0.0, 1.0, -3.0, 7.0], dtype=torch.float64)
    y = evaluate(function, at)
    factor, offset = float(y[1] - y[0]), float(y[0])
    return (factor, offset) if torch.allclose(y, factor * at + offset, rtol=1e-9, atol=1e-12) else None


def is_gelu(function: Function) -> bool:
    """Whether a function is GELU, whatever it is made of."""
    expected = torch.nn.functional.gelu(PROBES)
    return bool(((evaluate(function, PROBES) - expected).abs() < GELU_TOLERANCE).all())


def aligned(b: Builder, x: View, y: View, *, broadcast: bool) -> tuple[View, View]:
    """Two views that broadcast: the first as the whole of its base, the second cut to lie as the first does there.

    With `broadcast` the second has one token where it is the same for all of them.
    """
    x, other = _alongside(b, x, y)
    if broadcast and constant_along(other.index, 1) and not isinstance(other.factor, Tensor):
        other = other.move(lambda t: t[:, :1])
    return x, b.cut(other)


def aligned_in_blocks(b: Builder, x: View, y: View) -> tuple[View, View]:
    """`aligned`, the second with one channel for each block of neighbouring channels of the first where it is equal."""
    x, other = _alongside(b, x, y)
    blocks = next(g for g in range(1, x.channels + 1) if x.channels % g == 0 and _equal_in_blocks(other, g))
    return x, b.cut(other.move(lambda t: t[..., :: x.channels // blocks]))


def _equal_in_blocks(x: View, blocks: int) -> bool:
    tensors = [t for t in (x.index, x.factor) if isinstance(t, Tensor)]
    return all(constant_along(t.unflatten(-1, (blocks, -1)), -1) for t in tensors)


def _alongside(b: Builder, x: View, y: View) -> tuple[View, View]:
    """The first as the whole of its base, and what the second has for each of its elements, `[PROBE, *x.shape]`."""
    shape = torch.broadcast_shapes(x.index.shape, y.index.shape)
    x, y = (v.move(lambda t: t.expand(shape)) for v in (x, y))
    x = x if x.is_whole() and not isinstance(x.factor, Tensor) else canonical(b, x)
    place = x.index.flatten()

    def like_first(t: Tensor) -> Tensor:
        found = torch.empty(place.numel(), dtype=t.dtype)
        found[place] = t.flatten()
        return found.reshape(PROBE, *x.shape)

    return x, y.move(like_first)


def in_base(x: View, constant: Tensor) -> Tensor:
    """A constant that meets the whole `x`, as it lies over the base of `x`: `[tokens, channels]`."""
    over = constant.to(torch.float32).expand(x.index.shape)
    spread = torch.empty(x.index.numel())
    spread[x.index.flatten()] = over.flatten()
    spread = spread.reshape(PROBE, *x.shape)
    if not constant_along(spread, 0):
        raise NotCanonical("a constant differs between the images of a batch")
    return spread[0]


def embedded(b: Builder, constant: Tensor, beside: View) -> View:
    """A constant `[N, ..., C]` as a computed tensor; `beside` is any other, which knows the batch."""
    by_image = constant.unflatten(0, (PROBE, -1)) if constant.shape[0] % PROBE == 0 else constant[None]
    if not constant_along(by_image, 0) or constant.shape[0] % PROBE:
        raise NotCanonical("a constant differs between the images of a batch")
    values = by_image[0].reshape(-1, constant.shape[-1])
    behind = beside.tokens * beside.channels
    local = torch.arange(values.numel()).reshape(values.shape) + behind
    view = b.gathered([beside.base, b.constant(values)], local)
    return view.moved(view.index.reshape(constant.shape))
