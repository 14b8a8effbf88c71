"""Logarithmic levels for the weights of a softmax: few values, and the large ones as exact as the small.

    n  = min(-t, 2^15 - 1)                          t <= 0: log2 of a weight over its row's largest, 8 fraction bits
    i  = (n · round(2^15 / step) + 2^14) >> 15      its code: the nearest multiple of `step`
    t' = -step · i where i < levels - 1             the last code stands for the weight 0

So a row's weights, over its largest, are `2^(-step i / 256)` or 0: `levels` values, codes of `ceil(log2 levels)` bits.
The base `2^(step / 256)` is one's choice, as in AdaLog (arXiv:2407.12951, its adaptive logarithm base, `2^(q/r)`);
`step` 128 is base √2 (RepQ-ViT, arXiv:2212.08254), 256 base 2. Both papers quantize weights that are divided by their
sum already; these are counted from their row's largest, whose code is always 0, and divided afterwards.

`n` is limited, and `t` with it, because `i` is then one rounding multiplication of 16-bit lanes (x86 `pmulhrsw`, Arm
`sqrdmulh`): `t · -round(2^15 / step)`, both int16, not both -2^15. No weight of 15 bits is left so far down; of those
that are, the rounded quotient moves `n / step` by at most 1/16.
"""

from dataclasses import dataclass

LEAST_LOG2 = 1 - (1 << 15)
"""What `t` is limited to."""
MOST_STEP, MOST_LEVELS = 1 << 11, 1 << 8


@dataclass(frozen=True)
class SoftmaxLevels:
    """`step` 1 .. 2^11 in log2 units of 8 fraction bits, `levels` 2 .. 256."""

    step: int
    levels: int

    @property
    def inverse(self) -> int:
        """`round(2^15 / step)`: 16 .. 2^15."""
        return ((1 << 15) + self.step // 2) // self.step
