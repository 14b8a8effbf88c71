"""`groupnorm` within one int8 step (four int16 steps) of float, and within its bound, up to 2^20 numbers."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.groupnorm import MOST, MULTIPLIED, deviations, groupnorm, moments
from intvit.dialect.layernorm import MAX_EPS
from intvit.dialect.operation import OPERATIONS
from intvit.passes.lower_layernorm import fixed_point_shift, scaled_eps
from intvit.ranges import Operand

TOP = {"int8": 127, "int16": 2**15 - 1}
KINDS = ("noise", "far", "constant", "one apart", "outlier", "ends")
SHAPES = ((1, 1), (1, 2), (3, 1), (7, 5), (49, 64), (196, 24), (1, 4097))


def image(tokens: int, channels: int, kind: str, size: float = 100.0, seed: int = 0) -> Tensor:
    """`[1, tokens, channels]` of int16."""
    random = torch.Generator().manual_seed(seed)
    shape = (1, tokens, channels)
    x = torch.randn(shape, generator=random) * (size if kind in ("noise", "far") else 0)
    x += {"far": 30000, "constant": -(2**15), "one apart": 5, "outlier": -(2**15)}.get(kind, 0)
    x[0, -1, 0] += {"one apart": 1, "outlier": 65535}.get(kind, 0)
    if kind == "ends":
        x = torch.randint(0, 2, shape, generator=random) * 65535.0 - 32768
    return x.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def exact(x: Tensor, eps: float) -> tuple[Tensor, float]:
    """Deviations from the mean and the variance of one group, the sums exact; `eps` in units of the integers."""
    wide = x.to(torch.int64)
    count, total, squares = wide.numel(), int(wide.sum()), int(wide.square().sum())
    variance = float(Fraction(count * squares - total**2, count**2))
    found = (count * wide - total).double() / count
    return found / (variance + eps) ** 0.5 if variance + eps else found, variance


def normalized(x: Tensor, gain: Tensor, bias: Tensor, step: Tensor, eps: float, dtype: str) -> tuple[Tensor, int]:
    """The integer form with what lowering makes of weight, bias and eps, and its shift."""
    m, c = gain / (step * 2.0**MULTIPLIED), bias / step
    shift = fixed_point_shift(m, c)
    multiplier, addend = (torch.round(f * 2**shift).to(torch.int32) for f in (m, c))
    min_shift, integer_eps = scaled_eps(eps, 1.0, 1)
    return groupnorm(x, multiplier, addend, shift, 1, integer_eps, min_shift, dtype), shift


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(KINDS),
    st.floats(-2, 15).map(lambda power: 2.0**power),
    st.sampled_from((0.0, 1e-9, 1e-3, 1.0, 1e4, 1e8)),
    st.floats(-7, 6).map(lambda power: 2.0**power),
    st.sampled_from(("int8", "int16")),
)
def test_error_is_within_the_stated_bound(
    shape: tuple[int, int], kind: str, size: float, eps: float, span: float, dtype: str
) -> None:
    x = image(*shape, kind, size)
    random = torch.Generator().manual_seed(shape[1])
    gain, bias = (torch.randn(shape[1], generator=random, dtype=torch.float64) for _ in range(2))
    step = (span * gain.abs().max() / TOP[dtype]).clamp(min=gain.abs().max() / 10**6)
    y, shift = normalized(x, gain, bias * span, step, eps, dtype)
    z, variance = exact(x, eps)
    w = gain.abs() / step
    a = w * z.abs()
    bound = 0.5 + a * (2**-14 + 2**-29 / max(variance, 2**-30)) + w * 2**-18 + (32 * z.abs() + 2) * 2.0 ** -(shift + 1)
    wanted = ((gain * z + bias * span) / step).clamp(-TOP[dtype] - 1, TOP[dtype])
    assert ((y - wanted).abs() <= bound + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1 << 15, 32), (MOST, 1), (32, 1 << 15 >> 1)])
def test_of_many_numbers_is_within_one_step(shape: tuple[int, int], kind: str) -> None:
    x = image(*shape, kind, 3.0)
    z, _ = exact(x, 0.0)
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for step in (torch.tensor(1 / 255), (z.abs().max() / 127).clamp(min=1 / 255)):
        y, _ = normalized(x, one, none, step, 0.0, "int8")
        assert ((z / step).clamp(-128, 127) - y).abs().max() <= 0.8
    step = (z.abs().max() / TOP["int16"]).clamp(min=2**-15)
    assert (z / step - normalized(x, one, none, step, 0.0, "int16")[0]).abs().max() <= 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (1 << 15, 32), (MOST, 1)])
def test_nothing_overflows(shape: tuple[int, int], kind: str) -> None:
    """With 64-bit integers everything is the same; the ranges of the largest group fit."""
    x = image(*shape, kind, 30000.0).to(torch.int32)[:, :, None]
    wide = x.to(torch.int64)
    for found, wanted in zip(moments(x)[:2], moments(wide)[:2], strict=True):
        assert torch.equal(found.to(torch.int64), wanted)
    for eps, min_shift in ((0, -15), (0, 16), (MAX_EPS, -15), (MAX_EPS, 16), (1, -15)):
        assert torch.equal(deviations(x, eps, min_shift).to(torch.int64), deviations(wide, eps, min_shift))


def test_ranges_of_the_largest_group_fit() -> None:
    most = torch.tensor([32767], dtype=torch.int32)
    for dtype in TOP:
        x = Operand(-(2**15), 2**15 - 1, (1, 1 << 15, 64))
        ranges = OPERATIONS["groupnorm"].ranges(x, most, most, 0, 2, MAX_EPS, 0, dtype)
        assert not ranges.overflowing()


def test_groups_are_normalized_by_themselves() -> None:
    x = image(9, 96, "noise")
    m, c = torch.arange(96, dtype=torch.int32) * 300, torch.arange(96, dtype=torch.int32)
    whole = groupnorm(x, m, c, 9, 3, 9, -2, "int8")
    parts = [groupnorm(x[..., i : i + 32], m[i : i + 32], c[i : i + 32], 9, 1, 9, -2, "int8") for i in (0, 32, 64)]
    assert torch.equal(whole, torch.cat(parts, -1))


def test_what_does_not_fit_is_refused() -> None:
    one = torch.tensor([1], dtype=torch.int32)
    with pytest.raises(TypeError, match="10 channels are no 3 blocks of one size"):
        torch.ops.intvit.groupnorm(
            torch.empty(1, 2, 10, dtype=torch.int16, device="meta"), one, one, 3, 3, 0, 0, "int8"
        )
    with pytest.raises(TypeError, match=f"at most {MOST} numbers in a group"):
        x = torch.empty(1, MOST + 1, 1, dtype=torch.int16, device="meta")
        torch.ops.intvit.groupnorm(x, one, one, 3, 1, 0, 0, "int8")
