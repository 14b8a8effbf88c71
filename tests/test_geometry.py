"""Where windows lie: the numbers of a geometry against windows that are looked at one by one."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from intvit.geometry import Axis, Geometry

AXES = [
    Axis(size, kernel, stride, before, after, dilation)
    for size, kernel, stride, before, after, dilation in itertools.product(
        (1, 4, 7), (1, 2, 3, 5), (1, 2, 3), (0, 1, 3), (0, 2), (1, 2)
    )
    if size + before + after >= (kernel - 1) * dilation + 1
]


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_every_window(axis: Axis) -> None:
    padded = axis.before + axis.size + axis.after
    starts = [s for s in range(0, padded, axis.stride) if s + axis.span <= padded]
    assert axis.count == len(starts)
    pixels = [[s - axis.before + tap * axis.dilation for tap in range(axis.kernel)] for s in starts]
    assert axis.covered == pixels[-1][-1] + axis.before + 1
    for i, window in enumerate(pixels):
        assert axis.first(i) == window[0]
        assert [window[tap] for tap in axis.inside(i)] == [p for p in window if 0 <= p < axis.size]
        assert (i in axis.interior) == (window[0] >= 0 and window[-1] < axis.size)


def test_of_an_image() -> None:
    geometry = Geometry.of([7, 5], [3, 2], [2, 1], [1, 0, 1, 1], [1, 2])
    columns = F.unfold(F.pad(torch.ones(1, 1, 7, 5), (0, 1, 1, 1)), (3, 2), (1, 2), 0, (2, 1))
    assert geometry.tokens == columns.shape[2] and geometry.result == (4, 4)
    assert geometry.counts == tuple(columns[0].sum(0).int().tolist())
    assert (geometry.pixels, geometry.taps, geometry.padded) == (35, 6, True)


def test_padding_that_no_window_reaches() -> None:
    assert not Geometry.of([7, 7], [2, 2], [2, 2], [0, 0, 0, 0]).padded
    assert not Geometry.of([6, 6], [2, 2], [2, 2], [0, 0, 1, 1]).padded
    assert Geometry.of([7, 6], [2, 2], [2, 2], [0, 0, 1, 1]).padded


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (([3], [1, 1], [1, 1], [0] * 4), "size must be 2"),
        (([3, 3], [0, 1], [1, 1], [0] * 4), "kernel must be 2"),
        (([3, 3], [1, 1], [1, 0], [0] * 4), "stride must be 2"),
        (([3, 3], [1, 1], [1, 1], [0] * 2), "padding must be 4"),
        (([3, 3], [1, 1], [1, 1], [0, -1, 0, 0]), "padding must be 4"),
        (([3, 3], [4, 1], [1, 1], [0] * 4), "must fit"),
        (([3, 3], [2, 2], [1, 1], [0] * 4, [1, 3]), "must fit"),
        (([3, 3], [2, 2], [1, 1], [0] * 4, [1]), "dilation must be 2"),
    ],
    ids=str,
)
def test_refuses_windows_that_make_no_sense(arguments: tuple[list[int], ...], fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        Geometry.of(*arguments)
