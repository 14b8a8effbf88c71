"""What only moves values is free until something reads it in its new order; then it is one `rearrange`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from spelled import SHAPE, Call, Embedded, arguments_of, constant, drawn, made, of_map, of_tokens
from torch import Tensor, nn

from intvit import floatops
from intvit.errors import UnsupportedOp
from intvit.frontend import capture

Module = Callable[[Tensor], Any]
MIX = constant(16, 16) * 0.3


def windows(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 2, 2, 3, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, 16)


def unwindows(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 2, 2, 3, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 24, 16)


FREE: dict[str, Module] = {
    "permute chain": lambda x: F.linear(x.mT.flip(2).mT.unflatten(1, (4, 6)).permute(0, 2, 1, 3), MIX)
    .permute(0, 2, 1, 3).flatten(1, 2).flip(1),
    "windows": lambda x: unwindows(F.linear(windows(x), MIX)),
    "shifted windows": lambda x: unwindows(F.linear(windows(x.unflatten(1, (4, 6)).roll((1, 2), (1, 2)).flatten(1, 2)),
                                                    MIX)).unflatten(1, (4, 6)).roll((-1, -2), (1, 2)).flatten(1, 2),
    "tokens first": lambda x: F.linear(x.transpose(0, 1), MIX).transpose(0, 1),
    "a map and back": lambda x: F.linear(x.mT.unflatten(2, (4, 6)).permute(0, 2, 3, 1), MIX).flatten(1, 2),
    "padding and a crop": lambda x: F.linear(F.pad(x, (0, 0, 1, 2))[:, 1:-2], MIX),
    "cut and joined": lambda x: F.linear(torch.cat(x.split(8, 1), 1), MIX),
    "joined in another order": lambda x: torch.cat(torch.stack(F.linear(x.flip(1), MIX).unbind(1), 1).split(6, 1), 1)
    .flip(1),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_a_movement_and_back_costs_nothing(name: str) -> None:
    assert made(of_tokens(FREE[name])) == "linear x 2"


def test_dropout_left_in_costs_nothing() -> None:
    drop = nn.Sequential(nn.Dropout(0.5), nn.Dropout1d(0.2), nn.Identity(), nn.AlphaDropout(0.1)).eval()
    assert made(of_tokens(lambda x: F.linear(drop(x.contiguous().clone().detach()), MIX))) == "linear x 2"


MOVED: dict[str, tuple[Module, str]] = {
    "flip": (lambda x: x.flip(1), "linear, rearrange"),
    "some tokens": (lambda x: x[:, 2:5], "linear, select_tokens"),
    "one token": (lambda x: x[:, 0], "linear, select_tokens"),
    "every second": (lambda x: x[:, ::2], "linear, rearrange"),
    "some channels": (lambda x: x[..., 3:7], "linear"),
    "channels in another order": (lambda x: x[..., torch.arange(16).flip(0)], "linear"),
    "picked": (lambda x: x[:, torch.tensor([3, 1, 1])], "linear, rearrange"),
    "repeated": (lambda x: x.repeat(1, 2, 1), "linear, rearrange"),
    "repeated each": (lambda x: x.repeat_interleave(2, 1), "linear, rearrange"),
    "padded": (lambda x: F.pad(x, (0, 0, 1, 2)), "linear, rearrange"),
    "padded with a value": (lambda x: F.pad(x, (0, 0, 1, 2), value=2.0), "linear, rearrange, add"),
    "zeros filled in": (lambda x: x.masked_fill(torch.eye(24, 16).bool(), 0.0), "linear, rearrange"),
    "chosen or zero": (lambda x: torch.where(torch.eye(24, 16).bool(), x, 0.0), "linear, rearrange"),
    "two movements are one": (lambda x: F.pad(x.flip(1), (0, 0, 1, 1)).flip(1)[:, ::2], "linear, rearrange"),
    "behind a rearrangement": (
        lambda x: torch.cat([F.silu(x.flip(1)), x], 1).flip(1), "linear, pointwise, rearrange"
    ),
    "class token": (
        lambda x: torch.cat([constant(1, 1, 16).expand(x.shape[0], -1, -1), x], 1), "linear, concat_tokens"
    ),
    "class token, tokens first": (
        lambda x: torch.cat([constant(1, 1, 16).expand(-1, x.shape[0], -1), x.transpose(0, 1)]).transpose(0, 1),
        "linear, concat_tokens",
    ),
    "two constants": (
        lambda x: torch.cat([constant(1, 1, 16).expand(x.shape[0], -1, -1),
                             constant(1, 3, 16).expand(x.shape[0], -1, -1), x], 1), "linear, concat_tokens"
    ),
    "constant behind": (
        lambda x: torch.cat([x, constant(1, 1, 16).expand(x.shape[0], -1, -1)], 1), "linear, rearrange"
    ),
    "two tensors": (lambda x: torch.cat([x, F.linear(x, MIX)], 1), "linear x 2, rearrange"),
    "channels of two tensors": (lambda x: torch.cat([F.silu(x), x], -1), "linear, pointwise, rearrange"),
    "stacked": (lambda x: torch.stack([x, F.linear(x, MIX)], 2).flatten(1, 2), "linear x 2, rearrange"),
    "merged patches": (
        lambda x: F.linear(torch.cat([x.unflatten(1, (4, 6))[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1),
                           constant(8, 64)).flatten(1, 2), "linear x 2, rearrange"
    ),
    "merged by reshape": (
        lambda x: F.linear(x.reshape(-1, 2, 2, 3, 2, 16).permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2),
                           constant(8, 64)), "linear x 2, rearrange"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_what_is_read_in_a_new_order(name: str) -> None:
    module, expected = MOVED[name]
    assert made(of_tokens(module)) == expected


OF_MAPS: dict[str, Module] = {
    "pixel shuffle": nn.PixelShuffle(2),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "channel shuffle": nn.ChannelShuffle(4),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2),
    "upsampled to a size": lambda x: F.interpolate(x, size=(6, 9)),
    "upsampled exactly": lambda x: F.interpolate(x, size=(3, 4), mode="nearest-exact"),
    "im2col": lambda x: F.unfold(x, 2, stride=2),
    "im2col of windows that overlap": lambda x: F.unfold(x, 3, padding=1),
    "col2im": lambda x: F.fold(F.unfold(x, 2, stride=2), (4, 6), 2, stride=2),
    "col2im with a border": lambda x: F.fold(F.unfold(x, 2, stride=2), (5, 7), 2, stride=2),
    "reflected": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "replicated": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "cropped": lambda x: F.pad(x, (-1, 0, 0, -1)),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "sliding windows": lambda x: x.unfold(2, 2, 1),
}


@pytest.mark.parametrize("name", OF_MAPS)
def test_movements_of_maps(name: str) -> None:
    assert made(of_map(OF_MAPS[name])) == "linear, rearrange"


def test_factors_move_with_their_elements() -> None:
    """Factors of elements are numbers, not places: an upsampled map keeps their fractions."""
    graph = of_map(lambda x: F.interpolate(F.silu(x) * constant(16, 4, 6), scale_factor=2).flip(3))
    assert made(graph) == "linear, pointwise, rearrange, multiply"


def test_rows_are_copied_whole() -> None:
    graph = of_tokens(lambda x: torch.cat([x.flip(1), F.linear(x, MIX)], 1))
    *_, chunk = arguments_of(graph, floatops.rearrange)
    assert chunk == 16


Step = tuple[str, tuple[int, ...]]


@st.composite
def chains(draw: st.DrawFn) -> list[Step]:
    """Movements of a map `[B, 16, 4, 6]`, in terms of whatever shape there is then."""
    names = ["permute", "flip", "slice", "pad", "merge", "split", "roll", "stride"]
    return [
        (draw(st.sampled_from(names)), tuple(draw(st.lists(st.integers(0, 7), min_size=3, max_size=3))))
        for _ in range(draw(st.integers(1, 5)))
    ]


def moved(x: Tensor, step: Step) -> Tensor:
    name, (first, second, third) = step
    axes = x.ndim - 1
    axis = 1 + first % axes
    size = x.shape[axis]
    if name == "permute":
        order = list(range(1, x.ndim))
        order.insert(second % axes, order.pop(first % axes))
        return x.permute(0, *order)
    if name == "flip":
        return x.flip(axis)
    if name == "slice":
        start = second % size
        return x.narrow(axis, start, 1 + third % (size - start))
    if name == "pad":
        pads = [0, 0] * (x.ndim - 1 - axis) + [second % 3, third % 3]
        return F.pad(x, pads)
    if name == "merge":
        return x.flatten(axis, min(axis + 1, axes))
    if name == "split":
        return x.unflatten(axis, (2, -1)) if size % 2 == 0 and axes < 5 else x
    if name == "roll":
        return x.roll(second, axis)
    return x.narrow(axis, 0, size)[(slice(None),) * axis + (slice(None, None, 1 + second % 3),)]


@settings(max_examples=25, deadline=None)
@given(chains())
def test_any_chain_of_movements(chain: list[Step]) -> None:
    def change(x: Tensor) -> Tensor:
        for step in chain:
            x = moved(x, step)
        return x

    names = made(of_map(change)).split(", ")
    assert set(names) <= {"linear", "linear x 2", "select_tokens", "rearrange"} and len(names) <= 3


@settings(max_examples=12, deadline=None)
@given(chains(), chains())
def test_a_sum_behind_any_movements(first: list[Step], second: list[Step]) -> None:
    """Elements of one tensor meet those of another, however both were moved, and are read by a function."""

    def change(x: Tensor) -> Tensor:
        y = F.silu(x)
        for step in first:
            y = moved(y, step)
        other = y.flatten(1)
        for step in second:
            x = moved(x, step)
        flat = x.flatten(1)
        size = min(flat.shape[1], other.shape[1])
        return torch.tanh(flat[:, :size] + other[:, :size])

    of_map(change)


REFUSED: dict[str, tuple[Module, str]] = {
    "images joined": (lambda x: torch.cat([x, x]), "cat: a concatenation of images of a batch"),
    "images mixed": (lambda x: F.linear(F.pad(x.flip(0), (1, 1)), constant(8, 18)), "linear: images of a batch are"),
    "dropout": (lambda x: F.dropout(x, 0.1), "dropout: dropout that is active in evaluation too"),
    "other numbers": (lambda x: x.masked_fill(torch.eye(24, 16).bool(), 2.0), "masked_fill: only zeros"),
    "sorted": (lambda x: x.sort(1)[0], "sort: no rule"),
    "picked by the image": (lambda x: x[:, x.argmax(1)[0]], "argmax: no rule"),
    "running sum": (lambda x: x.cumsum(1), "cumsum: no rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=f"change: {reason}"):
        capture(Embedded(module, tokens=True), SHAPE)


def test_an_output_in_which_images_are_mixed() -> None:
    with pytest.raises(UnsupportedOp, match=r"output \w+: images of a batch are mixed"):
        capture(Embedded(Call(lambda x: x.flip(0)), tokens=True), SHAPE)


def test_a_shared_layer_is_computed_for_each_use() -> None:
    layer = drawn(nn.Linear(16, 16))
    assert made(of_tokens(lambda x: layer(F.silu(layer(x))))) == "linear x 3, pointwise"
