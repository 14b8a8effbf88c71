"""int8 product with constant weights on tensor cores, and its epilogue.

    y[r, c] = epilogue(sum_k x[r, k] * w[c, k])

A block makes a tile of the result. Its operands come in slices of `depth` bytes of K through `stages` buffers of shared
memory: while one slice is multiplied, the copies of the next ones are under way, and one barrier a slice is enough,
because the buffer that is filled anew was read before it. Chunks of 16 bytes are swizzled, so that `ldmatrix` meets no
bank twice. The warps divide the tile among them, or each slice (`warps[2]`), and then add up through shared memory: for
batch 1, whose tiles are too few for a GPU. A lane holds 8 neighbouring columns of a row (`fragments.place`), so the
epilogue reads and writes whole sectors without a detour.

Weights of 4 bits are packed up to the registers. 16 bytes are 32 of K: their low halves are the first register of a
fragment, their high halves the second. Both are left at the top of their bytes, 16 times as large, and so are the sums,
of at most 2^16 products of 128 and 128, until the epilogue takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from intvit import nibbles
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
from intvit.kernels.pack import MOST_DEPTH


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
"""Packed weights are padded to so much of K, the shallowest slice."""


def packed_weights(w: NDArray[np.int8], bits: int = 8) -> NDArray[np.int8]:
    """int8 `[n, k]` as the kernels read it: columns in the fragments' order, zeros up to whole groups and slices.

    With 4 `bits` a byte holds two entries of a column, 16 apart: of 32 the first 16 in the low halves of 16 bytes.
    Raises `ValueError` where entries do not fit.
    """
    n, k = w.shape
    packed = np.zeros((padded(n, GROUP), padded(k, PITCH)), np.int8)
    packed[[place(column) for column in range(n)], :k] = w
    if bits == 8:
        return packed
    halves = packed.reshape(len(packed), -1, 2, CHUNK)
    return nibbles.together(halves[:, :, 0], halves[:, :, 1]).reshape(len(packed), -1)


def product(
    k: int,
    n: int,
    width: int,
    epilogue: Epilogue,
    tile: Tile,
    arch: Arch,
    stride: int,
    *,
    bits: int = 8,
    name: str = "product",
) -> DeviceKernel:
    """Inputs: x int8 `[rows, width]` of which `k` columns count, packed weights of 8 or 4 `bits`, the epilogue's.

    `width` is a multiple of 16, and so are the rows of an arm. Output: `[rows, stride]` of the epilogue's type, of
    which `n` columns are written. Raises `ValueError` for weights of 4 bits beyond a K of 2^16.
    """
    if bits not in (8, 4) or (bits == 4 and k > MOST_DEPTH):
        raise ValueError(f"no product of depth {k} with weights of {bits} bits")
    across, pitch = -(-n // tile.columns), padded(k, PITCH) * bits // 8
    kernel = TileProduct(tile, arch, width, pitch, padded(n, GROUP), -(-k // tile.depth), across, bits)

    def body(block: Block, x: Buffer, weights: Buffer, *rest: Buffer) -> None:
        sums = kernel.sums(block, x, weights)
        *operands, y = rest
        whole = stride % NEIGHBOURS == 0
        finish = Finish(epilogue, operands, y, stride, padded(n, CHUNK), NEIGHBOURS, whole=whole)
        kernel.finish(block, sums, finish, n)

    pointers = [("x", "uint8"), ("weights", "uint8"), *epilogue_pointers(epilogue), ("y", epilogue.dtype)]
    return device_kernel(name, pointers, body, threads=tile.threads, per=tile.rows, times=across, shared=kernel.shared)


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
    bits: int  # of a weight, 8 or 4

    @cached_property
    def weight_depth(self) -> int:
        """Bytes of a row of the weights in a slice."""
        return self.tile.depth * self.bits // 8

    @cached_property
    def slice_bytes(self) -> int:
        return self.tile.rows * self.tile.depth + self.tile.columns * self.weight_depth

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.slice_bytes * self.tile.stages

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
            self._multiply(block, sums, remainder(step, stages) * self.slice_bytes)
        if self.tile.warps[2] > 1:
            self._gather(block, sums)
        return sums

    def filler(self, block: Block, x: Buffer, weights: Buffer) -> Callable[[Expr, Expr], None]:
        """What copies a slice of both operands into a buffer."""
        tile = self.tile
        row, column = self.origin(block)
        parts = []
        for buffer, first, size, rows, pitch, depth, start in (
            (x, row, tile.rows, block.rows, self.width, tile.depth, 0),
            (weights, column, tile.columns, self.columns, self.depth, self.weight_depth, tile.rows * tile.depth),
        ):
            chunks = depth // CHUNK
            for i in range(0, size * chunks, tile.threads):
                line = let(quotient(block.thread + i, chunks))
                chunk = let(remainder(block.thread + i, chunks))
                to = let(start + line * depth + swizzled(line, chunk, chunks) * CHUNK)
                source = let((first + line) * pitch + chunk * CHUNK)
                inside = let(first + line < rows)
                room = let(pitch - chunk * CHUNK)
                parts.append((buffer, to, source, inside, room, pitch, depth))

        def fill(stage: Expr, step: Expr) -> None:
            offsets = {depth: let(tirx.const(0, INT32) + step * depth) for depth in {tile.depth, self.weight_depth}}
            for buffer, to, source, inside, room, pitch, depth in parts:
                offset = offsets[depth]
                valid = inside if pitch % depth == 0 else tirx.And(inside, offset < room)
                ptx.copy(block.shared, to + stage * self.slice_bytes, buffer, source + offset, CHUNK, valid, self.arch)

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
        base = let(base)
        right = let(base + tile.rows * tile.depth)
        for step in range(steps):
            index = part * steps + step
            first = index * (DEPTH // CHUNK)
            with T.unroll(down) as i:
                line = let(below * rows + i * ROWS + left_row)
                at = base + line * tile.depth + swizzled(line, first + left_chunk, chunks) * CHUNK
                ptx.load_fragments([a[i * 4 + r] for r in range(4)], block.shared, at)
            if self.bits == 4:
                self._load_halves(block, b, right, beside * columns, index)
            else:
                self._load_right(block, b, right, beside * columns, first)
            with T.unroll(down) as i, T.unroll(across) as j:
                d = [sums[(i * across + j) * 4 + r] for r in range(4)]
                ptx.multiply_add(d, [a[i * 4 + r] for r in range(4)], [b[j * 2], b[j * 2 + 1]], self.arch)

    def _load_right(self, block: Block, b: Buffer, base: Expr, column: Expr, first: Expr) -> None:
        """The right fragments of a step, which begins with chunk `first` of a slice's weights at `base`."""
        depth = self.tile.depth
        row, chunk = right_address(block.lane)
        with T.unroll(self.counts[1] // 2) as j:
            line = let(column + j * (2 * COLUMNS) + row)
            at = base + line * depth + swizzled(line, first + chunk, depth // CHUNK) * CHUNK
            ptx.load_fragments([b[j * 4 + r] for r in range(4)], block.shared, at)

    def _load_halves(self, block: Block, b: Buffer, base: Expr, column: Expr, step: Expr) -> None:
        """The right fragments of a step, one chunk of each column's packed weights, 16 times as large."""
        packed = local(4, "uint32")
        with T.unroll(self.counts[1] // 4) as j:
            line = let(column + j * GROUP + block.lane)
            at = base + line * self.weight_depth + swizzled(line, step, self.weight_depth // CHUNK) * CHUNK
            ptx.load_fragments([packed[r] for r in range(4)], block.shared, at)
            for r in range(4):
                high = tirx.const(0xF0F0F0F0, "uint32")
                T.buffer_store(b, (packed[r] << tirx.const(4, "uint32")) & high, [j * 8 + 2 * r])
                T.buffer_store(b, packed[r] & high, [j * 8 + 2 * r + 1])

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
                            total = sums[fragment * 4 + (half & 1) * 2 + (e & 1)].astype(INT32)
                            return total >> 4 if self.bits == 4 else total

                        finish.put(value, line, at, n, known)

        with T.If(part == 0), T.Then(), T.unroll(across * COLUMNS // GROUP) as g:
            group(g)
