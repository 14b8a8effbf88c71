"""`biased_attention`: near float, masks weigh nothing, windows do not meet, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from intvit import floatops
from intvit.dialect import OPERATIONS
from intvit.dialect.biased_attention import MASK
from intvit.grid import dyadic_for
from intvit.passes.lower_attention import BIASED_SPAN, TO_LOG2, exponential_bits, integer_bias
from intvit.ranges import Operand

BIASED, PLAIN = OPERATIONS["biased_attention"], OPERATIONS["attention"]


def fields(ratio: float, span: int) -> tuple[Tensor, Tensor, int]:
    number = dyadic_for(torch.tensor([ratio], dtype=torch.float64), span)
    return number.multiplier, number.pre_shift, number.shift


def random_int8(*shape: int, seed: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def operands(windows: int, queries: int, keys: int, heads: int, size: int) -> list[Tensor]:
    tokens = (queries, keys, keys)
    return [random_int8(2, windows * n, heads * size, seed=i) for i, n in enumerate(tokens)]


def attend(
    qkv: list[Tensor], heads: int, windows: int, scale: float, bias: Tensor, kinds: tuple[int, ...], *levels: int
) -> tuple[Tensor, Tensor]:
    """int8 attention at the scale of `v` itself, and the same in float."""
    bits = exponential_bits(qkv[1].shape[1] // windows)
    tables = integer_bias(bias), torch.tensor(kinds, dtype=torch.int32)
    arguments = (heads, windows, *fields(scale * TO_LOG2, BIASED_SPAN), *tables, bits, *fields(2.0**-7, 128), *levels)
    exact = floatops.attention(*(x.double() for x in qkv), heads, scale, windows, bias.double(), kinds)
    ranges = BIASED.ranges(*(Operand(-128, 127, (1, *x.shape[1:])) for x in qkv), *arguments)
    assert not ranges.overflowing()
    return BIASED.call(*qkv, *arguments), exact


@pytest.mark.parametrize(
    ("windows", "queries", "keys", "heads", "size"),
    [(4, 49, 49, 3, 32), (1, 1, 197, 2, 64), (3, 7, 5, 1, 4), (1, 1, 1, 1, 1)],
)
@pytest.mark.parametrize("scale", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("shared", [True, False])
def test_is_within_one_step_of_float(
    windows: int, queries: int, keys: int, heads: int, size: int, scale: float, shared: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    bias = 3 * torch.randn(2, 1 if shared else heads, queries, keys, generator=generator)
    bias[1, :, :, keys // 2 + 1 :] -= 100
    kinds = tuple(i % 2 for i in range(windows))
    got, exact = attend(operands(windows, queries, keys, heads, size), heads, windows, scale, bias, kinds)
    assert (got - exact).abs().max() <= 1


@pytest.mark.parametrize("levels", [(), (128, 16), (2048, 256), (1, 2)])
def test_masked_keys_weigh_nothing(levels: tuple[int, ...]) -> None:
    """Whatever their scores: the result is that without them."""
    q, k, v = operands(1, 5, 9, 2, 16)
    bias = torch.zeros(1, 1, 5, 9)
    bias[..., 6:] = -math.inf
    got, _ = attend([q, k, v], 2, 1, 0.01, bias, (0,), *levels)
    fewer, _ = attend([q, k[:, :6], v[:, :6]], 2, 1, 0.01, bias[..., :6], (0,), *levels)
    assert torch.equal(got, fewer)


@pytest.mark.parametrize("levels", [(), (128, 16)])
def test_keys_of_a_row_that_is_masked_everywhere_weigh_the_same(levels: tuple[int, ...]) -> None:
    q, k, v = operands(1, 3, 8, 1, 16)
    v[:] = v[:, :1]
    got, _ = attend([q, k, v], 1, 1, 0.01, torch.full((1, 1, 3, 8), -1e4), (0,), *levels)
    assert torch.equal(got, v[:, :3])


@pytest.mark.parametrize(("step", "levels"), [(1, 256), (64, 32), (128, 16), (2048, 2)])
def test_levels_without_a_bias_are_those_of_attention(step: int, levels: int) -> None:
    """Where no score is far from 0: distances of rounded scores are within one unit of rounded distances, so exact."""
    qkv = [x // 4 for x in operands(3, 4, 6, 2, 8)]
    one = torch.tensor([1 << 14], dtype=torch.int32)
    number, result = (one, one * 0, 14), fields(2.0**-7, 128)
    tables = torch.zeros(1, 1, 4, 6, dtype=torch.int16), torch.zeros(3, dtype=torch.int32)
    got = BIASED.call(*qkv, 2, 3, *number, *tables, 13, *result, step, levels)
    assert torch.equal(got, PLAIN.call(*qkv, 2, *number, 13, *result, 3, step, levels))
    assert not torch.equal(got, PLAIN.call(*qkv, 2, *number, 13, *result, 3))


def test_scores_of_88_are_not_saturated() -> None:
    """Two keys whose scores differ by a little, both far from 0."""
    q, k = torch.full((1, 1, 64), 127, dtype=torch.int8), torch.full((1, 2, 64), 127, dtype=torch.int8)
    k[:, 1, 0] = 120
    v = torch.tensor([[[100], [-100]]], dtype=torch.int8)
    scale = 87 / (127 * 127 * 64)
    for sign in (1, -1):
        got, exact = attend([sign * q, k, v], 1, 1, scale, torch.zeros(1, 1, 1, 2), (0,))
        assert (got - exact).abs().max() <= 1


def test_windows_are_as_images_of_a_batch() -> None:
    qkv = operands(3, 4, 6, 2, 8)
    number, result = fields(1e-3 * TO_LOG2, BIASED_SPAN), fields(2.0**-7, 128)
    together = PLAIN.call(*qkv, 2, *number, 13, *result, 3)
    parts = [
        PLAIN.call(*(x.unflatten(1, (3, -1))[:, i].contiguous() for x in qkv), 2, *number, 13, *result)
        for i in range(3)
    ]
    assert torch.equal(together, torch.cat(parts, 1))


def bounds(kinds: Tensor, score: tuple[Tensor, Tensor, int]) -> None:
    full = Operand(-128, 127, (1, 6, 8))
    bias = torch.full((2, 1, 3, 3), MASK, dtype=torch.int16)
    BIASED.ranges(full, full, full, 1, 2, *score, bias, kinds, 13, *fields(2.0**-7, 128))


def test_ranges_refuse_kinds_that_do_not_exist() -> None:
    bounds(torch.tensor([0, 1]), fields(1e-3, BIASED_SPAN))
    for wrong in ([0, 2], [-1, 0]):
        with pytest.raises(TypeError, match=r"kinds must be in 0\.\.1"):
            bounds(torch.tensor(wrong), fields(1e-3, BIASED_SPAN))


def test_ranges_refuse_scores_that_reach_a_mask() -> None:
    one = torch.tensor([1 << 14], dtype=torch.int32)
    with pytest.raises(TypeError, match=r"scores must be below 2\^22"):
        bounds(torch.tensor([0, 1]), (one, one * 0, 3))


def test_tables_of_another_size_and_a_step_without_levels_are_refused() -> None:
    qkv = operands(2, 3, 4, 2, 4)
    rest = fields(1e-3, BIASED_SPAN)
    result = fields(2.0**-7, 128)
    kinds = torch.zeros(2, dtype=torch.int32)
    for shape in ((1, 2, 4, 3), (1, 3, 3, 4), (2, 3, 4)):
        with pytest.raises(TypeError, match="bias must be"):
            BIASED.check(*qkv, 2, 2, *rest, torch.zeros(shape, dtype=torch.int16), kinds, 13, *result)
    with pytest.raises(TypeError, match="kinds must have 2 entries"):
        table = torch.zeros(1, 1, 3, 4, dtype=torch.int16)
        BIASED.check(*qkv, 2, 2, *rest, table, torch.zeros(3, dtype=torch.int32), 13, *result)
    with pytest.raises(TypeError, match=r"step must be in 1\.\.1 for 0 levels"):
        table = torch.zeros(1, 1, 3, 4, dtype=torch.int16)
        BIASED.check(*qkv, 2, 2, *rest, table, kinds, 13, *result, 2, 0)
    with pytest.raises(TypeError, match="tokens for 4 windows"):
        PLAIN.check(*qkv, 2, *rest, 13, *result, 4)
