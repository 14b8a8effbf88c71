"""int8 products of rows with rows, both computed, in groups, on tensor cores (`intvit.dialect.product`).

    y[g, m, n] = epilogue(sum_k a[g, m, k] * b[g, n, k])

A block makes a tile of one group, as `product` does; rows of `b` go to shared memory in the order in which weights are
packed. What lies behind the columns of a row counts here: there `b` is zero in shared memory, whatever `a` is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.arith import let, quotient, remainder
from intvit.kernels.cuda.fragments import CHUNK, COLUMNS, NEIGHBOURS, padded, swizzled
from intvit.kernels.cuda.launch import Block, DeviceKernel, clear, device_kernel, move
from intvit.kernels.cuda.product import LARGE, MEDIUM, NARROW, SMALL, Tile, TileProduct
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue

COSTS = {LARGE: 4, NARROW: 5, MEDIUM: 6, SMALL: 9}
"""Of a multiply-add of a tile: larger ones read each operand less often."""
BUSY = 128
"""Blocks that fill a GPU: fewer take as long."""


@dataclass(frozen=True)
class Groups:
    """Sizes of a product: of each group `rows` times `columns` sums over `depth`; elements between rows of a, b, y."""

    groups: int
    rows: int
    columns: int
    depth: int
    strides: tuple[int, int, int]

    def tile(self, arch: Arch) -> Tile:
        """The tile that wastes least, at batch 1."""

        def cost(tile: Tile) -> int:
            blocks = self.groups * -(-self.rows // tile.rows) * -(-self.columns // tile.columns)
            return max(blocks, BUSY) * tile.rows * tile.columns * padded(self.depth, tile.depth) * COSTS[tile]

        return min((tile for tile in COSTS if tile.shared <= arch.shared), key=cost)


def row_products(
    sizes: Groups, epilogue: Epilogue, arch: Arch, *, tile: Tile | None = None, name: str = "row_products"
) -> DeviceKernel:
    """Inputs: a int8 `[batch * groups * rows, stride]`, b int8 `[batch * groups * columns, stride]`, the epilogue's.

    Output `[batch * groups * rows, stride]` of the epilogue's type, of which `columns` are written. `rows` of the
    launch is the batch.
    """
    tile = tile or sizes.tile(arch)
    n, stride = sizes.columns, sizes.strides[2]
    kernel = _GroupProduct(
        tile,
        arch,
        width=sizes.strides[0],
        depth=sizes.strides[1],
        columns=n,
        slices=-(-sizes.depth // tile.depth),
        across=-(-n // tile.columns),
        bits=8,
        sizes=sizes,
    )

    def body(block: Block, a: Buffer, b: Buffer, *rest: Buffer) -> None:
        sums = kernel.sums(block, a, b)
        *operands, y = rest
        finish = Finish(epilogue, operands, y, stride, padded(n, CHUNK), NEIGHBOURS, whole=stride % NEIGHBOURS == 0)
        kernel.finish(block, sums, finish, n)

    pointers = [("a", "uint8"), ("b", "uint8"), *epilogue_pointers(epilogue), ("y", epilogue.dtype)]
    times = sizes.groups * kernel.down * kernel.across
    return device_kernel(name, pointers, body, threads=tile.threads, times=times, shared=kernel.shared)


def column_of(line: Expr) -> Expr:
    """The column of the result that row `line` of a right operand is for: `fragments.place` backwards."""
    product, lane = (line >> 3) & 3, (line >> 1) & 3
    return (line & ~(4 * COLUMNS - 1)) | (lane << 3) | (product << 1) | (line & 1)


@dataclass(frozen=True)
class _GroupProduct(TileProduct):
    sizes: Groups

    @cached_property
    def down(self) -> int:
        """Tiles of a group, one below the other."""
        return -(-self.sizes.rows // self.tile.rows)

    def group(self, block: Block) -> Expr:
        """Of all images, one after the other."""
        return let(quotient(block.index, self.down * self.across))

    def origin(self, block: Block) -> tuple[Expr, Expr]:
        place = let(remainder(block.index, self.down * self.across))
        row = self.group(block) * self.sizes.rows + quotient(place, self.across) * self.tile.rows
        return let(row), let(remainder(place, self.across) * self.tile.columns)

    def end(self, block: Block) -> Expr:
        return let((self.group(block) + 1) * self.sizes.rows)

    def filler(self, block: Block, x: Buffer, weights: Buffer) -> Callable[[Expr, Expr], None]:
        tile, sizes = self.tile, self.sizes
        row, column = self.origin(block)
        end, base = self.end(block), let(self.group(block) * sizes.columns)
        chunks = tile.depth // CHUNK
        parts: list[Callable[[Expr, Expr], None]] = []
        for i in range(0, tile.rows * chunks, tile.threads):
            line, chunk, to = self._place(block, i, 0)
            parts.append(self._copier(block, x, let(row + line), row + line < end, chunk, to, self.width))
        for i in range(0, tile.columns * chunks, tile.threads):
            line, chunk, to = self._place(block, i, tile.rows * tile.depth)
            own = let(column + column_of(line))
            parts.append(self._copier(block, weights, let(base + own), own < sizes.columns, chunk, to, self.depth))

        def fill(stage: Expr, step: Expr) -> None:
            for part in parts:
                part(stage, step)

        return fill

    def _place(self, block: Block, i: int, start: int) -> tuple[Expr, Expr, Expr]:
        """Row and chunk of an operand's slice that a thread copies, and where to."""
        chunks = self.tile.depth // CHUNK
        line, chunk = let(quotient(block.thread + i, chunks)), let(remainder(block.thread + i, chunks))
        return line, chunk, let(start + line * self.tile.depth + swizzled(line, chunk, chunks) * CHUNK)

    def _copier(
        self, block: Block, buffer: Buffer, row: Expr, inside: Expr, chunk: Expr, to: Expr, pitch: int
    ) -> Callable[[Expr, Expr], None]:
        """What copies a chunk of a row of a slice: bytes that count, and zeros."""
        depth, shared = self.sizes.depth, block.shared
        piece = gcd(pitch, CHUNK)
        inside, origin, first = let(inside), let(row * pitch + chunk * CHUNK), let(chunk * CHUNK)
        rest, whole = depth % piece, depth // piece * piece

        def copy(stage: Expr, step: Expr) -> None:
            offset = let(step * self.tile.depth)
            target = let(to + stage * self.slice_bytes)
            for at in range(0, CHUNK, piece):
                k = let(first + offset + at)

                def plain(at: int = at, k: Expr = k) -> None:
                    valid = tirx.And(inside, k < whole)
                    ptx.copy(shared, target + at, buffer, origin + offset + at, piece, valid, self.arch)

                if not rest:
                    plain()
                    continue
                with T.If(tirx.And(inside, k == whole)):
                    with T.Then():
                        clear(shared, target + at, piece)
                        self._move_rest(shared, target + at, buffer, origin + offset + at, rest)
                    with T.Else():
                        plain()

        return copy

    def _move_rest(self, shared: Buffer, to: Expr, buffer: Buffer, start: Expr, count: int) -> None:
        """Fewer bytes than a chunk, in powers of two."""
        size, done = CHUNK // 2, 0
        while done < count:
            if size <= count - done:
                move(shared, to + done, buffer, start + done, size)
                done += size
            size = max(size // 2, 1)
