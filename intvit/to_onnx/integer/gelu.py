"""`gelu`: ShiftGELU of 16-bit integers, from a table that is filled when the model is loaded.

`gelu` is one function of a 16-bit integer for a whole layer, and constant outside `[lowest, lowest + count)` (its bump
ends at 4, and above the result saturates). The table is the arithmetic below on a range of integers: nodes that read no
input, which runtimes compute once. Only the bump, the same for all layers of one `fraction`, is stored. Looking up
costs a sixth of the arithmetic (151,000 elements, ONNX Runtime 1.31, two threads: 59 against 400 us).
"""

import numpy as np
import torch

from intvit.dialect.arithmetic import INT16
from intvit.dialect.gelu import FRACTION, gelu, gelu_fixed_point
from intvit.to_onnx.integer.dyadic import Array
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.requantize import Far, requantize
from intvit.to_onnx.scope import Scope


def support(fraction: int, multiplier: Array, pre: Array, shift: int, zero_point: int) -> tuple[int, int]:
    """The lowest 16-bit integer and the number of them outside which the result of `gelu` does not change."""
    x = torch.arange(INT16[0], INT16[1] + 1, dtype=torch.int32).to(torch.int16).view(1, -1, 1)
    y = gelu(x, fraction, torch.from_numpy(multiplier), torch.from_numpy(pre), shift, zero_point).numpy().ravel()
    changes = np.flatnonzero(np.diff(y))
    if not len(changes):
        return 0, 1
    first, last = int(changes[0]), int(changes[-1]) + 1
    return first + INT16[0], last - first + 1


def bump(fraction: int) -> Array:
    """`max(x, 0) - GELU(x)` in Q13 at the distances `0 .. 4` from 0, int16; it stays what it is last."""
    x = torch.arange((4 << fraction) + 1, dtype=torch.int32).clamp(max=INT16[1])
    return ((x << (FRACTION - fraction)) - gelu_fixed_point(x, fraction)).to(torch.int16).numpy()


def shift_gelu(
    s: Scope,
    x: str,
    lowest: str,
    end: str,
    bumps: str,
    up: str,
    rise: str,
    divisor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    far: Far,
    shape: tuple[int, int],
) -> str:
    """GELU of levels from 0 on (0 stands for the integer `lowest`, and `end` is beyond all) as uint8 `[B, *shape]`."""
    integers = s.op("Range", lowest, end, s.int32(1))
    y = gelu_of(s, integers, bumps, up, rise, divisor, multiplier, addend, unit, top, far=far)
    return look_up(s, y, x, *shape)


def gelu_of(
    s: Scope,
    x: str,
    bumps: str,
    up: str,
    rise: str,
    divisor: str,
    multiplier: str,
    addend: str,
    unit: str,
    top: str,
    *,
    far: Far,
) -> str:
    """GELU of int32 tensors that hold 16-bit integers, by a line, a bump and a dyadic number, as uint8."""
    last = s.op("Sub", s.op("Shape", bumps), s.int64(1))
    bump = s.op("Gather", bumps, s.op("Min", s.cast(s.op("Abs", x), "int64"), last))
    line = s.op("Mul", s.op("Max", x, s.int32(0)), up)
    raised = s.op("Add", s.op("Sub", line, s.cast(bump, "int32")), rise)
    return requantize(s, raised, divisor, multiplier, addend, unit, top, bits=8, far=far)
