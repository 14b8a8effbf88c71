"""Normalization over all tokens and a block of channels (`intvit.dialect.groupnorm` defines every bit).

    m, f, V  of all numbers of a group                                (`moments`)
    g = 2^(29 + p) / sqrt(V),  F = g << up,  t = (x - m) F - f F
    y = clamp((fine(t >> (down + 1)) mul[c] + bias[c]) >> shift)

A task is a group of an image, or some small ones that lie side by side, enough to fill vectors. It goes down the tokens
with neighbouring channels in the lanes, twice: for sums of `x` and of the halves of `x^2`, a channel in each lane,
which fit 32 bits for 2^15 tokens; then, with all that depends on a channel in registers, for the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, bit_length, clamp, let, load, load32, rshift, store
from intvit.kernels.function import Tensor, function, kept, registers, scratch, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.layernorm import HALF, INT32, LIMITS, power, reciprocal_root, scaled
from intvit.kernels.moments import factors, floating, moments, split_squares, split_sum
from intvit.kernels.pack import round_up
from intvit.kernels.tile import across

FINE = 29
"""Bits of `n`."""
TOKENS = 1 << 15
"""Tokens whose sums fit 32 bits."""
SAFE_COUNT = 1 << 18
"""Up to so many numbers in a group none is as many deviations from the mean as saturate."""
DIGITS = 5


@dataclass(frozen=True)
class Groups:
    """Sizes of a normalization, and how it is cut into tasks."""

    channels: int
    groups: int
    tokens: int
    isa: Isa

    @property
    def size(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def count(self) -> int:
        """Numbers of a group."""
        return self.size * self.tokens

    @property
    def span(self) -> int:
        """Groups of a task: the fewest that fill two vectors."""
        fits = (n for n in range(1, self.groups) if self.groups % n == 0 and n * self.size >= 2 * self.isa.lanes)
        return next(fits, self.groups) if self.groups > 1 else 1

    @property
    def lines(self) -> int:
        """Groups of a task, whole vectors of them: at least two vectors (`function.scratch` says why)."""
        return max(round_up(self.span, self.isa.lanes), 2 * self.isa.lanes)

    @property
    def width(self) -> int:
        """Channels of a task."""
        return self.span * self.size


def groupnorm(sizes: Groups, shift: int, *, dtype: str = "int8", name: str = "groupnorm") -> tirx.PrimFunc:
    """Inputs: x int16 [batch * tokens, channels], mul int16 and bias int32 [channels], (eps, min_shift) int32 [2].

    Output `dtype`, like x.
    """
    rows = symbol("rows")
    tasks = sizes.groups // sizes.span

    def body(x: Buffer, mul: Buffer, bias: Buffer, floor: Buffer, y: Buffer) -> None:
        with T.parallel(rows // sizes.tokens * tasks) as task:
            top = let(task // tasks * sizes.tokens)
            left = let(task % tasks * sizes.width)
            digits = _digits(x, top, left, sizes)
            of = _scaling(digits, let(floor[0]), let(floor[1]), sizes)

            def write(column: Expr, lanes: int) -> None:
                at = let(left + column)
                m, factor, offset, down = of(column, lanes)
                weight, addend = kept(load32(mul, (at,), lanes)), kept(load(bias, (at,), lanes))
                with T.serial(sizes.tokens) as token:
                    t = (load32(x, (top + token, at), lanes) - m) * factor - offset
                    n = let(((t >> down) + 1) >> 1)
                    if sizes.count > SAFE_COUNT:
                        n = clamp(n, -(1 << FINE), (1 << FINE) - 1)
                    value = scaled(n, weight, FINE) + addend
                    store(y, (top + token, at), clamp(rshift(value, shift), *LIMITS[dtype]))

            _across(sizes.width, sizes.isa, write)

    tensors = [
        Tensor("x", (rows, sizes.channels), "int16"),
        Tensor("mul", (sizes.channels,), "int16"),
        Tensor("bias", (sizes.channels,), INT32),
        Tensor("floor", (2,), INT32),
        Tensor("y", (rows, sizes.channels), dtype),
    ]
    return function(name, tensors, body)


def _across(count: int, isa: Isa, visit: Callable[[Expr, int], None]) -> None:
    """`visit(column, lanes)` over all columns, two vectors together where there are as many."""
    pairs = count // (2 * isa.lanes)
    if pairs:
        with T.serial(pairs) as i:
            visit(let(i * (2 * isa.lanes)), 2 * isa.lanes)
    done = pairs * 2 * isa.lanes
    across(count - done, isa, lambda column, lanes: visit(column + done, lanes))


def _digits(x: Buffer, top: Expr, left: Expr, sizes: Groups) -> Buffer:
    """The digits of the sums of each group, `[DIGITS, lines]`."""
    digits = scratch((DIGITS, sizes.lines), INT32)
    sums = scratch((3, sizes.width), INT32)
    with T.serial(DIGITS) as i, T.serial(sizes.lines) as group:
        T.buffer_store(digits, tirx.const(0, INT32), [i, group])
    for begin in range(0, sizes.tokens, TOKENS):
        tokens = min(TOKENS, sizes.tokens - begin)

        def add_up(column: Expr, lanes: int, begin: int = begin, tokens: int = tokens) -> None:
            found = registers(3, lanes)
            for register in found:
                store(register, (0,), tirx.const(0, INT32 if lanes == 1 else f"{INT32}x{lanes}"))
            with T.serial(tokens) as token:
                value = let(load32(x, (top + begin + token, left + column), lanes))
                square = let(value * value)
                for register, term in zip(found, (value, square >> HALF, square & ((1 << HALF) - 1)), strict=True):
                    store(register, (0,), load(register, (0,), lanes) + term)
            for i, register in enumerate(found):
                store(sums, (i, column), load(register, (0,), lanes))

        _across(sizes.width, sizes.isa, add_up)
        with T.serial(sizes.width) as column:
            group = let(column // sizes.size)
            total, high, low = (let(sums[i, column]) for i in range(3))
            for i, part in enumerate((*split_sum(total), *split_squares(high, low))):
                T.buffer_store(digits, digits[i, group] + part, [i, group])
    return digits


def _scaling(
    digits: Buffer, eps: Expr, min_shift: Expr, sizes: Groups
) -> Callable[[Expr, int], tuple[Expr, Expr, Expr, Expr]]:
    """`m`, `F`, `f F` and `down` of the channels from a column on; a group in each lane while they are worked out."""
    isa = sizes.isa
    of_groups = scratch((4, sizes.lines), INT32)
    with T.serial(sizes.lines // isa.lanes) as block:
        *total, a, b, c = (kept(load(digits, (i, block * isa.lanes), isa.lanes)) for i in range(DIGITS))
        found = moments(total, (a, b, c), sizes.count, kept)
        least = T.broadcast(eps, isa.lanes), T.broadcast(min_shift, isa.lanes)
        v, q = floating(found, *least, bit_length, lambda x, exponent: power(x, exponent, isa), kept)
        g, p = (kept(value) for value in reciprocal_root(v, q, isa))
        for i, value in enumerate((found.mean, *factors(found, g, p, isa.lshift, kept))):
            store(of_groups, (i, block * isa.lanes), value)
    if sizes.span == 1:
        one = tuple(let(of_groups[i, 0]) for i in range(4))
        return lambda column, lanes: (*one[:3], let(one[3] & 31))
    of_channels = scratch((4, sizes.width), INT32)
    with T.serial(4) as i, T.serial(sizes.span) as group, T.serial(sizes.size) as channel:
        T.buffer_store(of_channels, of_groups[i, group], [i, group * sizes.size + channel])

    def of(column: Expr, lanes: int) -> tuple[Expr, Expr, Expr, Expr]:
        m, factor, offset, down = (kept(load(of_channels, (i, column), lanes)) for i in range(4))
        return m, factor, offset, let(down & 31)

    return of
