"""`attention`: scores, Shiftmax and `P·V` as ONNX nodes (`intvit.dialect.attention` has the formula).

A weight `e` depends on the distance `n >= 0` of its score from the row's largest, and on its head:

    w = (n + rise) / 2^pre                  the first shift of the score's dyadic, rounded, of -n
    e = exponential(-((w m + ...) >> shift))

so that `e` is looked up: the index is `(n + rise) / grain`, `grain` the smallest `2^pre` of all heads, and a table a
head, one after the other, is filled when the model is loaded (see `gelu`). `e` has up to 15 bits and is two tables, of
its upper bits and its lower 8, whose products with `V` are 8-bit products:

    o = 256 (upper V) + lower V,   s = 256 Σ upper + Σ lower

Weights on logarithmic levels (`intvit.softmax_levels`) differ in the tables only.
Where `V` or `K` is the second factor of a product it is int8 (`s8`), or uint8 with a zero point of 128 (`u8`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from intvit.dialect.attention import LOG2_FRACTION, exponentials, on_levels
from intvit.softmax_levels import SoftmaxLevels
from intvit.to_onnx.integer.dyadic import RAISE8, RAISE16, Array, floor_shift, levelled
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.scope import Scope

LOW = 8
"""Bits of the lower table."""
MEAN_RISE = 1 << 30
"""What makes a row's mean, at 2^15 above Q7, non-negative."""
MEAN_END = (1 << 14) + 2
"""Beyond every row's mean in Q7."""
REFERENCE_BITS = 15
"""Of a row's sum when its reciprocal is taken."""
SAFE_BITS = 23
"""Of a row's sum for which `o`, raised, fits 32 bits. Beyond, `o` is halved first."""
MOST_PRE_SHIFT = 15
"""Every row's mean in Q7 becomes 0 when shifted by more."""
LARGEST_PRODUCT = 128 * 128 + 128 * 127
"""How far apart the products of two pairs of 8-bit integers are at most."""


def last_log2(bits: int, levels: SoftmaxLevels | None = None) -> int:
    """The smallest distance in log2 units, of 8 fraction bits, whose weight is 0; so are those of all larger ones."""
    last = ((bits + 1) << LOG2_FRACTION) - 1
    return int(weights_at(last + levels.step, bits, levels).count_nonzero()) if levels else last


def weights_at(count: int, bits: int, levels: SoftmaxLevels | None) -> torch.Tensor:
    """Of the distances `0 .. count - 1` in log2 units, int32."""
    t = -torch.arange(count, dtype=torch.int32)
    return exponentials(on_levels(t, levels.step, levels.levels) if levels else t, bits)


def weights_by_log2(s: Scope, bits: int, levels: SoftmaxLevels | None = None) -> Iterator[str]:
    """Tables of the upper and the lower bits, uint8, of the weight at each distance `0 .. last_log2` in log2 units."""
    e = weights_at(last_log2(bits, levels) + 1, bits, levels).numpy()
    label = f"exponentials_{bits}" + (f"_on_{levels.levels}_of_{levels.step}" if levels else "")
    yield s.constant(e >> LOW, "uint8", f"{label}_upper")
    yield s.constant(e & ((1 << LOW) - 1), "uint8", f"{label}_lower")


@dataclass(frozen=True)
class FirstRounding:
    """The first shift of the result's dyadic together with that of the row's mean, `pre` int `[C]` or `[1]`.

    Two shifts that round are one division by `2^(15 + pre)`, since nothing is between them that is not added before.
    """

    pre: Array

    @property
    def divisor(self) -> Array:
        return np.int64(1) << (self.pre.astype(np.int64) + 15)

    @property
    def addend(self) -> Array:
        """Rounds both shifts, and raises by `2^30`."""
        return (1 << 14) + self.divisor // 2 * (self.pre > 0) + MEAN_RISE

    @property
    def raised_by(self) -> Array:
        """By how much the quotient is raised."""
        return MEAN_RISE // self.divisor


@dataclass(frozen=True)
class Distances:
    """How distances of scores become indices: per head, `pre` and `multiplier` int `[H]` of the score's dyadic."""

    pre: Array
    multiplier: Array
    shift: int
    bits: int
    span: int
    levels: SoftmaxLevels | None = None

    @classmethod
    def of(
        cls, pre: Array, multiplier: Array, shift: int, bits: int, span: int, levels: SoftmaxLevels | None = None
    ) -> "Distances":
        """For distances up to `span`. A head in which all of them round to 0 has the multiplier 0 instead."""
        lost = (span + _half_down(pre)) >> pre == 0
        shared = 0 if lost.all() else pre[~lost].min()
        return cls(np.where(lost, shared, pre), np.where(lost, 0, multiplier), shift, bits, span, levels)

    @property
    def grain(self) -> int:
        """What distances are divided by. 1 would spare the division, but larger tables cost more than that."""
        return 1 << int(self.pre.min())

    @property
    def rises(self) -> Array:
        """`2^(pre-1) - 1`, which rounds `-n / 2^pre` half up, and the place of a head's table times `grain`."""
        raised: Array = _half_down(self.pre) + np.arange(len(self.pre)) * self.count * self.grain
        return raised

    @property
    def coarser(self) -> Array:
        """How many indices share one `w`, per head."""
        return (np.int64(1) << self.pre.astype(np.int64)) // self.grain

    @property
    def count(self) -> int:
        """Entries of a head's table: none is beyond `span`, and the last stands for all larger distances."""
        w = np.arange((1 << 15) + 1, dtype=np.int64)[:, None]
        log2 = (w * self.multiplier.astype(np.int64) + self.half_down) >> self.shift
        log2 = np.minimum(log2, last_log2(self.bits, self.levels))
        reached = (log2 == log2[-1]).argmax(0)
        last = (self.span + int(_half_down(self.pre).max())) // self.grain
        return min(int((reached * self.coarser).max()), last) + 1

    @property
    def ends(self) -> Array:
        """The last place of each head's table."""
        return np.arange(1, len(self.pre) + 1) * self.count - 1

    @property
    def half_down(self) -> int:
        """Rounds the second shift of `-w` half up."""
        return int(_half_down(np.array(self.shift)))


def _half_down(shift: Array) -> Array:
    """What rounds a shift of negated numbers half up."""
    addend: Array = np.maximum((np.int64(1) << shift.astype(np.int64)) // 2 - 1, 0)
    return addend


def attention(
    s: Scope,
    q: str,
    k: str,
    v: str,
    rise: str,
    grain: str,
    last: str,
    count: str,
    coarser: str,
    score_multiplier: str,
    half_down: str,
    score_unit: str,
    divisor: str,
    mean_addend: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    heads: int,
    tokens: int,
    keys: int,
    bits: int,
    portable: bool,
    far: Far,
    windows: int = 1,
    size: int = 0,
    value_size: int = 0,
    levels: SoftmaxLevels | None = None,
) -> str:
    """uint8 q `[B, T, H·D]`, k and v `[B, S, H·D]` (int8, or uint8) to uint8 `[B, T, H·E]`.

    `tokens` and `keys` are those of a window; with several, `size` and `value_size` are `D` and `E`.
    """
    scores = score_products(s, q, k, heads, tokens, keys, portable, size)
    index = distance_index(s, scores, rise, grain, last, heads, tokens, keys)
    tables = weight_tables(s, coarser, score_multiplier, half_down, score_unit, count, bits, levels)
    weights = [look_up(s, table, index, heads, tokens, keys) for table in tables]
    result = (divisor, mean_addend, multiplier, addend, unit, top)
    sizes: dict[str, Any] = dict(heads=heads, tokens=tokens, keys=keys, windows=windows, value_size=value_size)
    return means(s, weights, v, *result, **sizes, bits=bits, portable=portable, far=far)


def means(
    s: Scope,
    weights: list[str],
    v: str,
    divisor: str,
    mean_addend: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    heads: int,
    tokens: int,
    keys: int,
    windows: int,
    value_size: int,
    bits: int,
    portable: bool,
    far: Far,
) -> str:
    """The result, uint8 `[B, T, H·E]`, of the upper and lower bits of the weights, uint8 `[B·W, H, T, S]`."""
    upper, lower = weights
    o = weighted_values(s, upper, lower, v, heads, keys, portable, value_size)
    ones = s.constant(np.ones((keys, 1)), "int8", label=f"ones_{keys}")
    sums = joined(s, *(s.op("Reshape", s.op("MatMulInteger", e, ones), s.int64(-1)) for e in (upper, lower)))
    mean = s.op("Transpose", row_mean(s, o, sums, heads, tokens, keys, bits), perm=[0, 2, 1, 3])
    rows = s.int64(-1, windows * tokens, heads * value_size) if value_size else s.int64(0, 0, -1)
    centred = s.op("Div", s.op("Add", s.op("Reshape", mean, rows), mean_addend), divisor)
    y = levelled(s, s.op("Add", s.op("Mul", centred, multiplier), addend), unit, top, far)
    return s.cast(y, "uint8")


def sums_fit(keys: int, bits: int) -> bool:
    """Whether `row_mean` is right for all rows; weights of 8 bits have no bit to halve for 32897 keys and more."""
    return bits > 8 or (((1 << bits) - 1) * keys).bit_length() <= SAFE_BITS


def split_heads(s: Scope, x: str, tokens: int, heads: int, order: list[int], size: int = 0) -> str:
    """`[B, T, H·D]` to heads, in the order of the axes `[B, T, H, D]`; with `size`, `D`, `[B, W·T, H·D]` to windows."""
    shape = s.int64(-1, tokens, heads, size) if size else s.int64(0, tokens, heads, -1)
    return s.op("Transpose", s.op("Reshape", x, shape), perm=order)


def score_products(s: Scope, q: str, k: str, heads: int, tokens: int, keys: int, portable: bool, size: int = 0) -> str:
    """`Q Kᵀ` of each window and head, int32 `[B·W, H, T, S]`."""
    queries = split_heads(s, q, tokens, heads, [0, 2, 1, 3], size)
    transposed = split_heads(s, k, keys, heads, [0, 2, 3, 1], size)
    zero = s.constant(RAISE8, "uint8")
    zeros = [zero, zero] if portable else [zero]
    return s.op("MatMulInteger", queries, transposed, *zeros, label="scores")


def weighted_values(
    s: Scope, upper: str, lower: str, v: str, heads: int, keys: int, portable: bool, size: int = 0
) -> str:
    """`256 (upper V) + lower V` of each head, int32 `[B, H, T, E]`, of uint8 upper and lower bits `[B, H, T, S]`."""
    values = split_heads(s, v, keys, heads, [0, 2, 1, 3], size)
    zeros = [s.constant(0, "uint8"), s.constant(RAISE8, "uint8")] if portable else []
    return joined(s, *(s.op("MatMulInteger", e, values, *zeros) for e in (upper, lower)))


def joined(s: Scope, upper: str, lower: str) -> str:
    """`256 upper + lower`."""
    return s.op("Add", s.op("Mul", upper, s.int32(1 << LOW)), lower)


def distance_index(s: Scope, scores: str, rise: str, grain: str, last: str, heads: int, tokens: int, keys: int) -> str:
    """Place in the heads' tables of each score's distance from its row's largest, int32 `[B, H, T, S]`."""
    largest = s.op("Add", s.op("ReduceMax", scores, s.int64(-1), keepdims=1), rise)
    index = s.op("Div", s.op("Sub", largest, scores), grain)
    return s.op("Min", index, s.op("Expand", last, s.int64(heads, tokens, 1)))


def weight_tables(
    s: Scope,
    coarser: str,
    multiplier: str,
    half_down: str,
    unit: str,
    count: str,
    bits: int,
    levels: SoftmaxLevels | None,
) -> list[str]:
    """Upper and lower bits of the weight at each index, uint8 `[H, count]`; nodes that read no input."""
    w = s.op("Min", s.op("Div", s.op("Range", s.int32(0), count, s.int32(1)), coarser), s.int32(1 << 15))
    log2 = s.op("Div", s.op("Add", s.op("Mul", w, multiplier), half_down), unit)
    log2 = s.op("Min", log2, s.int32(last_log2(bits, levels)))
    return [s.op("Gather", table, log2) for table in weights_by_log2(s, bits, levels)]


def row_mean(s: Scope, o: str, sums: str, heads: int, tokens: int, keys: int, bits: int) -> str:
    """`o / sums` at 2^15 above Q7: the product of `o >> k`, rounded, and the reciprocal, of rows `[B, H, T, E]`.

    What a row alone decides is computed on `[R]`: rows of one number each are slow to broadcast.
    """
    largest = (((1 << bits) - 1) * keys).bit_length()
    if bits < REFERENCE_BITS:
        sums = s.op("Mul", sums, s.int32(1 << (REFERENCE_BITS - bits)))
    unit = row_unit(s, sums, largest + REFERENCE_BITS - bits)
    reciprocal = s.op("Div", s.int32(1 << 29), s.op("Div", sums, unit))
    reciprocal = s.op("Min", reciprocal, s.int32((1 << 15) - 1))
    halved = largest > SAFE_BITS
    divisor = s.op("Mul", unit, s.int32(1 << (bits - 8 - halved)))
    rise = s.op("Mul", divisor, s.int32(RAISE16))
    if not halved:
        rise = s.op("Add", rise, s.op("Div", divisor, s.int32(2)))
    shape = s.int64(-1, heads, tokens, 1)
    reciprocal, divisor, rise = (s.op("Reshape", row, shape) for row in (reciprocal, divisor, rise))
    if halved:
        o = floor_shift(s, s.op("Add", o, divisor), 1)
    shifted = s.op("Sub", s.op("Div", s.op("Add", o, rise), divisor), s.int32(RAISE16))
    return s.op("Mul", shifted, reciprocal)


def row_unit(s: Scope, sums: str, largest: int) -> str:
    """`2^(bits - 15)` of int32 sums `[R]` of 15 to `largest` bits."""
    powers = 1 << np.arange(REFERENCE_BITS, max(largest, REFERENCE_BITS + 1))
    reached = s.op("GreaterOrEqual", s.op("Unsqueeze", sums, s.int64(-1)), s.constant(powers, "int32"))
    steps = s.op("ReduceSum", s.cast(reached, "int32"), s.int64(-1), keepdims=0)
    units = s.constant(1 << np.arange(len(powers) + 1), "int32", f"units_{len(powers)}")
    return s.op("GatherElements", units, steps)
