"""`unfold`, `depthwise` and `pool` against torch's float convolutions and pools, which are exact on small integers."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.dialect.operation import OPERATIONS
from intvit.dialect.windows import MOST_PIXELS, depthwise, pool, unfold
from intvit.geometry import Geometry
from intvit.passes.lower_pool import averaging
from intvit.ranges import Operand

RANDOM = torch.Generator().manual_seed(0)
GEOMETRIES = [
    ([7, 5], [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
    ([6, 9], [3, 2], [2, 1], [1, 0, 0, 2], [1, 2]),
    ([4, 4], [4, 4], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([5, 3], [1, 1], [1, 1], [0, 0, 0, 0], [1, 1]),
    ([8, 8], [7, 7], [2, 2], [3, 3, 3, 3], [1, 1]),
    ([2, 2], [5, 5], [1, 1], [4, 4, 4, 4], [1, 1]),
    ([9, 7], [2, 2], [3, 3], [0, 0, 1, 1], [3, 2]),
]
Lists = tuple[list[int], list[int], list[int], list[int], list[int]]
each_geometry = pytest.mark.parametrize("lists", GEOMETRIES, ids=str)


def integers(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, generator=RANDOM).to(dtype)


def image(x: Tensor, fill: Tensor | float, lists: Lists) -> Tensor:
    """float64 `[B, C, H, W]` with its padding."""
    size, _, _, (top, left, bottom, right), _ = lists
    centred = (x.double() - fill).unflatten(1, size).permute(0, 3, 1, 2)
    return F.pad(centred, (left, right, top, bottom))


@each_geometry
def test_unfold_and_linear_are_a_convolution(lists: Lists) -> None:
    """What lies outside counts as 0 after `fill` was subtracted."""
    x, fill = integers(2, math.prod(lists[0]), 3), integers(3).to(torch.int32)
    weight = integers(4, 3, *lists[1])
    rows = unfold(x, fill, *lists).double().unflatten(2, (-1, 3)) - fill
    y = rows.flatten(2) @ weight.permute(0, 2, 3, 1).flatten(1).double().T
    want = F.conv2d(image(x, fill, lists), weight.double(), stride=lists[2], dilation=lists[4])
    assert torch.equal(y, want.flatten(2).mT)


@each_geometry
def test_depthwise_is_a_convolution_of_each_channel(lists: Lists) -> None:
    x, fill, weight = integers(2, math.prod(lists[0]), 5), integers(5).to(torch.int32), integers(math.prod(lists[1]), 5)
    bias = torch.arange(5, dtype=torch.int32) * 1000 - 2000
    y = depthwise(x, weight, bias, fill, *lists)
    kernels = weight.double().T.reshape(5, 1, *lists[1])
    want = F.conv2d(image(x, fill, lists), kernels, stride=lists[2], dilation=lists[4], groups=5).flatten(2).mT
    assert torch.equal(y.double(), want + bias + (weight.double().sum(0) * fill))


def mean_arguments(geometry: Geometry, dtype: str) -> tuple[Tensor, Tensor, int]:
    number = averaging(geometry.counts, dtype)
    return number.multiplier, number.pre_shift, number.shift


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16], ids=str)
@pytest.mark.parametrize("lists", [g for g in GEOMETRIES if g[4] == [1, 1] and g[0] != [2, 2]], ids=str)
def test_mean_is_near_the_exact_one(lists: Lists, dtype: torch.dtype) -> None:
    geometry = Geometry.of(*lists[:4])
    x = integers(3, geometry.pixels, 4, dtype=dtype)
    limits = torch.iinfo(dtype)
    x[1], x[2] = limits.min, limits.max
    name = str(dtype).removeprefix("torch.")
    y = pool(x, *lists[:4], "mean", *mean_arguments(geometry, name), name)
    counts = torch.tensor(geometry.counts, dtype=torch.float64)
    want = F.conv2d(image(x, 0, lists).flatten(0, 1)[:, None], torch.ones(1, 1, *lists[1]).double(), stride=lists[2])
    exact = want.reshape(3, 4, -1).mT / counts[:, None]
    error = (y.double() - exact).abs()
    power = [bin(count).count("1") == 1 for count in geometry.counts]
    assert error.max() <= (1 if dtype == torch.int8 else 2)
    assert not any(power) or error[:, power].max() <= 0.5
    assert y.dtype == dtype


@pytest.mark.parametrize("count", [*range(1, 70), 1000, 12321, MOST_PIXELS - 1, MOST_PIXELS])
def test_mean_of_many_pixels(count: int) -> None:
    """Whole windows of equal extremes, whose mean is known."""
    geometry = Geometry.of([1, count], [1, count], [1, 1], [0] * 4)
    for value in (-(2**15), 2**15 - 1, 12345, 0):
        x = torch.full((1, count, 1), value, dtype=torch.int16)
        y = pool(x, [1, count], [1, count], [1, 1], [0] * 4, "mean", *mean_arguments(geometry, "int16"), "int16")
        assert abs(int(y) - value) <= 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16], ids=str)
@pytest.mark.parametrize("lists", [g for g in GEOMETRIES if g[4] == [1, 1] and g[0] != [2, 2]], ids=str)
def test_largest_leaves_the_padding_out(lists: Lists, dtype: torch.dtype) -> None:
    x = integers(2, math.prod(lists[0]), 4, dtype=dtype)
    x[1] = torch.iinfo(dtype).min
    one = torch.zeros(1, dtype=torch.int32)
    y = pool(x, *lists[:4], "max", one, one, 0, str(dtype).removeprefix("torch."))
    low = torch.iinfo(dtype).min
    want = F.max_pool2d(image(x, low, lists), lists[1], lists[2]) + low
    assert torch.equal(y.double(), want.flatten(2).mT)


def arguments(name: str, **changes: Any) -> tuple[Any, ...]:
    lists = dict(size=[3, 4], kernel=[3, 3], stride=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1])
    one = torch.ones(1, dtype=torch.int32)
    x = torch.zeros(1, 12, 2, dtype=torch.int16 if name == "pool" else torch.int8)
    fill = torch.zeros(2, dtype=torch.int32)
    weight, bias = torch.ones(9, 2, dtype=torch.int8), fill
    own = {
        "unfold": dict(x=x, fill=fill, **lists),
        "depthwise": dict(x=x, weight=weight, bias=bias, fill=fill, **lists),
        "pool": dict(
            x=x,
            **{k: v for k, v in lists.items() if k != "dilation"},
            kind="mean",
            multiplier=one,
            pre_shift=one,
            shift=0,
            dtype="int16",
        ),
    }[name]
    return tuple({**own, **changes}.values())


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("unfold", dict(size=[3, 3]), "9 tokens"),
        ("unfold", dict(fill=torch.zeros(1, dtype=torch.int32)), "fill must be"),
        ("unfold", dict(x=torch.zeros(1, 3, 4, 2, dtype=torch.int8)), "batch"),
        ("depthwise", dict(weight=torch.ones(4, 2, dtype=torch.int8)), "weight must be"),
        ("depthwise", dict(dilation=[3, 1]), "must fit"),
        ("pool", dict(kind="median"), "kind must be"),
        ("pool", dict(dtype="int8"), "x must be"),
        ("pool", dict(dtype="int32"), "dtype must be"),
        ("pool", dict(padding=[3, 3, 3, 3]), "hold a pixel"),
        ("pool", dict(shift=31), "shift must be"),
        ("pool", dict(multiplier=torch.ones(2, dtype=torch.int32)), "multiplier must have"),
    ],
    ids=str,
)
def test_refuses(name: str, changes: dict[str, Any], fault: str) -> None:
    OPERATIONS[name].check(*arguments(name))
    with pytest.raises(TypeError, match=fault):
        OPERATIONS[name].check(*arguments(name, **changes))


def test_refuses_windows_that_are_too_large_to_sum() -> None:
    x = torch.zeros(1, MOST_PIXELS + 1, 1, dtype=torch.int16)
    with pytest.raises(TypeError, match="at most"):
        OPERATIONS["pool"].check(*arguments("pool", x=x, size=[1, x.shape[1]], kernel=[1, x.shape[1]], padding=[0] * 4))


def test_fill_is_an_8_bit_integer() -> None:
    for name in ("unfold", "depthwise"):
        fill = torch.tensor([0, 128], dtype=torch.int32)
        with pytest.raises(TypeError, match="fill must be within 8 bits"):
            OPERATIONS[name].ranges(*arguments(name, x=Operand(-3, 5, (1, 12, 2)), fill=fill))


@pytest.mark.parametrize("padding", [[1, 1, 1, 1], [0, 0, 0, 0]])
def test_the_range_of_sums_is_reached(padding: list[int]) -> None:
    """With the fill of the padding, which may be beyond what the operand is."""
    weight, fill, bias = integers(9, 3), torch.tensor([-128, 0, 127]).int(), torch.tensor([5, -7, 900]).int()
    lists = ([3, 4], [3, 3], [1, 1], padding, [1, 1])
    found = OPERATIONS["depthwise"].ranges(Operand(-20, 30, (1, 12, 3)), weight, bias, fill, *lists).result
    sums = []
    ends = [torch.tensor([-20] * 3), torch.tensor([30] * 3)]
    if any(padding):
        ends = [torch.minimum(ends[0], fill), torch.maximum(ends[1], fill)]
    for sign in (1, -1):
        pixels = torch.where(weight * sign > 0, ends[1], ends[0])
        sums.append((pixels * weight.int()).sum(0) + bias)
    assert (int(sums[1].min()), int(sums[0].max())) == (found.low, found.high)


def test_unfold_s_range_has_the_fill_where_there_is_padding() -> None:
    for padding, low in ((1, -9), (0, -3)):
        changes = dict(x=Operand(-3, 5, (1, 12, 2)), fill=torch.tensor([-9, 2]).int(), padding=[padding] * 4)
        found = OPERATIONS["unfold"].ranges(*arguments("unfold", **changes)).result
        assert (found.low, found.high) == (low, 5)
