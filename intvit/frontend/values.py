"""What a tensor of the exported program is known to be while it is canonicalized.

A `View` is the heart of it: every element is known to be one element of a canonical token tensor, by index, or 0. All
reshapes, permutations, slices and paddings of ATen act on that index tensor, run concretely at batch `PROBE`, so that
any way to spell "split the heads" or "cut into windows" comes out as the same map, without a pattern for each library.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor, fx

from intvit.pointwise import Function

PROBE = 2
"""The batch at which index maps are run; a map must be the same for every element of the batch."""
ZERO = -1
"""The index of an element that is 0: padding."""


class NotCanonical(Exception):
    """This operation cannot be expressed in canonical float operations; the message is the reason for the user."""


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the image."""

    tensor: Tensor


@dataclass(frozen=True)
class View:
    """`factor · base.flatten()[index]`, where `base` is a canonical node of shape `[PROBE, *shape]`.

    `factor` is one number, or one for each element.
    """

    base: fx.Node
    shape: tuple[int, ...]
    index: Tensor
    factor: float | Tensor = 1.0

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        return self.shape[0]

    def moved(self, index: Tensor) -> "View":
        """Other elements, by an index that the one factor of all does not depend on."""
        assert not isinstance(self.factor, Tensor) or index.shape == self.index.shape
        return replace(self, index=index)

    def move(self, movement: Callable[[Tensor], Tensor]) -> "View":
        """A movement of the elements, with their factors."""
        factor = self.factor
        if isinstance(factor, Tensor):
            factor = movement(factor.expand(self.index.shape))
        return replace(self, index=movement(self.index), factor=factor)

    def is_whole(self) -> bool:
        """Whether every element of the base occurs once."""
        count = PROBE * self.tokens * self.channels
        if self.index.numel() != count or bool((self.index < 0).any()):
            return False
        seen = torch.zeros(count, dtype=torch.bool)
        seen[self.index.flatten()] = True
        return bool(seen.all())

    def same_elements(self, other: "View") -> bool:
        return self.base is other.base and torch.equal(self.index, other.index)


@dataclass(frozen=True)
class Mapped:
    """A function of each element of a view, not computed yet: more steps may follow."""

    view: View
    function: Function

    def move(self, movement: Callable[[Tensor], Tensor]) -> "Mapped":
        return replace(self, view=self.view.move(movement))


@dataclass(frozen=True)
class Norm:
    """The Euclidean norm of the last axis of a view, which has one element there; at least `floor`."""

    view: View
    floor: float = 0.0


@dataclass(frozen=True)
class Scores:
    """`factor · q kᵀ + bias` of many matrices: q `[N, T, D]`, k `[N, S, D]`, bias `[N, T, S]`, factor one or `[N]`.

    `order` says which matrix lies where: the tensor has the shape `[*order.shape, T, S]`.
    """

    q: View
    k: View
    order: Tensor
    factor: float | Tensor = 1.0
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.order.shape, self.q.index.shape[1], self.k.index.shape[1])

    def move(self, movement: Callable[[Tensor], Tensor]) -> "Scores | None":
        """With its matrices in another order, and some of their rows and columns; None for any other movement."""
        size = self.shape[-2] * self.shape[-1]
        inside = torch.arange(size).reshape(self.shape[-2:])
        moved = movement(self.order[..., None, None] * size + inside)
        if moved.ndim < 2 or moved.numel() == 0 or not constant_along(moved // size, -2, -1):
            return None
        one = (moved % size).reshape(-1, *moved.shape[-2:])[0]
        rows, columns = one[:, 0] // self.shape[-1], one[0] % self.shape[-1]
        if not torch.equal(moved % size, inside[rows][:, columns].expand(moved.shape)):
            return None
        return self._part(rows, columns, moved[..., 0, 0] // size)

    def _part(self, rows: Tensor, columns: Tensor, order: Tensor) -> "Scores":
        """Some rows and columns of each matrix, in another order of the matrices, of which some may be left out."""
        used, place = order.unique(return_inverse=True)
        q, k = self.q.move(lambda t: t[used][:, rows]), self.k.move(lambda t: t[used][:, columns])
        factor = self.factor[used] if isinstance(self.factor, Tensor) else self.factor
        bias = None if self.bias is None else self.bias[used][:, rows][:, :, columns]
        return Scores(q, k, place, factor, bias)

    def reordered(self, movement: Callable[[Tensor], Tensor]) -> "Scores | None":
        """With its whole matrices in another order; None where a movement takes the matrices themselves apart."""
        moved = self.move(movement)
        size = self.shape[-2] * self.shape[-1]
        inside = torch.arange(size).reshape(self.shape[-2:])
        found = movement(inside.expand(self.shape))
        same = moved is not None and found.shape[-2:] == inside.shape and torch.equal(found, inside.expand(found.shape))
        return moved if same else None

    def by_matrix(self, values: Tensor) -> Tensor:
        """Values that lie in the order of this tensor, `[*order.shape, ...]`, matrix by matrix."""
        found = torch.empty(self.order.numel(), *values.shape[self.order.ndim :], dtype=values.dtype)
        found[self.order.flatten()] = values.reshape(found.shape)
        return found


@dataclass(frozen=True)
class Probabilities:
    """The softmax of scores over their last axis, as `[..., T, S]`, or transposed as `[..., S, T]`."""

    scores: Scores
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, queries, keys = self.scores.shape
        return (*lead, keys, queries) if self.transposed else (*lead, queries, keys)

    def move(self, movement: Callable[[Tensor], Tensor]) -> "Probabilities | None":
        def from_rows(t: Tensor) -> Tensor:
            return movement(t.mT if self.transposed else t)

        moved = self.scores.reordered(from_rows)
        if moved is not None:
            return Probabilities(moved)
        turned = self.scores.reordered(lambda t: from_rows(t).mT) if len(self.shape) > 1 else None
        return None if turned is None else Probabilities(turned, transposed=True)


@dataclass(frozen=True)
class Unknown:
    """The result of an operation that is not supported, or of one that follows it."""

    shape: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Refused:
    """A result without an integer form, which is the user's problem only where something reads it."""

    reason: str
    shape: tuple[int, ...] = ()


Value = Constant | View | Mapped | Norm | Scores | Probabilities | Unknown | Refused
Lazy = Mapped | Norm | Scores | Probabilities
"""What becomes a view only where something reads it that needs one."""


def shape_of(value: Value) -> tuple[int, ...]:
    """The shape of the tensor that a value stands for, at batch `PROBE`."""
    if isinstance(value, Constant):
        return tuple(value.tensor.shape)
    if isinstance(value, View):
        return tuple(value.index.shape)
    if isinstance(value, Mapped):
        return tuple(value.view.index.shape)
    if isinstance(value, Norm):
        return (*value.view.index.shape[:-1], 1)
    return value.shape


def whole(base: fx.Node, tokens: int, channels: int) -> View:
    """The view that is all of `base` in its own order, `[PROBE, tokens, channels]`."""
    return View(base, (tokens, channels), _positions(tokens, channels))


@lru_cache(32)
def _positions(tokens: int, channels: int) -> Tensor:
    """Shared by all views of this shape, which only ever read it."""
    return torch.arange(PROBE * tokens * channels).reshape(PROBE, tokens, channels)


def in_one_image(view: View) -> Tensor:
    """The index of a view `[PROBE, ...]` in each image: the same for all, `ZERO` where it is that."""
    size = view.tokens * view.channels
    first = torch.arange(PROBE).reshape(-1, *[1] * (view.index.ndim - 1)) * size
    local = torch.where(view.index < 0, view.index, view.index - first)
    if not constant_along(local, 0) or bool((local[0] < ZERO).any()) or bool((local[0] >= size).any()):
        raise NotCanonical("images of a batch are mixed or repeated")
    return local[0]


def batch_axis(view: View) -> int:
    """The axis that goes through the images of a batch: 1 where a model has its tokens first."""
    image = torch.where(view.index < 0, -1, view.index // (view.tokens * view.channels))
    for axis, size in enumerate(image.shape):
        own = torch.arange(size).reshape(-1, *[1] * (image.ndim - axis - 1))
        if size == PROBE and bool(((image == own) | (image < 0)).all()):
            return axis
    return 0


def constant_along(x: Tensor, *dims: int) -> bool:
    first = x
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    return bool((x == first).all())


@dataclass(frozen=True)
class Layout:
    """Which axes of a view `[PROBE, ...]` make up its tokens and which its channels."""

    shape: tuple[int, ...]
    channels: tuple[int, ...]

    @classmethod
    def of(cls, view: View) -> "Layout":
        """Channels are the axes that stay in one row of the base; the last, where there are none."""
        index = view.index
        found = [axis for axis in range(1, index.ndim) if index.shape[axis] > 1 and _in_row(view, axis)]
        return cls(tuple(index.shape), tuple(found) or (index.ndim - 1,))

    @property
    def _order(self) -> list[int]:
        return [axis for axis in range(len(self.shape)) if axis not in self.channels] + list(self.channels)

    def rows(self, t: Tensor) -> Tensor:
        """`[PROBE, ...]` as `[PROBE, tokens, channels]`."""
        moved = t.permute(self._order)
        return moved.reshape(PROBE, -1, *moved.shape[-len(self.channels) :]).flatten(2)

    def back(self, t: Tensor) -> Tensor:
        """The inverse of `rows`, for any number of channels where they are the last axis alone."""
        moved = t.reshape([self.shape[axis] for axis in self._order])
        return moved.permute([self._order.index(axis) for axis in range(len(self.shape))])


def _in_row(view: View, axis: int) -> bool:
    lines = view.index.movedim(axis, -1)
    return bool((lines >= 0).all()) and constant_along(lines // view.channels, -1)
