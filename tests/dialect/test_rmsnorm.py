"""`rmsnorm` within one int8 step (four int16 steps) of float, and within the bounds that it states, for any row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intvit.dialect.layernorm import MAX_EPS
from intvit.dialect.operation import OPERATIONS
from intvit.dialect.rmsnorm import rmsnorm, unit_block
from intvit.passes.lower_layernorm import fixed_point_shift, scaled_eps
from intvit.ranges import Operand

TOP = {"int8": 127, "int16": 2**15 - 1}
KINDS = ("noise", "constant", "outlier", "ends", "zero")


def rows(channels: int, kind: str, size: float, seed: int = 0) -> Tensor:
    """`[1, 16, channels]` of int16."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 16, channels, generator=random) * (size if kind == "noise" else 0.4 * (kind == "outlier"))
    if kind == "constant":
        x = x + size
    if kind == "outlier":
        x[..., 0] = size
    if kind == "ends":
        x = torch.randint(0, 2, x.shape, generator=random) * 65535.0 - 32768
    return x.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def exact(x: Tensor, groups: int, eps: float) -> Tensor:
    """Of integers, without weight; `eps` in their units."""
    blocks = x.double().unflatten(-1, (groups, -1))
    return torch.nan_to_num(blocks * (blocks.square().mean(-1, keepdim=True) + eps).rsqrt()).flatten(-2)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from((1, 2, 3, 32, 64, 384, 1536)),
    st.sampled_from((1, 2, 5)),
    st.sampled_from(KINDS),
    st.floats(-2, 15).map(lambda power: 2.0**power),
    st.sampled_from((0.0, 1e-9, 1e-3, 1.0, 1e4, 1e8)),
    st.floats(-7, 6).map(lambda power: 2.0**power),
    st.sampled_from(("int8", "int16")),
)
def test_error_is_within_the_bound(
    size: int, groups: int, kind: str, scale: float, eps: float, span: float, dtype: str
) -> None:
    x = rows(size * groups, kind, scale)
    gain = torch.randn(size * groups, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    step = span * gain.abs().max() / TOP[dtype]
    m = gain * math.sqrt(size) / (step * 2**15)
    shift = fixed_point_shift(m, torch.zeros(1))
    min_shift, integer_eps = scaled_eps(eps, 1.0, size)
    y = rmsnorm(x, torch.round(m * 2**shift).to(torch.int32), shift, integer_eps, min_shift, groups, dtype)
    a, w = (gain * exact(x, groups, eps) / step).abs(), gain.abs() * math.sqrt(size) / step
    units = a * 2**15 / w + (0 if dtype == "int8" else 1)
    saturated = w * 2.0 ** (-16 if dtype == "int8" else -29)
    bound = 0.5 + a * 2**-14 + 2 * saturated + units * 2.0 ** -(shift + 1)
    wanted = (gain * exact(x, groups, eps) / step).clamp(-TOP[dtype] - 1, TOP[dtype])
    assert ((y - wanted).abs() <= bound + 1e-9).all()


def test_of_one_block_is_layernorm_of_rows_without_a_mean() -> None:
    """Rows and their negatives side by side: the mean is 0."""
    from intvit.dialect.layernorm import unit_row

    x = rows(64, "noise", 900.0).to(torch.int32)
    both = torch.cat([x, -x], -1)
    for fraction in (15, 29):
        assert torch.equal(unit_block(both, 5, -3, fraction), unit_row(both, 5, -3, fraction))


def test_blocks_are_normalized_by_themselves() -> None:
    x, m = rows(96, "noise", 100.0), torch.arange(96, dtype=torch.int32) * 300
    whole = rmsnorm(x, m, 14, 9, -2, 3, "int8")
    parts = [rmsnorm(x[..., i : i + 32], m[i : i + 32], 14, 9, -2, 1, "int8") for i in (0, 32, 64)]
    assert torch.equal(whole, torch.cat(parts, -1))


@pytest.mark.parametrize("channels", [1, 2, 768, 32767])
def test_ranges_hold_for_extreme_rows(channels: int) -> None:
    one = torch.tensor([32767], dtype=torch.int32)
    ranges = OPERATIONS["rmsnorm"].ranges(Operand(-(2**15), 2**15 - 1, (1, 1, channels)), one, 0, MAX_EPS, 0, 1, "int8")
    assert not ranges.overflowing()
    for kind in KINDS:
        x = rows(channels, kind, 32767.0).to(torch.int32)
        for eps, min_shift in ((0, -15), (0, 16), (MAX_EPS, -15), (MAX_EPS, 16), (1, -15)):
            wide, narrow = unit_block(x.to(torch.int64), eps, min_shift), unit_block(x, eps, min_shift)
            assert torch.equal(wide, narrow.to(torch.int64))


def test_blocks_of_different_sizes_are_refused() -> None:
    x, one = rows(10, "noise", 3.0), torch.tensor([1], dtype=torch.int32)
    with pytest.raises(TypeError, match="10 channels are no 3 blocks of one size"):
        torch.ops.intvit.rmsnorm(x.to("meta"), one, 3, 0, 0, 3, "int8")
