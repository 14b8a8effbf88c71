"""Builds the canonical graph: emits float operations, names them after the user's modules, and cuts views to nodes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.frontend.values import PROBE, NotCanonical, View, constant_along, split_index, whole
from intvit.nodes import arguments


class Builder:
    """An fx graph of `intvit.floatops` under construction; `path` is the module that is being translated."""

    def __init__(self) -> None:
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.path = ""
        self._constants: dict[fx.Node, Tensor] = {}

    def constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(self._constants)}"
        self.root.register_buffer(name, tensor.detach().to(torch.float32).contiguous())
        node = self.graph.get_attr(name)
        self._constants[node] = tensor
        return node

    def emit(self, target: Callable[..., Tensor], args: tuple[Any, ...], tokens: int, channels: int) -> View:
        node = self.graph.call_function(target, args)
        node.meta.update(path=self.path, shape=(tokens, channels))
        return whole(node, tokens, channels)

    def linear(self, x: View, weight: Tensor, bias: Tensor | None) -> View:
        """A linear on the whole base of `x`; its rows are those of the base."""
        offset = torch.zeros(weight.shape[0]) if bias is None else bias
        args = (x.base, self.constant(weight * x.factor), self.constant(offset))
        return self.emit(floatops.linear, args, x.tokens, weight.shape[0])

    def scaled(self, x: View, factor: Tensor, offset: Tensor) -> View:
        """`factor · x + offset` per channel of the base, folded into the linears that made it."""
        if x.base.target is floatops.add and all(arm.op == "call_function" for arm in arguments(x.base)):
            first, second = (replace(x, base=arm) for arm in arguments(x.base))
            arms = self.scaled(first, factor, offset), self.scaled(second, factor, torch.zeros_like(offset))
            return replace(x, base=self.emit(floatops.add, tuple(arm.base for arm in arms), x.tokens, x.channels).base)
        if x.base.target is not floatops.linear:
            raise NotCanonical("a per-channel factor can only be folded into the linear or convolution before it")
        source, weight, bias = arguments(x.base)
        channel = factor.double()
        args = (
            source,
            self.constant(self._constants[weight].double() * channel[:, None]),
            self.constant(self._constants[bias].double() * channel + offset.double()),
        )
        return replace(x, base=self.emit(floatops.linear, args, x.tokens, x.channels).base)

    def unscaled(self, x: View) -> View:
        """The view with its scalar factor folded away."""
        if x.factor == 1.0:
            return x
        factor = torch.full((x.channels,), x.factor, dtype=torch.float64)
        return replace(self.scaled(x, factor, torch.zeros(x.channels)), factor=1.0)

    def select_channels(self, x: View, channels: Tensor) -> View:
        """The whole base of `x` with only `channels`, in that order: rows of the weight of the linear before it."""
        if torch.equal(channels, torch.arange(x.channels)):
            return replace(whole(x.base, x.tokens, x.channels), factor=x.factor)
        if x.base.target is not floatops.linear:
            raise NotCanonical("channels can only be selected or reordered right behind a linear")
        source, weight, bias = arguments(x.base)
        args = (
            source,
            self.constant(self._constants[weight][channels]),
            self.constant(self._constants[bias][channels]),
        )
        return replace(self.emit(floatops.linear, args, x.tokens, len(channels)), factor=x.factor)

    def select_tokens(self, x: View, tokens: Tensor) -> View:
        """The whole base of `x` with only the consecutive `tokens`."""
        if torch.equal(tokens, torch.arange(x.tokens)):
            return replace(whole(x.base, x.tokens, x.channels), factor=x.factor)
        start, stop = int(tokens[0]), int(tokens[-1]) + 1
        if not torch.equal(tokens, torch.arange(start, stop)):
            raise NotCanonical("tokens are reordered or picked apart")
        return replace(
            self.emit(floatops.select_tokens, (x.base, start, stop), stop - start, x.channels), factor=x.factor
        )

    def rows(self, x: View) -> tuple[View, Tensor]:
        """The base that holds just the rows of `x` (any order, all channels of the last axis), and each row's place.

        The place is a tensor of the shape of `x` without its last axis: the row of the new base, batch included.
        """
        row, channel = split_index(x)
        if not constant_along(row, -1) or not constant_along(channel, *range(channel.ndim - 1)):
            raise NotCanonical("rows are mixed across tokens")
        row, channel = row[..., 0], channel.reshape(-1, channel.shape[-1])[0]
        picked = row.flatten().sort().values
        token = picked[: len(picked) // PROBE]
        if not torch.equal(picked, torch.cat([token + b * x.tokens for b in range(PROBE)])):
            raise NotCanonical("images of a batch are mixed or repeated")
        base = self.select_channels(self.select_tokens(x, token), channel)
        place = row // x.tokens * len(token) + row % x.tokens - token[0]
        return base, place

    def cut(self, x: View) -> View:
        """The canonical node that holds just the elements of `x`, in its order: `[B, tokens, last]`."""
        base, place = self.rows(x)
        if not torch.equal(place.flatten(), torch.arange(place.numel())):
            raise NotCanonical("tokens are reordered")
        return self.unscaled(base)


def placed(base: View, place: Tensor) -> View:
    """The view whose rows lie at `place` in the whole `base`: the inverse of `Builder.rows`."""
    return base.moved(place[..., None] * base.channels + torch.arange(base.channels))
