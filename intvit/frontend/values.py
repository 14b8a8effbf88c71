"""What a tensor of the exported program is known to be while it is canonicalized.

A `View` is the heart of it: every element is known to be one element of a canonical token tensor, by index. All
reshapes, permutations and slices of ATen act on that index tensor, run concretely at batch `PROBE`, so that any way to
spell "split the heads" or "flatten the patches" comes out as the same map, without a pattern for each library.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

PROBE = 2
"""The batch at which index maps are run; a map must be the same for every element of the batch."""


class NotCanonical(Exception):
    """This operation cannot be expressed in canonical float operations; the message is the reason for the user."""


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the image."""

    tensor: Tensor


@dataclass(frozen=True)
class View:
    """`factor · base.flatten()[index]`, where `base` is a canonical node of shape `[PROBE, *shape]`."""

    base: fx.Node
    shape: tuple[int, ...]
    index: Tensor
    factor: float = 1.0

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        return self.shape[0]

    def moved(self, index: Tensor) -> "View":
        return replace(self, index=index)

    def is_whole(self) -> bool:
        """Whether every element of the base occurs once."""
        count = PROBE * self.tokens * self.channels
        return self.index.numel() == count and bool((self.index.flatten().sort().values == torch.arange(count)).all())


@dataclass(frozen=True)
class Scores:
    """`factor · q kᵀ` of one attention, `[B, H, T, S]`; q and k are views `[B, H, T, D]` and `[B, H, S, D]`."""

    q: View
    k: View
    factor: float


@dataclass(frozen=True)
class Probabilities:
    """The softmax of scores over their last axis."""

    scores: Scores


@dataclass(frozen=True)
class Unknown:
    """The result of an operation that is not supported, or of one that follows it."""


Value = Constant | View | Scores | Probabilities | Unknown


def whole(base: fx.Node, tokens: int, channels: int) -> View:
    """The view that is all of `base` in its own order, `[PROBE, tokens, channels]`."""
    index = torch.arange(PROBE * tokens * channels).reshape(PROBE, tokens, channels)
    return View(base, (tokens, channels), index)


def split_index(view: View) -> tuple[Tensor, Tensor]:
    """Row (batch and token) and channel in the base of each element of a token view."""
    return view.index // view.channels, view.index % view.channels


def constant_along(x: Tensor, *dims: int) -> bool:
    first = x
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    return bool((x == first).all())
