"""The table of a `rearrange` as its kernels read it: fewer and longer blocks, and where each begins in memory.

Most tables are sums: block `j` of row `t` begins `rows[t] + columns[j]` behind the beginning, because both numbers are
made of digits of the same source (windows, merged patches, transposes, shuffled channels). They need `T + K` numbers;
any other table needs all `T K`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import gcd

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Offsets:
    """Block `j` of row `t` begins at element `rows[t] + columns[t or 0, j]` of the sources, laid end to end."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]

    @property
    def is_sum(self) -> bool:
        """Whether all rows have the same `columns`."""
        return len(self.columns) == 1

    @property
    def run(self) -> int:
        """The largest number of tokens, in which all tokens can be divided, that begin one behind the other."""
        return next(n for n in _divisors(len(self.rows)) if (np.diff(self.rows.reshape(-1, n)) == 1).all())


@dataclass(frozen=True)
class Blocks:
    """`index` `[T, K]` of blocks of `chunk` channels of sources `[T_i, C_i]`, numbered through."""

    shapes: tuple[tuple[int, int], ...]
    index: Index
    chunk: int

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], index: NDArray[np.integer], chunk: int) -> "Blocks":
        """The same movement in blocks that are as long as can be."""
        sizes = tuple((int(tokens), int(channels)) for tokens, channels in shapes)
        found = index.astype(np.int64)
        for factor in _divisors(gcd(found.shape[1], *(channels // chunk for _, channels in sizes))):
            first = found[:, ::factor]
            if (
                not (first % factor).any()
                and (np.repeat(first, factor, 1) + _cycle(found.shape[1], factor) == found).all()
            ):
                return cls(sizes, first // factor, chunk * factor)
        raise AssertionError("1 divides every number")

    @property
    def ends(self) -> tuple[int, ...]:
        """The number behind the last block of each source."""
        return tuple(accumulate(tokens * channels // self.chunk for tokens, channels in self.shapes))

    @property
    def starts(self) -> tuple[int, ...]:
        """The number of the first block of each source."""
        return (0, *self.ends[:-1])

    def offsets(self, widths: Sequence[int]) -> Offsets:
        """Where blocks begin if rows of source `i` are `widths[i]` elements apart, and sources laid end to end."""
        where = np.empty(self.index.shape, np.int64)
        begin = 0
        for (tokens, channels), width, start, end in zip(self.shapes, widths, self.starts, self.ends, strict=True):
            mine = (self.index >= start) & (self.index < end)
            row, column = np.divmod((self.index[mine] - start) * self.chunk, channels)
            where[mine] = begin + row * width + column
            begin += tokens * width
        rows, columns = where[:, :1] - where[0, 0], where[:1]
        if (rows + columns == where).all():
            least = rows.min()
            return Offsets((rows[:, 0] - least).astype(np.int32), (columns + least).astype(np.int32))
        return Offsets(np.zeros(len(where), np.int32), where.astype(np.int32))


def _divisors(number: int) -> list[int]:
    return [d for d in range(number, 0, -1) if number % d == 0]


def _cycle(count: int, length: int) -> Index:
    return np.arange(count) % length
