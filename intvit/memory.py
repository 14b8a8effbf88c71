"""Where each intermediate tensor lies in one block of memory, planned once for every batch size.

A tensor is alive from the phase that writes it to the last that reads it; two that are never alive together may share
their place. Offsets are bytes for a batch of one: a batch of `n` multiplies them, as every tensor grows alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Of every tensor: a cache line, and the widest vector."""


@dataclass(frozen=True)
class Lifetime:
    """Bytes of a tensor at batch 1, and the first and last phase in which it is needed."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """The offset of each tensor, and the bytes of the whole, at batch 1."""

    offsets: tuple[int, ...]
    size: int


def aligned(size: int) -> int:
    """The least multiple of `ALIGNMENT` that is not below `size`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan(lifetimes: Sequence[Lifetime]) -> Plan:
    """Places the largest first, each at the lowest offset where nothing lies that is alive at the same time.

    This is greedy by size (Pisarchyk and Lee, *Efficient Memory Management for Deep Neural Net Inference*, 2020, 5.2).
    """
    offsets: dict[int, int] = {}
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        mine = lifetimes[index]
        taken = sorted(
            (offsets[other], offsets[other] + aligned(lifetimes[other].size))
            for other in offsets
            if lifetimes[other].first <= mine.last and mine.first <= lifetimes[other].last
        )
        offset = 0
        for begin, end in taken:
            if begin - offset >= aligned(mine.size):
                break
            offset = max(offset, end)
        offsets[index] = offset
    ends = [offsets[i] + aligned(lifetime.size) for i, lifetime in enumerate(lifetimes)]
    return Plan(tuple(offsets[i] for i in range(len(lifetimes))), max(ends, default=0))
