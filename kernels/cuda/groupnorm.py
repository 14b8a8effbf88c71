"""Normalization over all tokens and a block of channels, a thread block for each (`intvit.dialect.groupnorm`).

    m, f, V  of all numbers of a group                                (`intvit.kernels.moments`)
    g = 2^(29 + p) / sqrt(V),  F = g << up,  t = (x - m) F - f F
    y = clamp((fine(t >> (down + 1)) mul[c] + bias[c]) >> shift)

Threads go through the group twice. Their sums are of 32 bits; as digits they go round the warp, and from the block's
memory every thread adds up those of all warps and works out the rest, alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda import ptx
from intvit.kernels.cuda.arith import INT32, bit_length, clamp, let, quotient, remainder, rshift, wide
from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import ROLLED, WARP, Block, DeviceKernel, device_kernel, local, move, view
from intvit.kernels.cuda.layernorm import LOWER, power, reciprocal_root, scaled
from intvit.kernels.layernorm import HALF, LIMITS
from intvit.kernels.moments import factors, floating, moments, split_squares, split_sum

THREADS = 256
WARPS = THREADS // WARP
DIGITS = 5
FINE = 29
"""Bits of `n`."""


@dataclass(frozen=True)
class Group:
    """Numbers of a group of an image: tokens, channels, elements between rows of x and of y."""

    tokens: int
    size: int
    width: int
    stride: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.tokens * self.size

    @property
    def step(self) -> int:
        """Neighbours that a thread reads at once."""
        return gcd(self.size, NEIGHBOURS)

    def each(self, block: Block, visit: Callable[[Expr, Expr], None]) -> None:
        """`visit(token, first column of the group)` of the neighbours that this thread has."""
        items = self.count // self.step
        with T.serial(-(-items // THREADS), annotations=ROLLED) as turn:
            item = let(turn * THREADS + block.thread)
            with T.If(item < items), T.Then():
                line = self.size // self.step
                visit(let(quotient(item, line)), let(remainder(item, line) * self.step))


def groupnorm(
    channels: int,
    groups: int,
    tokens: int,
    shift: int,
    width: int,
    stride: int,
    *,
    dtype: str = "int8",
    name: str = "groupnorm",
) -> DeviceKernel:
    """Inputs: x int16 `[batch * tokens, width]`, mul int16 and bias int32 `[channels]`, (eps, min_shift) int32 `[2]`.

    `width` is a multiple of 16. Output `[batch * tokens, stride]` of a type. `rows` is the batch.
    """
    group = Group(tokens, channels // groups, width, stride)

    def body(block: Block, x: Buffer, mul: Buffer, bias: Buffer, floor: Buffer, y: Buffer) -> None:
        top = let(quotient(block.index, groups) * tokens)
        left = let(remainder(block.index, groups) * group.size)
        digits = _digits(x, top, left, group, block)
        m, factor, offset, down = _scaling(digits, let(floor[0]), let(floor[1]), group.count)
        right = let(down & 31)  # TVM must know what a shift may be

        def write(token: Expr, column: Expr) -> None:
            step = group.step
            values, weights = local(step, "int16"), local(step, "int16")
            terms, results = local(step, INT32), local(step, dtype)
            at = let(left + column)
            move(values, 0, x, let((top + token) * width + at), step)
            move(weights, 0, mul, at, step)
            move(terms, 0, bias, at, step)
            with T.unroll(step) as e:
                t = (wide(values[e]) - m) * factor - offset
                n = let(clamp(((t >> right) + 1) >> 1, -(1 << FINE), (1 << FINE) - 1))
                value = scaled(n, let(wide(weights[e])), FINE) + terms[e]
                T.buffer_store(results, clamp(rshift(value, shift), *LIMITS[dtype]).astype(dtype), [e])
            to = let((top + token) * stride + at)
            if stride % step == 0:
                move(y, to, results, 0, step)
            else:
                with T.unroll(step) as e:
                    T.buffer_store(y, results[e], [to + e])

        group.each(block, write)

    pointers = [("x", "int16"), ("mul", "int16"), ("bias", INT32), ("floor", INT32), ("y", dtype)]
    return device_kernel(name, pointers, body, threads=THREADS, times=groups, shared=4 * DIGITS * WARPS)


def _digits(x: Buffer, top: Expr, left: Expr, group: Group, block: Block) -> list[Expr]:
    """The digits of the sums of a group, as all threads know them."""
    sums = local(3, INT32)
    for i in range(3):
        T.buffer_store(sums, tirx.const(0, INT32), [i])

    def read(token: Expr, column: Expr) -> None:
        values = local(group.step, "int16")
        move(values, 0, x, let((top + token) * group.width + left + column), group.step)
        with T.unroll(group.step) as e:
            value = let(wide(values[e]))
            square = let(value * value)
            for i, term in enumerate((value, square >> HALF, square & LOWER)):
                T.buffer_store(sums, sums[i] + term, [i])

    group.each(block, read)
    digits = local(DIGITS, INT32)
    for i, part in enumerate((*split_sum(sums[0]), *split_squares(sums[1], sums[2]))):
        T.buffer_store(digits, part, [i])
    for distance in (1, 2, 4, 8, 16):
        for i in range(DIGITS):
            T.buffer_store(digits, digits[i] + ptx.exchanged(digits[i], distance), [i])
    shared = view(block.shared, INT32)
    with T.If(block.lane == 0), T.Then():
        for i in range(DIGITS):
            T.buffer_store(shared, digits[i], [block.warp * DIGITS + i])
    ptx.barrier()
    found = local(DIGITS, INT32)
    for i in range(DIGITS):
        T.buffer_store(found, shared[i], [i])
        for warp in range(1, WARPS):
            T.buffer_store(found, found[i] + shared[warp * DIGITS + i], [i])
    return [found[i] for i in range(DIGITS)]


def _scaling(digits: list[Expr], eps: Expr, min_shift: Expr, count: int) -> tuple[Expr, Expr, Expr, Expr]:
    """`m`, `F`, `f F` and `down`."""
    *total, a, b, c = digits
    found = moments(total, (a, b, c), count, _kept)
    v, q = floating(found, eps, min_shift, bit_length, power, _kept)
    g, p = (_kept(value) for value in reciprocal_root(v, q))
    factor, offset, down = factors(found, g, p, lambda x, shift: x << (shift & 31), _kept)
    return found.mean, factor, offset, down


def _kept(x: Expr) -> Expr:
    """`x` in a register of its own."""
    register = local(1, INT32)
    T.buffer_store(register, x, [0])
    return register[0]
