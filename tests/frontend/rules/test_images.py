"""Convolutions, pools and resizing of feature maps become `unfold`, `linear`, `depthwise`, `pool` and movements."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled import SHAPE, Embedded, arguments_of, checked, constant, drawn, made, of_image, of_map, using
from torch import Tensor, nn

from intvit import floatops
from intvit.errors import UnsupportedOp
from intvit.frontend import capture

Module = Callable[[Tensor], Any]


def conv(n: int = 16, kernel: Any = 3, **options: Any) -> Any:
    return drawn(nn.Conv2d(16, n, kernel, **options))


def norm(n: int = 16) -> Any:
    return drawn(nn.BatchNorm2d(n))


def in_windows(module: Module) -> Module:
    """`module` on four windows of 2 x 3 pixels each, which lie in the batch axis."""

    def windows(x: Tensor) -> Tensor:
        cut = x.reshape(-1, 16, 2, 2, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, 2, 3)
        return module(cut).unflatten(0, (-1, 4)).flatten(1)  # type: ignore[no-any-return]

    return windows


UNFOLDED = "linear x 2, unfold, rearrange"
CONVOLUTIONS: dict[str, tuple[Module, str]] = {
    "padded": (conv(8, padding=1), UNFOLDED),
    "valid": (conv(8, padding="valid"), UNFOLDED),
    "same": (conv(8, padding="same"), UNFOLDED),
    "same, even kernel": (conv(8, (2, 4), padding="same"), UNFOLDED),
    "strided": (conv(8, stride=2, padding=1), UNFOLDED),
    "dilated": (conv(8, dilation=2, padding=2), UNFOLDED),
    "in groups": (conv(8, groups=2, padding=1), UNFOLDED),
    "a row": (conv(8, (1, 3), padding=(0, 1), bias=False), UNFOLDED),
    "strided, one pixel": (conv(8, 1, stride=2), UNFOLDED),
    "patches": (conv(8, 2, stride=2), UNFOLDED),
    "two results per channel": (conv(32, groups=16, padding=1), UNFOLDED),
    "one pixel": (conv(8, 1), "linear x 2, rearrange"),
    "one pixel, in groups": (conv(8, 1, groups=4), "linear x 2, rearrange"),
    "depthwise": (conv(groups=16, padding=1), "linear, depthwise, rearrange"),
    "depthwise, strided": (conv(16, 5, groups=16, stride=2, padding=2), "linear, depthwise, rearrange"),
    "depthwise, dilated": (conv(groups=16, dilation=2, padding="same"), "linear, depthwise, rearrange"),
    "reflected": (conv(8, padding=1, padding_mode="reflect"), "linear x 2, rearrange x 2, unfold"),
    "circular": (conv(8, padding=1, padding_mode="circular"), "linear x 2, rearrange x 2, unfold"),
    "replicated": (conv(8, padding=1, padding_mode="replicate"), "linear x 2, rearrange x 2, unfold"),
    "padded before": (nn.Sequential(nn.ZeroPad2d(1), conv(8)), "linear x 2, rearrange x 2, unfold"),
    "in windows": (in_windows(conv(8, padding=1)), "linear x 2, rearrange x 2, unfold"),
    "in windows, strided": (in_windows(conv(8, stride=2, padding=1)), "linear x 2, rearrange x 2, unfold"),
    "in windows, dilated": (
        in_windows(conv(8, 2, dilation=(1, 2), padding=(0, 1))), "linear x 2, rearrange x 2, unfold"
    ),
    "in windows, depthwise": (in_windows(conv(groups=16, padding=1)), "linear, rearrange x 2, depthwise"),
    "in windows, one pixel": (in_windows(conv(8, 1)), "linear x 2, rearrange"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    module, expected = CONVOLUTIONS[name]
    assert made(of_map(module)) == expected


def test_the_geometry_of_a_convolution() -> None:
    (_, *found) = arguments_of(of_map(conv(8, (3, 5), stride=(2, 1), padding=(0, 2))), floatops.unfold)
    assert [tuple(part) for part in found] == [(4, 6), (3, 5), (2, 1), (0, 2, 0, 2), (1, 1)]


BLOCKS: dict[str, tuple[Module, str]] = {
    "batch norm": (nn.Sequential(conv(8, padding=1), norm(8), nn.ReLU()), "linear x 2, unfold, pointwise, rearrange"),
    "batch norm, depthwise": (nn.Sequential(conv(groups=16), norm()), "linear, depthwise, rearrange"),
    "batch norm of a sum": (
        using(lambda x, a, b, n: n(a(x) + b(x)), conv(padding=1), conv(padding=1, groups=16), norm()),
        "linear x 2, unfold, depthwise, add, rearrange",
    ),
    "batch norm behind a function": (nn.Sequential(nn.ReLU(), norm()), "linear, pointwise, multiply, add, rearrange"),
    "no affine": (drawn(nn.BatchNorm2d(16, affine=False)), "linear, rearrange"),
    "a residual": (
        using(lambda x, c: x + c(F.relu(x)), conv(padding=1)), "linear x 2, pointwise, unfold, add, rearrange"
    ),
    "two of one input": (
        using(lambda x, a, b: a(x) + b(x), conv(8, padding=1), conv(8, padding=1)),
        "linear x 3, unfold, add, rearrange",
    ),
    "inverted": (
        nn.Sequential(conv(16, 1), nn.Hardswish(), conv(groups=16, padding=1), nn.Hardswish(), conv(8, 1)),
        "linear x 3, pointwise x 2, depthwise, rearrange",
    ),
    "squeeze and excite": (
        using(lambda x, a, b: x * b(F.silu(a(x.mean((2, 3), keepdim=True)))).sigmoid(), conv(16, 1), conv(16, 1)),
        "linear x 3, pool, pointwise x 2, multiply, rearrange",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    module, expected = BLOCKS[name]
    found = made(of_map(module)).replace(", ", " ").split()
    assert sorted(found) == sorted(expected.replace(", ", " ").split())


IMAGES: dict[str, tuple[Module, str]] = {
    "patches": (drawn(nn.Conv2d(3, 8, 8, 8)), "linear, rearrange"),
    "overlapping patches": (drawn(nn.Conv2d(3, 8, 7, 4, 3)), "unfold, linear, rearrange"),
    "not a whole number of patches": (drawn(nn.Conv2d(3, 8, 5, 5)), "unfold, linear, rearrange"),
    "in groups": (drawn(nn.Conv2d(3, 6, 8, 8, groups=3)), "unfold, linear, rearrange"),
    "depthwise": (drawn(nn.Conv2d(3, 3, 3, groups=3)), "depthwise, rearrange"),
    "pool": (nn.AvgPool2d(2), "pool, rearrange"),
    "function": (F.relu, "pointwise, rearrange"),
    "normalized": (lambda x: (x - constant(3, 1, 1)) / constant(3, 1, 1).abs(), "add, multiply, rearrange"),
    "straight line": (lambda x: x * 2 - 1, "multiply, add, rearrange"),
    "rows": (lambda x: F.linear(x.reshape(-1, 3, 2, 8, 3, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, 192),
                                constant(8, 192)), "rearrange, linear"),
    "unfolded": (lambda x: F.linear(F.unfold(x, 8, stride=8).mT, constant(8, 192)), "rearrange, linear"),
    "other colours": (lambda x: F.conv2d(x[:, [2, 1, 0]], constant(8, 3, 4, 4), stride=4),
                      "rearrange x 2, unfold, linear"),
    "smaller": (lambda x: F.interpolate(x, size=(8, 12)), "rearrange"),
    "sum with its mean": (lambda x: x + x.mean((2, 3), keepdim=True), "pool, rearrange x 2, add"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_what_reads_the_image(name: str) -> None:
    module, expected = IMAGES[name]
    assert made(of_image(module)) == expected


POOL = "linear, pool, rearrange"
POOLS: dict[str, tuple[Module, str]] = {
    "max": (nn.MaxPool2d(2), POOL),
    "max, padded": (nn.MaxPool2d(3, 2, 1), POOL),
    "max, up to the end": (nn.MaxPool2d(3, 2, ceil_mode=True), POOL),
    "max, padded, up to the end": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), POOL),
    "max, a last window in the padding": (lambda x: F.max_pool2d(x, 2, 4, 1, ceil_mode=True), POOL),
    "max, a last window beyond the image": (lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True), POOL),
    "max and its places": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], POOL),
    "max of a row": (lambda x: F.max_pool1d(x.flatten(2), 2), POOL),
    "mean": (nn.AvgPool2d(2), POOL),
    "mean of what there is": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), POOL),
    "mean, up to the end": (nn.AvgPool2d(3, 2, ceil_mode=True), POOL),
    "mean of what there is, up to the end": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), POOL),
    "mean with zeros": (nn.AvgPool2d(3, 2, 1), "linear, depthwise, rearrange"),
    "mean with zeros, up to the end": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), "linear, depthwise, rearrange, multiply"),
    "mean of a row": (lambda x: F.avg_pool1d(x.flatten(2), 2), POOL),
    "adaptive": (nn.AdaptiveAvgPool2d(2), POOL),
    "adaptive to one": (nn.AdaptiveAvgPool2d(1), POOL),
    "adaptive in one axis": (nn.AdaptiveAvgPool2d((None, 1)), POOL),
    "adaptive to the same": (nn.AdaptiveAvgPool2d((4, 6)), "linear, rearrange"),
    "adaptive max": (nn.AdaptiveMaxPool2d((2, 3)), POOL),
    "in windows": (in_windows(nn.AvgPool2d(2, 1)), "linear, rearrange x 2, pool"),
    "in windows, max": (in_windows(nn.MaxPool2d(2, 1)), "linear, rearrange x 2, pool"),
    "in windows, with zeros": (in_windows(nn.AvgPool2d(3, 1, 1)), "linear, rearrange x 2, depthwise"),
    "in windows, of all": (in_windows(lambda x: x.mean((2, 3))), "linear, rearrange x 2, pool"),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str) -> None:
    module, expected = POOLS[name]
    found = made(of_map(module))
    assert sorted(found.split(", ")) == sorted(expected.split(", "))


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["max", "mean", "with zeros"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.booleans(),
)
def test_any_pool(kind: str, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    pool = (
        nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)
        if kind == "max"
        else nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad=kind == "with zeros")
    )
    of_map(pool)


def test_the_mean_over_any_axes() -> None:
    axes = [(2, 3), (2,), (3,), (1,), (1, 2), (1, 2, 3), (-1,)]

    def means(x: Tensor) -> list[Tensor]:
        every = [x.mean(axis, keepdim=keep) for axis in axes for keep in (False, True)]
        return [*every, x.sum((2, 3)), x.sum(1), x.amax((2, 3)), x.amax(1), x.max(1)[0], x.flatten(2).max(-1).values]

    graph = of_map(means)
    assert len(graph.output_shapes) == 2 * len(axes) + 6
    assert {n.target for n in graph.module.graph.nodes if n.op == "call_function"} == {
        floatops.patchify, floatops.linear, floatops.pool, floatops.rearrange, floatops.multiply
    }  # fmt: skip


def test_a_mean_of_the_pixels_of_a_map_is_one_pool() -> None:
    graph = of_map(lambda x: x.mean((-2, -1)))
    assert made(graph) == "linear, pool"
    _, size, kernel, *_, kind = arguments_of(graph, floatops.pool)
    assert (tuple(size), tuple(kernel), kind) == ((1, 24), (1, 24), "mean")


def test_tokens_in_the_first_axis_are_no_images() -> None:
    assert made(of_map(lambda x: x.flatten(2).permute(2, 0, 1).mean(0))) == "linear, pool"


REFUSED: dict[str, tuple[Module, str]] = {
    "transposed": (drawn(nn.ConvTranspose2d(16, 8, 2, 2)), "a transposed convolution has no integer form"),
    "one axis": (lambda x: F.conv1d(x.flatten(2), constant(8, 16, 3)), "a convolution over 1 axes"),
    "three axes": (lambda x: F.conv3d(x[:, None], constant(4, 1, 1, 3, 3)), "a convolution over 3 axes"),
    "a dilated pool": (nn.MaxPool2d(2, 1, dilation=2), "max_pool2d: a dilated pool"),
    "another divisor": (nn.AvgPool2d(2, divisor_override=3), "an average pool with a divisor of its own"),
    "windows of different sizes": (nn.AdaptiveAvgPool2d((3, 4)), "windows of different sizes"),
    "places of maxima": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] + 1, "where a maximum lies"),
    "all elements": (lambda x: x.mean(), "mean: a reduction over the batch"),
    "the batch": (lambda x: x.sum((0, 1)), "sum: a reduction over the batch"),
    "windows with padding": (in_windows(nn.MaxPool2d(3, 2, 1)), "a pool with padding over parts of an image"),
    "overlapping folds": (lambda x: F.fold(F.unfold(x, 3), (4, 6), 3), "a fold of windows that overlap"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=f"change: .*{reason}"):
        capture(Embedded(module, tokens=False), SHAPE)


def test_places_of_maxima_as_an_output() -> None:
    with pytest.raises(UnsupportedOp, match=r"output \w+: where a maximum lies"):
        capture(Embedded(nn.MaxPool2d(2, return_indices=True), tokens=False), SHAPE)


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 12), (2, 6, 4)])
def test_images_of_any_channels_and_sizes(shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(shape[0], 8, 2, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1), nn.Flatten(2))
    graph = checked(drawn(model), shape)
    assert graph.input_shape == shape and made(graph).startswith("linear x 2, unfold")
    assert torch.Size(graph.output_shapes[0]) == (4, shape[1] // 2 * (shape[2] // 2))
