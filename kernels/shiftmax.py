"""Shiftmax on a block of scores, and its one division per query (`intvit.dialect.attention`).

    below    = sat16(rshift(scores - max_s scores, pre))                          int16, <= 0
    e[s, t]  = exponentials(rshift(below * mul, shift))                           0..2^bits - 1, see `exponential`;
                                                                                  on levels first, where there are any
    total[t] = sum_s e[s, t]                                                      128 at least
    mean     = rshift(sat16(rshift(P.V, length - 8)) * inverse, 15)               length of total in bits

Two loops, with the exponents in the place of the weights between them: an exponential is a chain of dependent
instructions, and of half of it twice as many run side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels import exponential
from intvit.kernels.arith import Buffer, Expr, bit_length, half_unit, lanes_of, let, load, rshift, store, widen
from intvit.kernels.exponential import log2_units
from intvit.kernels.function import kept, registers
from intvit.kernels.int16 import INT16, INT32, packed, rounding_multiply
from intvit.kernels.interleave import join_saturated
from intvit.kernels.isa import Isa
from intvit.kernels.softmax import Scaling, Vectors
from intvit.softmax_levels import SoftmaxLevels


@dataclass(frozen=True)
class Shiftmax:
    """Exponentials of `bits` bits, on `levels` or any, divided by their sum after the second product."""

    score_shift: int
    bits: int
    levels: SoftmaxLevels | None = field(default=None, kw_only=True)

    def stored(self, sums: Expr, pre: Expr, mul: Expr) -> Expr:
        return sums

    def weigh(self, scores: Buffer, top: Buffer, pre: Expr, mul: Expr, weights: Buffer, keys: int, isa: Isa) -> Scaling:
        base = registers(1, isa.lanes)[0]
        store(base, (0,), load(top, (0,), isa.lanes) - let(half_unit(pre)))
        with T.serial(weights.shape[0]) as g:
            rows = [load(scores, (g * isa.group + i, 0), isa.lanes) for i in range(isa.group)]
            below = kept(join_saturated([(row - load(base, (0,), isa.lanes)) >> pre for row in rows], isa))
            store(weights, (g, 0), log2_units(below, mul, self.score_shift, isa))
        return row_means(self.exponentials(weights, keys, isa), isa)

    def exponentials(self, weights: Buffer, keys: int, isa: Isa) -> Buffer:
        """Exponents into weights, in place; returns their sums."""
        total = registers(1, isa.lanes)[0]
        store(total, (0,), tirx.const(0, f"{INT32}x{isa.lanes}"))
        lanes = isa.lanes * isa.group
        ones, nothing = (tirx.const(value, f"{INT16}x{lanes}") for value in (1, 0))

        def step(g: Expr, *, whole: bool) -> None:
            log2 = load(weights, (g, 0), lanes)
            if self.levels:
                log2 = exponential.on_levels(log2, self.levels, isa)
            e = exponential.exponentials(log2, self.bits, isa)
            if not whole:
                e = kept(tirx.reinterpret(f"{INT16}x{lanes}", tirx.reinterpret(f"{INT32}x{isa.lanes}", e) & 0xFFFF))
            store(total, (0,), isa.dot(load(total, (0,), isa.lanes), e, ones))
            store(weights, (g, 0), e)

        groups = keys // isa.group
        with T.serial(groups) as g:
            step(g, whole=True)
        if keys % isa.group:
            step(groups, whole=False)
        for g in range(-(-keys // isa.group), int(weights.shape[0])):
            store(weights, (g, 0), nothing)
        return total


def reciprocal(total: Expr, isa: Isa) -> tuple[Expr, Expr]:
    """Bit length of a row sum of at least 128, and `2^29` over the sum scaled to 15 bits, at most `2^15 - 1`."""
    bits = bit_length(let(total))
    scaled = isa.lshift(total, tirx.max(15 - bits, 0)) >> tirx.max(bits - 15, 0)
    return bits, tirx.min(tirx.truncdiv(tirx.const(1 << 29, total.ty.dtype), scaled), 32767)


def row_means(total: Buffer, isa: Isa) -> Scaling:
    """For query `t` of a block, what divides its `P.V` by its sum: int32 lanes to int16."""
    bits, inverse = reciprocal(load(total, (0,), isa.lanes), isa)
    shifts, inverses = registers(2, isa.lanes)
    store(shifts, (0,), bits - 8)
    store(inverses, (0,), inverse)

    def divide(t: Expr) -> Vectors:
        shift, factor = let(load(shifts, (t,), 1)), let(widen(load(inverses, (t,), 1), INT16))

        def means(sums: Expr) -> Expr:
            factors = factor if lanes_of(sums) == 1 else tirx.Broadcast(factor, lanes_of(sums))
            return rounding_multiply(packed(rshift(sums, shift), isa), factors, isa)

        return means

    return divide
