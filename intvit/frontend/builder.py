"""Builds the canonical graph: emits float operations, names them after the user's modules, and cuts views to nodes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from intvit import floatops
from intvit.frontend.values import PROBE, ZERO, NotCanonical, View, constant_along, in_one_image, whole
from intvit.nodes import arguments

FOLDS_FACTOR = (floatops.linear, floatops.depthwise, floatops.layer_norm, floatops.group_norm)
"""Operations whose last two constants are a weight and a bias per channel of the result."""


class Builder:
    """An fx graph of `intvit.floatops` under construction; `path` is the module that is being translated."""

    def __init__(self) -> None:
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.path = ""
        self.emitted: list[tuple[fx.Node, object]] = []
        self.remade: dict[fx.Node, fx.Node] = {}
        self._making: object = None
        self._constants: dict[fx.Node, Tensor] = {}
        self._tables: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._made: dict[Any, fx.Node] = {}

    # Nodes

    def constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(self._constants)}"
        self.root.register_buffer(name, tensor.detach().to(torch.float32).contiguous())
        node = self.graph.get_attr(name)
        self._constants[node] = tensor
        return node

    def table(self, index: Tensor) -> fx.Node:
        """A constant of int32; equal ones are kept once."""
        index = index.to(torch.int32).contiguous()
        key = (tuple(index.shape), index.numpy().tobytes())
        if key not in self._tables:
            self._tables[key] = f"index_{len(self._tables)}"
            self.root.register_buffer(self._tables[key], index)
        return self.graph.get_attr(self._tables[key])

    def emit(self, target: Callable[..., Tensor], args: tuple[Any, ...], tokens: int, channels: int) -> View:
        node = self.graph.call_function(target, args)
        node.meta.update(path=self.path, shape=(tokens, channels))
        self.emitted.append((node, self._making))
        return whole(node, tokens, channels)

    @contextmanager
    def making(self, value: object) -> Iterator[None]:
        """What is emitted is that of a lazy value, not of the operation that reads it."""
        before, self._making = self._making, value
        try:
            yield
        finally:
            self._making = before

    def once(self, key: Any, make: Callable[[], View]) -> View:
        """What `make` emits, the first time that it is asked for by this key."""
        if key not in self._made:
            self._made[key] = make().base
        node = self._made[key]
        return whole(node, *node.meta["shape"])

    # Factors

    def linear(self, x: View, weight: Tensor, bias: Tensor | None) -> View:
        """A linear on the whole base of `x`; its rows are those of the base."""
        offset = torch.zeros(weight.shape[0]) if bias is None else bias
        args = (x.base, self.constant(weight * x.factor), self.constant(offset))
        return self.emit(floatops.linear, args, x.tokens, weight.shape[0])

    def scaled(self, x: View, factor: Tensor, offset: Tensor) -> View:
        """`factor · x + offset` per channel of the base, folded into what made it where that is possible."""
        if x.base.target is floatops.add and all(self._folds(arm) for arm in arguments(x.base)):
            first, second = (replace(x, base=arm) for arm in arguments(x.base))
            arms = self.scaled(first, factor, offset), self.scaled(second, factor, torch.zeros_like(offset))
            return replace(x, base=self._again(x.base, tuple(arm.base for arm in arms), x.channels).base)
        if not self._folds(x.base):
            return self._multiplied(x, factor, offset)
        source, weight, bias, *rest = arguments(x.base)
        channel = factor.double()
        per_row = channel[:, None] if x.base.target is floatops.linear else channel
        args = (
            source,
            self.constant(self._constants[weight].double() * per_row),
            self.constant(self._constants[bias].double() * channel + offset.double()),
            *rest,
        )
        return replace(x, base=self._again(x.base, args, x.channels).base)

    def _folds(self, node: fx.Node) -> bool:
        return node.target in FOLDS_FACTOR

    def _again(self, node: fx.Node, args: tuple[Any, ...], channels: int) -> View:
        """An operation like that of `node`, with other arguments."""
        target: Any = node.target
        made = self.emit(target, args, node.meta["shape"][0], channels)
        self.remade[made.base] = node
        return made

    def _multiplied(self, x: View, factor: Tensor, offset: Tensor) -> View:
        result = x
        if bool((factor != 1).any()):
            args = (x.base, self.constant(factor.reshape(1, -1)))
            result = replace(x, base=self.emit(floatops.multiply, args, x.tokens, x.channels).base)
        if bool((offset != 0).any()):
            args = (result.base, self.constant(offset.expand(x.tokens, x.channels)))
            result = replace(x, base=self.emit(floatops.add, args, x.tokens, x.channels).base)
        return result

    def unscaled(self, x: View) -> View:
        """The view with the one factor of all elements folded away."""
        if isinstance(x.factor, Tensor):
            raise AssertionError("a factor for each element is folded by `cut`")
        if x.factor == 1.0:
            return x
        factor = torch.full((x.channels,), x.factor, dtype=torch.float64)

        def make() -> View:
            return self.scaled(whole(x.base, x.tokens, x.channels), factor, torch.zeros(x.channels))

        return replace(x, base=self.once((x.base, "factor", x.factor), make).base, factor=1.0)

    # Movement

    def select_channels(self, x: View, channels: Tensor) -> View:
        """The whole base of `x` with only `channels`, in that order: rows of a linear's weight, or a movement."""
        if torch.equal(channels, torch.arange(x.channels)):
            return replace(whole(x.base, x.tokens, x.channels), factor=x.factor)
        key = (x.base, "channels", channels.numpy().tobytes())
        return replace(self.once(key, lambda: self._selected(x, channels)), factor=x.factor)

    def _selected(self, x: View, channels: Tensor) -> View:
        if x.base.target is not floatops.linear:
            local = torch.arange(x.tokens)[:, None] * x.channels + channels
            return self.gathered([x.base], local)
        source, weight, bias = arguments(x.base)
        args = (
            source,
            self.constant(self._constants[weight][channels]),
            self.constant(self._constants[bias][channels]),
        )
        return self._again(x.base, args, len(channels))

    def select_tokens(self, x: View, tokens: Tensor) -> View:
        """The whole base of `x` with only `tokens`, in that order."""
        if torch.equal(tokens, torch.arange(x.tokens)):
            return replace(whole(x.base, x.tokens, x.channels), factor=x.factor)
        start = int(tokens[0])
        moved = x.base.target is floatops.rearrange
        if not moved and torch.equal(tokens, torch.arange(len(tokens)) + start):
            args = (x.base, start, start + len(tokens))
            picked = self.emit(floatops.select_tokens, args, len(tokens), x.channels)
        else:
            picked = self.gathered([x.base], tokens[:, None] * x.channels + torch.arange(x.channels))
        return replace(picked, factor=x.factor)

    def rows(self, x: View) -> tuple[View, Tensor]:
        """The base that holds just the rows of `x` (any order, all channels of the last axis), and each row's place.

        The place is a tensor of the shape of `x` without its last axis: the row of the new base, batch included.
        """
        return self._rows_in_place(x) or self._rows_in_order(x)

    def _rows_in_place(self, x: View) -> tuple[View, Tensor] | None:
        """Rows of consecutive tokens, each once: they need not be moved."""
        row, channel = x.index // x.channels, x.index % x.channels
        if isinstance(x.factor, Tensor) or bool((x.index < 0).any()):
            return None
        if not constant_along(row, -1) or not constant_along(channel, *range(channel.ndim - 1)):
            return None
        row, channel = row[..., 0], channel.reshape(-1, channel.shape[-1])[0]
        picked = row.flatten().sort().values
        token = picked[: len(picked) // PROBE]
        expected = torch.cat([token + b * x.tokens for b in range(PROBE)])
        if not torch.equal(picked, expected) or not torch.equal(token, torch.arange(len(token)) + token[0]):
            return None
        base = self.select_channels(self.select_tokens(x, token), channel)
        place = row // x.tokens * len(token) + row % x.tokens - token[0]
        return base, place

    def _rows_in_order(self, x: View) -> tuple[View, Tensor]:
        base = self.cut(x)
        return base, torch.arange(PROBE * base.tokens).reshape(x.index.shape[:-1])

    def cut(self, x: View) -> View:
        """The canonical node that holds just the elements of `x`, in its order: `[B, tokens, last]`."""
        flat = self.of_pixels(x).move(lambda t: t.reshape(PROBE, -1, t.shape[-1] if t.ndim > 1 else 1))
        local = in_one_image(flat)
        if not isinstance(flat.factor, Tensor):
            return self.unscaled(self._arranged(flat, local))
        if not constant_along(flat.factor, 0):
            raise NotCanonical("a constant differs between the images of a batch")
        base, factor = self._arranged(replace(flat, factor=1.0), local), flat.factor[0]
        if bool((factor == 1).all()):
            return base
        if constant_along(factor, 0):
            return self.scaled(base, factor[0], torch.zeros(base.channels))
        return self.emit(floatops.multiply, (base.base, self.constant(factor)), base.tokens, base.channels)

    def of_pixels(self, x: View) -> View:
        """A view of the image `[C, H·W]` as one of its pixels `[H·W, C]`; any other as it is."""
        if x.base.op != "placeholder":
            return x
        channels, count = x.shape
        base = self.once((x.base, "pixels"), lambda: self.emit(floatops.patchify, (x.base, 1, 1), count, channels))
        channel, pixel = x.index // count % channels, x.index % count
        index = (x.index // (channels * count) * count + pixel) * channels + channel
        return replace(base, index=torch.where(x.index < 0, x.index, index), factor=x.factor)

    def _arranged(self, x: View, local: Tensor) -> View:
        row, channel = local // x.channels, local % x.channels
        if bool((local >= 0).all()) and constant_along(row, 1) and constant_along(channel, 0):
            return self.select_tokens(self.select_channels(x, channel[0]), row[:, 0])
        return replace(self.gathered([x.base], local), factor=x.factor)

    def gathered(self, sources: Sequence[fx.Node], local: Tensor) -> View:
        """Elements `local` `[T, C]` of nodes and constants, which are numbered one after the other; some are `ZERO`."""
        if len(sources) == 1 and sources[0].target is floatops.rearrange:
            return self.gathered(*self._through(sources[0], local))
        shapes = [self.shape_of(source) for source in sources]
        chunk = block_size(local, gcd(local.shape[1], *(c for _, c in shapes)))
        ends = [0, *accumulate(t * c for t, c in shapes)]
        blocks = local[:, ::chunk]
        index = torch.where(blocks < 0, ends[-1], blocks) // chunk
        operands = list(sources)
        if bool((blocks < 0).any()):
            operands.append(self.constant(torch.zeros(1, chunk)))
        key = (tuple(sources), index.numpy().tobytes(), tuple(index.shape), chunk)
        args = (tuple(operands), self.table(index), chunk)
        return self.once(key, lambda: self.emit(floatops.rearrange, args, *local.shape))

    def _through(self, moved: fx.Node, local: Tensor) -> tuple[list[fx.Node], Tensor]:
        """What was moved already, taken from where it was before."""
        sources, table, chunk = arguments(moved)
        index = self.root.get_buffer(table.target).long()
        before = (index[:, :, None] * chunk + torch.arange(chunk)).flatten()
        return list(sources), torch.where(local < 0, local, before[local.clamp(min=0)])

    def shape_of(self, node: fx.Node) -> tuple[int, int]:
        """`[tokens, channels]` of a node or a constant."""
        tokens, channels = self._constants[node].shape if node in self._constants else node.meta["shape"]
        return int(tokens), int(channels)


def zero_padded(x: View, pads: Sequence[int]) -> View:
    """Zeros around the last axes of a view, as `torch.nn.functional.pad` counts them."""
    factor = x.factor
    if isinstance(factor, Tensor):
        factor = F.pad(factor.expand(x.index.shape), list(pads), value=1.0)
    return replace(x, index=F.pad(x.index, list(pads), value=ZERO), factor=factor)


def block_size(local: Tensor, largest: int) -> int:
    """The size of the largest blocks, a divisor of `largest`, that stay together in a movement `[T, C]`."""
    for size in range(largest, 1, -1):
        if largest % size == 0 and _stays_together(local.reshape(local.shape[0], -1, size)):
            return size
    return 1


def _stays_together(blocks: Tensor) -> bool:
    first = blocks[..., :1]
    if bool(((first >= 0) & (first % blocks.shape[-1] != 0)).any()):
        return False
    along = torch.where(first < 0, ZERO, first + torch.arange(blocks.shape[-1]))
    return torch.equal(blocks, along)


def placed(base: View, place: Tensor) -> View:
    """The view whose rows lie at `place` in the whole `base`: the inverse of `Builder.rows`."""
    return base.moved(place[..., None] * base.channels + torch.arange(base.channels))
