"""`rmsnorm`: as `layernorm`, of blocks of channels and without the mean (`intvit.dialect.rmsnorm` has the formula)."""

from typing import Any

import numpy as np
from torch import fx

from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import LEVELS8, LEVELS16, RAISE8, RAISE16, Levels, levelled
from intvit.to_onnx.integer.layernorm import FINE, HALF, fine_total, floating_variance, floors, row_sums, scaled_rows
from intvit.to_onnx.integer.requantize import Far
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope


def rmsnorm(
    s: Scope,
    x: str,
    floor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    channels: int,
    groups: int,
    tokens: int,
    min_shift: int,
    bits: int,
    far: Far,
) -> str:
    """RMSNorm of raised 16-bit `[B, T, C]` as raised integers of 8 or 16 `bits`."""
    size = channels // groups
    blocks = s.op("Reshape", x, s.int64(-1, size))
    centred = s.op("Sub", blocks, s.int32(RAISE16))
    squares = row_sums(s, s.cast(s.op("Mul", centred, centred), "int64"), size, "int64")
    scale, v = floating_variance(s, squares, None, floor, size, min_shift)
    fraction = HALF if bits == 8 else HALF + FINE
    rows, mean = s.cast(blocks, "uint32"), s.int64(RAISE16)
    n = scaled_rows(s, rows, mean, None, scale, v, size, min_shift, fraction, clipped=True)
    n = s.op("Reshape", s.cast(n, "int32"), s.int64(-1, tokens, channels))
    if bits == 16:
        return levelled(s, fine_total(s, n, multiplier, addend), unit, top, far)
    total = s.op("Add", s.op("Mul", n, multiplier), addend)
    return s.cast(levelled(s, total, unit, top, far), "uint8")


def rms_norm(w: Writer, node: fx.Node) -> str:
    """The rule of `rmsnorm`."""
    x, multiplier, shift, eps, min_shift, groups, dtype = arguments(node)
    _, tokens, channels = w.shapes[node.name]
    factors = w.array(multiplier).astype(np.int64)
    lowest, count = (-RAISE16, LEVELS16) if dtype == "int16" else (-RAISE8, LEVELS8)
    levels = Levels(shift, lowest, count, RAISE16 * int(abs(factors).max()), np.zeros(1, np.int64))
    floor = w.scope.constant(floors(eps, min_shift), "int64", "floor")
    rows = (w.raised(x, np.array([RAISE16])), floor, w.multiplier(factors), w.constant(levels.addend, "addend"))
    fixed: dict[str, Any] = dict(channels=channels, groups=groups, tokens=tokens, min_shift=min_shift)
    fixed |= dict(bits=16 if dtype == "int16" else 8, far=levels.far)
    return w.scope.call("RMSNorm", rmsnorm, *rows, *w.ends(levels), **fixed)
