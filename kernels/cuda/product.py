"""int8 product with constant weights on tensor cores, and its epilogue.

    y[r, c] = epilogue(sum_k x[r, k] * w[c, k])

A block makes a tile of the result. Its operands come in slices of `depth` bytes of K through `stages` buffers of shared
memory: while one slice is multiplied, the copies of the next ones are under way, and one barrier a slice is enough,
because the buffer that is filled anew was read before it. Chunks of 16 bytes are swizzled, so that `ldmatrix` meets no
bank twice. The warps divide the tile among them, or each slice (`warps[2]`), and then add up through shared memory: for
batch 1, whose tiles are too few for a GPU. A lane holds 8 neighbouring columns of a row (`fragments.place`), so the
epilogue reads and writes whole sectors without a detour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.arith import INT32, let, quotient, remainder
from intvit.kernels.cuda.fragments import (
    CHUNK,
    COLUMNS,
    DEPTH,
    GROUP,
    NEIGHBOURS,
    ROWS,
    left_address,
    padded,
    place,
    result_columns,
    result_row,
    right_address,
    swizzled,
)
from intvit.kernels.cuda.launch import ROLLED, WARP, Block, DeviceKernel, device_kernel, local, view
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue


@dataclass(frozen=True)
class Tile:
    """What a block computes: rows, columns, bytes of K in a slice; warps along rows, columns and K; buffers."""

    rows: int
    columns: int
    depth: int
    warps: tuple[int, int, int]
    stages: int

    @property
    def threads(self) -> int:
        return int(np.prod(self.warps)) * WARP

    @property
    def own(self) -> tuple[int, int]:
        """Rows and columns of a warp."""
        return self.rows // self.warps[0], self.columns // self.warps[1]

    @property
    def slice_bytes(self) -> int:
        return (self.rows + self.columns) * self.depth

    @property
    def shared(self) -> int:
        return self.slice_bytes * self.stages


LARGE = Tile(128, 128, 64, (2, 2, 1), 4)
NARROW = Tile(128, 64, 64, (2, 2, 1), 4)
MEDIUM = Tile(64, 64, 64, (2, 2, 1), 4)
SMALL = Tile(32, 32, 128, (1, 1, 4), 4)
"""Few rows: many blocks, whose warps share K."""


def tiles(n: int, arch: Arch) -> tuple[Tile, ...]:
    """The tiles to choose from for `n` columns, the largest first."""
    wide = () if n % LARGE.columns and n % LARGE.columns <= NARROW.columns else (LARGE,)
    return tuple(tile for tile in (*wide, NARROW, MEDIUM, SMALL) if tile.shared <= arch.shared)


PITCH = 64
"""Packed weights are padded to so many bytes of K, the shallowest slice."""


def packed_weights(w: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 `[n, k]` as the kernels read it: columns in the fragments' order, zeros up to whole groups and slices."""
    n, k = w.shape
    packed = np.zeros((padded(n, GROUP), padded(k, PITCH)), np.int8)
    packed[[place(column) for column in range(n)], :k] = w
    return packed


def product(
    k: int, n: int, width: int, epilogue: Epilogue, tile: Tile, arch: Arch, stride: int, *, name: str = "product"
) -> DeviceKernel:
    """Inputs: x int8 `[rows, width]` of which `k` columns count, packed weights, the epilogue's operands.

    `width` is a multiple of 16, and so are the rows of an arm. Output: `[rows, stride]` of the epilogue's type, of
    which `n` columns are written.
    """
    across = -(-n // tile.columns)
    kernel = TileProduct(tile, arch, width, padded(k, PITCH), padded(n, GROUP), -(-k // tile.depth), across)

    def body(block: Block, x: Buffer, weights: Buffer, *rest: Buffer) -> None:
        sums = kernel.sums(block, x, weights)
        *operands, y = rest
        whole = stride % NEIGHBOURS == 0
        finish = Finish(epilogue, operands, y, stride, padded(n, CHUNK), NEIGHBOURS, whole=whole)
        kernel.finish(block, sums, finish, n)

    pointers = [("x", "uint8"), ("weights", "uint8"), *epilogue_pointers(epilogue), ("y", epilogue.dtype)]
    return device_kernel(name, pointers, body, threads=tile.threads, per=tile.rows, times=across, shared=tile.shared)


@dataclass(frozen=True)
class TileProduct:
    """How a block makes its tile."""

    tile: Tile
    arch: Arch
    width: int  # bytes of a row of x
    depth: int  # bytes of a row of the weights
    columns: int  # rows of the weights
    slices: int
    across: int  # tiles side by side

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Fragments of a warp, down and across."""
        rows, columns = self.tile.own
        return rows // ROWS, columns // COLUMNS

    def warp(self, block: Block) -> tuple[Expr, Expr, Expr]:
        """The part of the tile, and of each slice, that is a warp's own."""
        down, across, _ = self.tile.warps
        return (
            remainder(block.warp, down),
            remainder(quotient(block.warp, down), across),
            quotient(block.warp, down * across),
        )

    def origin(self, block: Block) -> tuple[Expr, Expr]:
        """First row and column of the block's tile."""
        return (
            let(quotient(block.index, self.across) * self.tile.rows),
            let(remainder(block.index, self.across) * self.tile.columns),
        )

    def end(self, block: Block) -> Expr:
        """The row behind the last that the tile may have."""
        return block.rows

    def sums(self, block: Block, x: Buffer, weights: Buffer) -> Buffer:
        """The accumulators of a thread, `[fragments down, across, 4]`, flat."""
        stages = self.tile.stages
        down, across = self.counts
        sums = local(down * across * 4, "uint32")
        with T.unroll(down * across * 4) as i:
            T.buffer_store(sums, tirx.const(0, "uint32"), [i])
        fill = self.filler(block, x, weights)
        for stage in range(stages - 1):
            if stage < self.slices:
                fill(stage, stage)
            ptx.commit(self.arch)
        with T.serial(self.slices, annotations=ROLLED) as step:
            ptx.wait(stages - 2, self.arch)
            ptx.barrier()
            ahead = let(step + (stages - 1))
            with T.If(ahead < self.slices), T.Then():
                fill(remainder(ahead, stages), ahead)
            ptx.commit(self.arch)
            self._multiply(block, sums, remainder(step, stages) * self.tile.slice_bytes)
        if self.tile.warps[2] > 1:
            self._gather(block, sums)
        return sums

    def filler(self, block: Block, x: Buffer, weights: Buffer) -> Callable[[Expr, Expr], None]:
        """What copies a slice of both operands into a buffer."""
        tile = self.tile
        chunks = tile.depth // CHUNK
        row, column = self.origin(block)
        parts = []
        for buffer, first, size, rows, pitch, start in (
            (x, row, tile.rows, block.rows, self.width, 0),
            (weights, column, tile.columns, self.columns, self.depth, tile.rows * tile.depth),
        ):
            for i in range(0, size * chunks, tile.threads):
                line = let(quotient(block.thread + i, chunks))
                chunk = let(remainder(block.thread + i, chunks))
                to = let(start + line * tile.depth + swizzled(line, chunk, chunks) * CHUNK)
                source = let((first + line) * pitch + chunk * CHUNK)
                inside = let(first + line < rows)
                room = let(pitch - chunk * CHUNK)
                parts.append((buffer, to, source, inside, room, pitch))

        def fill(stage: Expr, step: Expr) -> None:
            offset = let(tirx.const(0, INT32) + step * tile.depth)
            for buffer, to, source, inside, room, pitch in parts:
                valid = inside if pitch % tile.depth == 0 else tirx.And(inside, offset < room)
                ptx.copy(block.shared, to + stage * tile.slice_bytes, buffer, source + offset, CHUNK, valid, self.arch)

        return fill

    def _multiply(self, block: Block, sums: Buffer, base: Expr) -> None:
        """A slice: each warp its fragments, of its part of K."""
        tile = self.tile
        chunks = tile.depth // CHUNK
        down, across = self.counts
        below, beside, part = self.warp(block)
        rows, columns = tile.own
        steps = tile.depth // DEPTH // tile.warps[2]
        a, b = local(down * 4, "uint32"), local(across * 2, "uint32")
        left_row, left_chunk = left_address(block.lane)
        right_row, right_chunk = right_address(block.lane)
        base = let(base)
        for step in range(steps):
            first = (part * steps + step) * (DEPTH // CHUNK)
            with T.unroll(down) as i:
                line = let(below * rows + i * ROWS + left_row)
                at = base + line * tile.depth + swizzled(line, first + left_chunk, chunks) * CHUNK
                ptx.load_fragments([a[i * 4 + r] for r in range(4)], block.shared, at)
            with T.unroll(across // 2) as j:
                line = let(beside * columns + j * (2 * COLUMNS) + right_row)
                at = base + (tile.rows + line) * tile.depth + swizzled(line, first + right_chunk, chunks) * CHUNK
                ptx.load_fragments([b[j * 4 + r] for r in range(4)], block.shared, at)
            with T.unroll(down) as i, T.unroll(across) as j:
                d = [sums[(i * across + j) * 4 + r] for r in range(4)]
                ptx.multiply_add(d, [a[i * 4 + r] for r in range(4)], [b[j * 2], b[j * 2 + 1]], self.arch)

    def _gather(self, block: Block, sums: Buffer) -> None:
        """The parts of K added up in the warps that have the first."""
        down, across = self.counts
        count = down * across * 4
        group = self.tile.threads // self.tile.warps[2]
        _, _, part = self.warp(block)
        memory = view(block.shared, "uint32")
        place = let(remainder(block.thread, group))
        ptx.wait(0, self.arch)
        ptx.barrier()
        with T.If(part > 0), T.Then(), T.unroll(count) as i:
            T.buffer_store(memory, sums[i], [((part - 1) * count + i) * group + place])
        ptx.barrier()
        with T.If(part == 0), T.Then():
            for other in range(self.tile.warps[2] - 1):
                with T.unroll(count) as i:
                    T.buffer_store(sums, sums[i] + memory[(other * count + i) * group + place], [i])

    def finish(self, block: Block, sums: Buffer, finish: Finish, n: int) -> None:
        """The epilogue of a warp's rows, eight columns at a time."""
        down, across = self.counts
        below, beside, part = self.warp(block)
        rows, columns = self.tile.own
        row, column = self.origin(block)
        first = let(row + below * rows + result_row(block.lane))

        def group(g: Expr) -> None:
            at = let(column + beside * columns + g * GROUP + result_columns(block.lane))
            with T.If(at < n), T.Then():
                known = finish.columns(at)
                with T.unroll(down * 2) as half:
                    line = let(first + half * (ROWS // 2))
                    with T.If(line < self.end(block)), T.Then():

                        def value(e: Expr) -> Expr:
                            fragment = (half >> 1) * across + g * (GROUP // COLUMNS) + (e >> 1)
                            return sums[fragment * 4 + (half & 1) * 2 + (e & 1)].astype(INT32)

                        finish.put(value, line, at, n, known)

        with T.If(part == 0), T.Then(), T.unroll(across * COLUMNS // GROUP) as g:
            group(g)
