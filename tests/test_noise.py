"""The signal-to-noise ratio per layer: of every layer, in order, and what it says."""

import math

import numpy as np
import pytest
import tiny

from intvit.noise import decibel, layers
from intvit.passes.pipeline import lower_with_layers


def rows(pixels: np.ndarray):
    calibrated = tiny.calibrated()
    graph, written = lower_with_layers(calibrated)
    return graph, written, layers(calibrated.source, graph, written, tiny.GRID, pixels)


def test_every_layer_has_a_row_in_the_order_of_the_graph() -> None:
    graph, written, found = rows(tiny.pixels(2))
    names = [node.name for node in graph.module.graph.nodes]
    assert [row.node for row in found] == sorted(written, key=names.index)
    assert found[0].operation == "patchify" and found[-1].path == "head"
    assert all(10 < row.snr <= 200 for row in found)


def test_the_pixels_are_exact() -> None:
    assert rows(tiny.pixels(1))[2][0].snr > 100


def test_images_are_weighed_by_their_energy() -> None:
    """Two images in one call: the ratio lies between those of each alone."""
    first, second = tiny.pixels(2)[:1], tiny.pixels(2)[1:]
    both = rows(np.concatenate([first, second]))[2]
    for one, other, together in zip(rows(first)[2], rows(second)[2], both, strict=True):
        assert min(one.snr, other.snr) - 0.01 <= together.snr <= max(one.snr, other.snr) + 0.01


@pytest.mark.parametrize(("signal", "noise", "expected"), [(1.0, 0.0, 200.0), (100.0, 1.0, 20.0), (0.0, 1.0, -200.0)])
def test_decibel(signal: float, noise: float, expected: float) -> None:
    assert math.isclose(decibel(signal, noise), expected)
