"""The sizes of an attention on a GPU, where its tiles lie in shared memory, and where its operands come from."""

from __future__ import annotations

from dataclasses import dataclass

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.fragments import CHUNK, DEPTH, ROWS, padded

WARPS = 4
QUERIES = WARPS * ROWS
"""Of a block."""
KEYS = 64
"""Of a tile."""
MOST_CHANNELS = 96
"""Of a block: the sums of more would not fit the registers."""


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention, and the elements between rows of its operands and its result."""

    heads: int
    queries: int
    keys: int
    head_size: int
    value_size: int
    strides: tuple[int, int, int, int]  # q, k, v, y

    @property
    def depth(self) -> int:
        """Bytes of a query or key in whole fragments."""
        return padded(self.head_size, DEPTH)

    @property
    def pitch(self) -> int:
        """Bytes between queries, or keys, in shared memory: an odd number of chunks, so that no bank is met twice."""
        return self.depth + CHUNK

    @property
    def parts(self) -> int:
        """Blocks among which the channels of a head are divided, so that their sums fit the registers."""
        return -(-self.value_size // MOST_CHANNELS)

    @property
    def channels(self) -> int:
        """Channels of a block, at most."""
        return self.value_size if self.parts == 1 else padded(-(-self.value_size // self.parts), CHUNK)

    @property
    def value_chunks(self) -> int:
        """Chunks of channels of a block."""
        return -(-self.channels // CHUNK)

    @property
    def value_pitch(self) -> int:
        """The same of values."""
        return (self.value_chunks | 1) * CHUNK

    @property
    def tile_bytes(self) -> int:
        """Of a tile of keys with its values."""
        return KEYS * (self.pitch + self.value_pitch)

    @property
    def shared(self) -> int:
        return QUERIES * self.pitch + 2 * self.tile_bytes

    @property
    def resident(self) -> int:
        """Blocks whose registers fit a multiprocessor, on every architecture."""
        return 3 if max(self.depth, self.channels) <= 64 else 2

    @property
    def blocks(self) -> int:
        """Blocks of queries of a head."""
        return -(-self.queries // QUERIES)

    @property
    def tiles(self) -> int:
        """Tiles of keys."""
        return -(-self.keys // KEYS)


@dataclass(frozen=True)
class Source:
    """Rows `[batch * tokens, stride]` of an operand: of the `size` columns of each head, `count` from `column` on."""

    buffer: Buffer
    tokens: int
    stride: int
    size: int
    column: Expr
    count: int
