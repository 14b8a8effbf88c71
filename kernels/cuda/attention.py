"""Attention without its matrices in memory: scores, Shiftmax, `P·V` and the epilogue (`intvit.dialect.attention`).

    scores[t, s] = sum_c q[t, c] * k[s, c]
    e[t, s]      = Shiftmax's exponentials, up to 15 bits
    y[t, h*E + c] = epilogue(mean(sum_s e[t, s] * v[s, c]))

A block takes 64 queries of a head, a warp 16 of them. The exponentials need the row's true maximum, to the bit, so keys
pass twice: first for the maxima, then for the weights and the second product; scores stay in registers. Weights of more
than 8 bits are two bytes, two products with the same values.

A lane's scores, columns `2 t, 2 t + 1` of four products of 8 keys, are its part of a left fragment of 32 keys in
another order. The right fragment takes the values in that order: `ldmatrix.trans` of 16-bit pairs gives two keys by two
channels a register, and `prmt` sorts these into even and odd channels. So a lane ends with 4 neighbouring channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.arith import INT32, let, quotient, remainder, wide
from intvit.kernels.cuda.fragments import CHUNK, COLUMNS, DEPTH, ROWS, left_address, padded, result_row, right_address
from intvit.kernels.cuda.heads import KEYS, QUERIES, WARPS, Heads, Source
from intvit.kernels.cuda.launch import ROLLED, WARP, Block, DeviceKernel, clear, device_kernel, local
from intvit.kernels.cuda.shiftmax import exponential, row_mean
from intvit.kernels.cuda.store import Finish, epilogue_pointers
from intvit.kernels.epilogue import Epilogue
from intvit.softmax_levels import SoftmaxLevels

LEAST = 1 - (1 << 31)
NEIGHBOURS = 4
"""Channels that a lane ends with side by side."""
EVEN, ODD = 0x6420, 0x7531
Score = Callable[[Expr, Expr, Expr], Expr]
"""What becomes of a score of a lane's first or second query with a key."""


def attention(
    sizes: Heads,
    score_shift: int,
    bits: int,
    epilogue: Epilogue,
    arch: Arch,
    *,
    levels: SoftmaxLevels | None = None,
    name: str = "attention",
) -> DeviceKernel:
    """Inputs: int8 q, k, v `[batch * tokens, stride]`, int8 and int16 `[heads]` of the scores, the epilogue's operands.

    Output int8 `[batch * queries, stride]`, columns head by head. `rows` is the batch.
    """

    def body(block: Block, q: Buffer, k: Buffer, v: Buffer, pre: Buffer, mul: Buffer, *rest: Buffer) -> None:
        *operands, y = rest
        task = Task(sizes, arch, block, q, k, v)
        shift, factor = let(wide(pre[task.head])), let(wide(mul[task.head]))
        task.load_queries()
        top = task.maxima(lambda score, half, key: score)

        def weight(score: Expr, half: Expr, key: Expr) -> Expr:
            return exponential(score, top[half], let(key < sizes.keys), shift, factor, score_shift, bits, levels)

        task.finish(*task.weighted(weight, bits), output(sizes, epilogue, operands, y), bits)

    return attention_kernel(name, sizes, epilogue, body)


def output(sizes: Heads, epilogue: Epilogue, operands: Sequence[Buffer], y: Buffer) -> Finish:
    """How a kernel stores its results."""
    whole = sizes.value_size % NEIGHBOURS == 0
    stride = sizes.strides[3]
    return Finish(epilogue, operands, y, stride, stride, NEIGHBOURS, aligned=whole, whole=whole)


def attention_kernel(
    name: str,
    sizes: Heads,
    epilogue: Epilogue,
    body: Callable[..., None],
    more: Sequence[tuple[str, str]] = (),
) -> DeviceKernel:
    """A kernel whose pointers are those of `attention`, `more` of them before the epilogue's."""
    pointers = [("q", "uint8"), ("k", "uint8"), ("v", "uint8"), ("score_pre", "int8"), ("score_mul", "int16"), *more]
    return device_kernel(
        name,
        [*pointers, *epilogue_pointers(epilogue), ("y", epilogue.dtype)],
        body,
        threads=WARPS * WARP,
        times=sizes.heads * sizes.blocks * sizes.parts,
        shared=sizes.shared,
        resident=sizes.resident,
    )


class Task:
    """A block of queries of one head; `image` counts the windows of all images."""

    def __init__(self, sizes: Heads, arch: Arch, block: Block, q: Buffer, k: Buffer, v: Buffer) -> None:
        self.sizes, self.arch, self.block = sizes, arch, block
        self.channel = let(remainder(block.index, sizes.parts) * sizes.channels)
        rest = quotient(block.index, sizes.parts)
        self.first = let(remainder(rest, sizes.blocks) * QUERIES)
        rest = quotient(rest, sizes.blocks)
        self.head, self.image = let(remainder(rest, sizes.heads)), let(quotient(rest, sizes.heads))
        size, none = sizes.head_size, tirx.const(0, INT32)
        self.q = Source(q, sizes.queries, sizes.strides[0], size, none, size)
        self.k = Source(k, sizes.keys, sizes.strides[1], size, none, size)
        self.v = Source(v, sizes.keys, sizes.strides[2], sizes.value_size, self.channel, sizes.channels)
        self.fragments = local(sizes.depth // DEPTH * 4, "uint32")
        for start, rows, pitch, used in (
            (0, QUERIES, sizes.pitch, sizes.head_size),
            *(
                part
                for buffer in range(2)
                for base in (QUERIES * sizes.pitch + buffer * sizes.tile_bytes,)
                for part in (
                    (base, KEYS, sizes.pitch, sizes.head_size),
                    (base + KEYS * sizes.pitch, KEYS, sizes.value_pitch, sizes.channels),
                )
            ),
        ):
            self._clear(start, rows, pitch, used)

    def _clear(self, start: int, rows: int, pitch: int, used: int) -> None:
        """Zeros behind the columns that are copied."""
        for column in range(used, padded(used, DEPTH)):
            if column < pitch:
                with T.If(self.block.thread < rows), T.Then():
                    clear(self.block.shared, start + self.block.thread * pitch + column, 1)

    def _fill(self, source: Source, first: Expr, start: Expr, rows: int, pitch: int) -> None:
        """Copies a tile of an operand, whose first row is token `first`; zeros for tokens that do not exist."""
        piece = gcd(source.size, gcd(source.stride, CHUNK))
        across = source.count // piece
        total = rows * across
        for i in range(0, total, WARPS * WARP):
            at = let(self.block.thread + i)
            row, column = let(quotient(at, across)), let(remainder(at, across) * piece)

            def one(row: Expr = row, column: Expr = column) -> None:
                token, inside = let(first + row), let(source.column + column)
                origin = (self.image * source.tokens + token) * source.stride + self.head * source.size + inside
                valid = token < source.tokens
                if self.sizes.parts > 1:
                    valid = tirx.And(valid, inside < source.size)
                ptx.copy(
                    self.block.shared, start + row * pitch + column, source.buffer, origin, piece, valid, self.arch
                )

            if i + WARPS * WARP <= total:
                one()
            else:
                with T.If(at < total), T.Then():
                    one()

    def load_queries(self) -> None:
        """The warp's queries as left fragments."""
        s = self.sizes
        self._fill(self.q, self.first, 0, QUERIES, s.pitch)
        ptx.commit(self.arch)
        ptx.wait(0, self.arch)
        ptx.barrier()
        row, chunk = left_address(self.block.lane)
        with T.unroll(s.depth // DEPTH) as step:
            at = (self.block.warp * ROWS + row) * s.pitch + (step * 2 + chunk) * CHUNK
            ptx.load_fragments([self.fragments[step * 4 + r] for r in range(4)], self.block.shared, at)

    def _pass(self, visit: Callable[[Expr, Expr], None], *, values: bool) -> None:
        """`visit(buffer, first key)` for each tile of keys, the next one's copies under way."""
        s = self.sizes

        def fill(tile: Expr) -> None:
            start = let(QUERIES * s.pitch + (tile & 1) * s.tile_bytes)
            self._fill(self.k, tile * KEYS, start, KEYS, s.pitch)
            if values:
                self._fill(self.v, tile * KEYS, start + KEYS * s.pitch, KEYS, s.value_pitch)
            ptx.commit(self.arch)

        ptx.barrier()
        fill(tirx.const(0, INT32))
        with T.serial(s.tiles, annotations=ROLLED) as tile:
            ptx.barrier()
            ahead = let(tile + 1)
            with T.If(ahead < s.tiles):
                with T.Then():
                    fill(ahead)
                with T.Else():
                    ptx.commit(self.arch)
            ptx.wait(1, self.arch)
            ptx.barrier()
            visit(let(QUERIES * s.pitch + (tile & 1) * s.tile_bytes), let(tile * KEYS))

    def _scores(self, start: Expr) -> Buffer:
        """A warp's scores of a tile of keys, `[products, 4]`, flat."""
        s = self.sizes
        scores = local(KEYS // COLUMNS * 4, "uint32")
        with T.unroll(KEYS // COLUMNS * 4) as i:
            T.buffer_store(scores, tirx.const(0, "uint32"), [i])
        row, chunk = right_address(self.block.lane)
        b = local(4, "uint32")
        with T.unroll(s.depth // DEPTH) as step, T.unroll(KEYS // (2 * COLUMNS)) as pair:
            at = start + (pair * (2 * COLUMNS) + row) * s.pitch + (step * 2 + chunk) * CHUNK
            ptx.load_fragments([b[r] for r in range(4)], self.block.shared, at)
            for side in range(2):
                d = [scores[(pair * 2 + side) * 4 + r] for r in range(4)]
                a = [self.fragments[step * 4 + r] for r in range(4)]
                ptx.multiply_add(d, a, [b[side * 2], b[side * 2 + 1]], self.arch)
        return scores

    def query(self, half: int) -> Expr:
        """A lane's first or second query, which need not exist."""
        return self.first + self.block.warp * ROWS + result_row(self.block.lane) + half * (ROWS // 2)

    def _key(self, first: Expr, i: Expr) -> Expr:
        """The key of a lane's `i`-th score."""
        return first + (i >> 2) * COLUMNS + (self.block.lane & 3) * 2 + (i & 1)

    def maxima(self, stored: Score) -> Buffer:
        """The largest score of a lane's two queries, as `stored`."""
        top = local(2, INT32)
        for half in range(2):
            T.buffer_store(top, tirx.const(LEAST, INT32), [half])

        def visit(start: Expr, first: Expr) -> None:
            scores = self._scores(start)
            with T.unroll(KEYS // COLUMNS * 4) as i:
                half = (i >> 1) & 1
                key = let(self._key(first, i))
                score = stored(scores[i].astype(INT32), half, key)
                found = tirx.Select(key < self.sizes.keys, score, tirx.const(LEAST, INT32))
                T.buffer_store(top, tirx.max(top[half], found), [half])

        self._pass(visit, values=False)
        for half in range(2):
            for distance in (1, 2):
                T.buffer_store(top, tirx.max(top[half], ptx.exchanged(top[half], distance)), [half])
        return top

    def weighted(self, weight: Score, bits: int) -> tuple[Buffer, Buffer]:
        """`P·V` by bytes of the weights, `[byte, chunk, even or odd channels, 4]`, and the sums of the weights."""
        parts = -(-bits // 8)
        chunks = self.sizes.value_chunks
        sums, totals = local(parts * chunks * 8, "uint32"), local(2, INT32)
        with T.unroll(parts * chunks * 8) as i:
            T.buffer_store(sums, tirx.const(0, "uint32"), [i])
        for half in range(2):
            T.buffer_store(totals, tirx.const(0, INT32), [half])

        def visit(start: Expr, first: Expr) -> None:
            scores = self._scores(start)
            with T.unroll(KEYS // COLUMNS * 4) as i:
                half = (i >> 1) & 1
                e = let(weight(scores[i].astype(INT32), half, let(self._key(first, i))))
                T.buffer_store(totals, totals[half] + e, [half])
                T.buffer_store(scores, e.astype("uint32"), [i])
            self._add_values(scores, let(start + KEYS * self.sizes.pitch), sums, parts)

        self._pass(visit, values=True)
        for half in range(2):
            for distance in (1, 2):
                T.buffer_store(totals, totals[half] + ptx.exchanged(totals[half], distance), [half])
        return sums, totals

    def _add_values(self, weights: Buffer, start: Expr, sums: Buffer, parts: int) -> None:
        """The weights of a tile times its values."""
        chunks = self.sizes.value_chunks
        a, v = local(parts * 4, "uint32"), local(4, "uint32")
        with T.unroll(KEYS // DEPTH) as step:
            for r in range(4):
                at = (step * 4 + (r >> 1) * 2) * 4 + (r & 1) * 2
                one, two = (let(weights[at + j * 4] | (weights[at + j * 4 + 1] << 16)) for j in range(2))
                for part in range(parts):
                    T.buffer_store(a, ptx.permuted(one, two, (EVEN, ODD)[part]), [part * 4 + r])
            with T.unroll(chunks) as chunk:
                at = start + (step * DEPTH + self.block.lane) * self.sizes.value_pitch + chunk * CHUNK
                ptx.load_fragments([v[r] for r in range(4)], self.block.shared, at, transposed=True)
                for parity, selector in enumerate((EVEN, ODD)):
                    b = [let(ptx.permuted(v[2 * r], v[2 * r + 1], selector)) for r in range(2)]
                    for part in range(parts):
                        d = [sums[((part * chunks + chunk) * 2 + parity) * 4 + r] for r in range(4)]
                        ptx.multiply_add(d, [a[part * 4 + r] for r in range(4)], b, self.arch, ptx.UNSIGNED)

    def finish(self, sums: Buffer, totals: Buffer, finish: Finish, bits: int) -> None:
        """Divides by the sums of the weights and stores through the epilogue."""
        s = self.sizes
        chunks = s.value_chunks
        for half in range(2):
            query = let(self.query(half))
            mean = row_mean(let(totals[half]))
            with T.If(query < s.queries), T.Then(), T.unroll(chunks) as chunk:
                channel = let(self.channel + chunk * CHUNK + (self.block.lane & 3) * NEIGHBOURS)

                def value(e: Expr, chunk: Expr = chunk, half: int = half, mean: Callable[[Expr], Expr] = mean) -> Expr:
                    at = (chunk * 2 + (e & 1)) * 4 + half * 2 + (e >> 1)
                    total = sums[at].astype(INT32)
                    if bits > 8:
                        total = let(total + (sums[chunks * 8 + at].astype(INT32) << 8))
                    return mean(total)

                with T.If(channel < s.value_size), T.Then():
                    line, origin = let(self.image * s.queries + query), let(self.head * s.value_size)
                    column, end = let(origin + channel), let(origin + s.value_size)
                    finish.put(value, line, column, end, finish.columns(column, end))
