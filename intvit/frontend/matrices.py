"""Batches of matrices inside token tensors: heads and windows of an attention, however a model splits them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intvit import floatops
from intvit.frontend.builder import Builder
from intvit.frontend.values import PROBE, NotCanonical, Probabilities, Scores, View, constant_along, whole


@dataclass(frozen=True)
class Grouping:
    """How the `N` matrices of a batch are windows and heads: `place` `[PROBE, W, H]` holds their numbers."""

    place: Tensor

    @property
    def windows(self) -> int:
        return self.place.shape[1]

    @property
    def heads(self) -> int:
        return self.place.shape[2]

    @classmethod
    def of(cls, scores: Scores) -> "Grouping":
        """Matrices of the same tokens are heads; where tokens tell nothing, the last axis of their order is."""
        image = scores.q.index.flatten(1).amax(1) // (scores.q.tokens * scores.q.channels)
        by_image = image.argsort(stable=True).reshape(PROBE, -1)
        if not bool((image[by_image] == torch.arange(PROBE)[:, None]).all()):
            raise NotCanonical("attention that mixes the images of a batch")
        found = cls._by_tokens(scores, by_image)
        if found is not None:
            return found
        order = scores.order.reshape(PROBE, -1, scores.order.shape[-1] if scores.order.ndim > 1 else 1)
        return cls(order)

    @classmethod
    def _by_tokens(cls, scores: Scores, by_image: Tensor) -> "Grouping | None":
        found = []
        for numbers in by_image:
            signature = torch.cat([_tokens(scores.q, numbers), _tokens(scores.k, numbers)], 1)
            if bool((signature < 0).any()):
                return None
            window = kinds_of(signature)
            windows = int(window.max()) + 1
            if len(numbers) % windows or bool((window.bincount() != len(numbers) // windows).any()):
                return None
            found.append(numbers[window.argsort(stable=True)].reshape(windows, -1))
        return cls(torch.stack(found))

    def cut(self, b: Builder, x: View) -> View:
        """Matrices `[N, T, D]` as a token tensor `[B, W·T, H·D]`."""
        picked = x.move(lambda t: t[self.place].transpose(2, 3).flatten(3).flatten(1, 2))
        return b.cut(picked)

    def spread(self, result: View) -> View:
        """A token tensor `[B, W·T, H·E]` as matrices `[N, T, E]`."""
        blocks = result.index.unflatten(1, (self.windows, -1)).unflatten(3, (self.heads, -1)).transpose(2, 3)
        index = torch.empty(self.place.numel(), *blocks.shape[3:], dtype=torch.long)
        index[self.place.flatten()] = blocks.flatten(0, 2)
        return result.moved(index)

    def has_factors_by_head(self, factor: float | Tensor) -> bool:
        """Whether the factor of a matrix is that of its head, in all windows."""
        return not isinstance(factor, Tensor) or constant_along(factor[self.place], 0, 1)

    def by_head(self, factor: float | Tensor) -> float | tuple[float, ...] | None:
        """The factor of each head, from that of each matrix; None where it differs between windows."""
        if not isinstance(factor, Tensor):
            return factor
        heads = factor[self.place]
        if not constant_along(heads, 0, 1):
            return None
        first = heads[0, 0]
        return float(first[0]) if constant_along(first, 0) else tuple(float(f) for f in first)


def times_matrix(x: View, factor: float | Tensor) -> View:
    """Matrices `[N, T, D]`, each with a factor of its own."""
    own = torch.as_tensor(x.factor) * torch.as_tensor(factor).reshape(-1, 1, 1)
    return replace(x, factor=own.expand(x.index.shape))


def _tokens(x: View, numbers: Tensor) -> Tensor:
    """The row of each line of some matrices, negative where a line has more than one."""
    rows = torch.where(x.index[numbers] < 0, -1, x.index[numbers] // x.channels)
    return torch.where((rows == rows[..., :1]).all(-1), rows[..., 0], -1)


def attention(b: Builder, probabilities: Probabilities, v: View) -> View:
    """Queries, keys and values cut to token tensors with head-major channels, then one `attention`."""
    scores = probabilities.scores
    values = v.move(lambda t: scores.by_matrix(t.expand(*scores.order.shape, *t.shape[-2:])))
    grouping = Grouping.of(scores)
    if not grouping.has_factors_by_head(scores.factor):
        scores = _with_factor_in_queries(scores)
    factor, queries = grouping.by_head(scores.factor), scores.q
    if factor is None:
        factor, queries = 1.0, times_matrix(queries, scores.factor)
    q, k, values = (grouping.cut(b, x) for x in (queries, scores.k, values))
    args = (q.base, k.base, values.base, grouping.heads, factor)
    if grouping.windows > 1 or scores.bias is not None:
        args = (*args, grouping.windows, *_bias(b, scores, grouping))  # type: ignore[assignment]
    result = b.emit(floatops.attention, args, q.tokens, values.channels)
    return grouping.spread(result).move(lambda t: t[scores.order])


def _with_factor_in_queries(scores: Scores) -> Scores:
    """The factor of each matrix at its queries, where windows differ in it."""
    q, factor = scores.q, torch.as_tensor(scores.factor)
    return replace(scores, q=replace(q, factor=(q.factor * factor[:, None, None]).expand(q.index.shape)), factor=1.0)


def _bias(b: Builder, scores: Scores, grouping: Grouping) -> tuple[object, ...]:
    """The kinds of bias `[K, H or 1, T, S]` and the kind of each window."""
    if scores.bias is None:
        return None, ()
    bias = scores.bias[grouping.place]
    if not constant_along(bias, 0):
        raise NotCanonical("a bias on attention scores differs between the images of a batch")
    by_window = bias[0]
    if constant_along(by_window, 1):
        by_window = by_window[:, :1]
    kind = kinds_of(by_window)
    firsts = [int((kind == i).nonzero()[0]) for i in range(int(kind.max()) + 1)]
    return b.constant(by_window[firsts]), tuple(int(i) for i in kind)


def kinds_of(rows: Tensor) -> Tensor:
    """Equal rows have equal numbers, in the order in which they first come."""
    numbers: dict[bytes, int] = {}
    unsigned = rows.contiguous() + 0  # -0.0 is 0.0 here
    return torch.tensor([numbers.setdefault(row.numpy().tobytes(), len(numbers)) for row in unsigned])


def scores_view(b: Builder, scores: Scores) -> View:
    """Scores that something else than a softmax reads: a product of their own."""
    grouping = Grouping(scores.order.reshape(PROBE, -1, 1))
    left, right = (grouping.cut(b, x) for x in (scores.q, scores.k))
    groups = grouping.windows
    result = b.emit(floatops.product, (left.base, right.base, groups), left.tokens, right.tokens // groups)
    view = grouping.spread(result).move(lambda t: t[scores.order])
    if isinstance(scores.factor, Tensor):
        view = replace(view, factor=scores.factor[scores.order][..., None, None].expand(view.index.shape))
    else:
        view = replace(view, factor=scores.factor)
    if scores.bias is None:
        return view
    base = b.cut(view)
    bias = scores.bias[scores.order].reshape(PROBE, *base.shape)
    if not constant_along(bias, 0):
        raise NotCanonical("a bias on attention scores differs between the images of a batch")
    biased = b.emit(floatops.add, (base.base, b.constant(bias[0])), *base.shape)
    return biased.moved(biased.index.reshape(view.index.shape))


def softmax_view(b: Builder, x: View) -> View:
    """The softmax of a view over its last axis, by itself."""
    factor = 1.0 if isinstance(x.factor, Tensor) else x.factor
    base, place = b.rows(x if isinstance(x.factor, Tensor) else replace(x, factor=1.0))
    result = b.emit(floatops.softmax, (base.base, factor), base.tokens, base.channels)
    return result.moved(place[..., None] * result.channels + torch.arange(result.channels))


def rms_view(b: Builder, x: View, gain: float, eps: float) -> View:
    """`gain · x / sqrt(mean(x²) + eps)` over the last axis: in place where rows are blocks of channels of tokens."""
    size = x.index.shape[-1]
    if x.factor != 1.0:
        cut = b.cut(x)
        x = cut.moved(cut.index.reshape(x.index.shape))
    first = x.index[..., :1]
    channel = first % x.channels
    used = (x.index % x.channels).unique()
    blocks = bool((x.index >= 0).all()) and torch.equal(x.index, first + torch.arange(size))
    starts = used.reshape(-1, size)[:, :1] if len(used) % size == 0 else used[:0]
    if (
        not blocks
        or not torch.equal(starts + torch.arange(size), used.reshape(-1, size))
        or not bool(torch.isin(channel, starts).all())
    ):
        base, place = b.rows(x)
        weight = torch.full((size,), gain)
        result = b.emit(floatops.rms_norm, (base.base, b.constant(weight), 1, eps), base.tokens, size)
        return result.moved(place[..., None] * size + torch.arange(size))
    base = b.select_channels(x, used)
    position = torch.zeros(x.channels, dtype=torch.long)
    position[used] = torch.arange(len(used))
    weight = torch.full((len(used),), gain)
    args = (base.base, b.constant(weight), len(used) // size, eps)
    result = b.once((base.base, "rms", gain, eps), lambda: b.emit(floatops.rms_norm, args, x.tokens, len(used)))
    index = x.index // x.channels * len(used) + position[x.index % x.channels]
    return whole(result.base, *result.shape).moved(index)
