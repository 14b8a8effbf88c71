"""`biased_attention` as ONNX nodes (`intvit.dialect.biased_attention` has the formula).

Scores in log2 units are counted from the lowest that there can be, and a mask is a bias that takes them below `FLOOR`,
where they are cut off:

    x = max((t - lowest) + bias', FLOOR)             bias' = -2^26 where a key is masked
    e = exponential(x - rowmax(x))                   looked up by the distance, one table for all heads
"""

from typing import Any

from intvit.dialect.biased_attention import MASK
from intvit.softmax_levels import SoftmaxLevels
from intvit.to_onnx.integer.attention import last_log2, means, score_products, weights_by_log2
from intvit.to_onnx.integer.dyadic import levelled, saturated
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.scope import Scope

FLOOR = -(1 << 24)
MASK_BIAS = -(1 << 26)


def biased_attention(
    s: Scope,
    q: str,
    k: str,
    v: str,
    rise: str,
    score_divisor: str,
    score_multiplier: str,
    score_addend: str,
    score_unit: str,
    score_top: str,
    bias: str,
    kinds: str,
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
    size: int,
    value_size: int,
    bits: int,
    portable: bool,
    masks: bool,
    score_far: Far,
    far: Far,
    levels: SoftmaxLevels | None = None,
) -> str:
    """uint8 q `[B, W·T, H·D]`, k and v `[B, W·S, H·D]` (int8, or uint8) to uint8 `[B, W·T, H·E]`."""
    scores = score_products(s, q, k, heads, tokens, keys, portable, size)
    shifted = saturated(s, s.op("Add", scores, rise), score_divisor)
    total = s.op("Add", s.op("Mul", shifted, score_multiplier), score_addend)
    log2 = levelled(s, total, score_unit, score_top, score_far)
    by_window = s.op("Reshape", log2, s.int64(-1, windows, heads, tokens, keys))
    x = s.op("Add", by_window, bias_of_windows(s, bias, kinds, masks))
    if masks:
        x = s.op("Max", x, s.int32(FLOOR))
    distance = s.op("Sub", s.op("ReduceMax", x, s.int64(-1), keepdims=1), x)
    index = s.op("Min", distance, s.int32(last_log2(bits, levels)))
    weights = [look_up(s, table, index, heads, tokens, keys) for table in weights_by_log2(s, bits, levels)]
    result = (divisor, mean_addend, multiplier, addend, unit, top)
    sizes: dict[str, Any] = dict(heads=heads, tokens=tokens, keys=keys, windows=windows, value_size=value_size)
    return means(s, weights, v, *result, **sizes, bits=bits, portable=portable, far=far)


def bias_of_windows(s: Scope, bias: str, kinds: str, masks: bool) -> str:
    """int32 `[W, H or 1, T, S]` of int16 `[K, H or 1, T, S]`; nodes that read no input."""
    table = s.cast(bias, "int32")
    if masks:
        table = s.op("Where", s.op("Equal", table, s.int32(MASK)), s.int32(MASK_BIAS), table)
    return s.op("Gather", table, kinds, axis=0)
