"""Fewer bits in one tensor: the coarser grid, and what it changes in the output."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from intvit.grid import LIMITS
from intvit.integer_model import IntegerModel
from intvit.report.sensitivity import coarser, effects


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_coarser_rounds_to_multiples_of_4_with_ties_to_even(dtype: str) -> None:
    low, high = LIMITS[dtype]
    q = torch.arange(low, high + 1).to(getattr(torch, dtype))
    expected = (torch.round(q.double() / 4) * 4).clamp(low, high)
    assert coarser(q).dtype == q.dtype
    torch.testing.assert_close(coarser(q).double(), expected, rtol=0, atol=0)


def changed_output(model: IntegerModel, name: str, pixels: NDArray[np.uint8]) -> Tensor:
    """The whole graph run anew with the tensor `name` on a coarser grid."""

    class Changing(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            value: Tensor = super().run_node(n)
            return coarser(value) if n.name == name else value

    with torch.inference_mode():
        (output,) = Changing(model.graph.module).run(torch.from_numpy(pixels))
    return output.double()


def test_effects_are_those_of_the_whole_graph(model: IntegerModel, pixels: NDArray[np.uint8]) -> None:
    images = pixels[:3]
    seen: list[tuple[int, int]] = []
    found = effects(model.graph, images, lambda done, total: seen.append((done, total)))
    exact = torch.from_numpy(model.integers(images)[0]).double()
    for effect in found:
        noise = (changed_output(model, effect.node, images).reshape(exact.shape) - exact).square().sum()
        assert effect.noise == pytest.approx(float(noise / exact.square().sum()))
    assert [e.noise for e in found] == sorted((e.noise for e in found), reverse=True)
    assert found[0].noise > 0
    assert {effect.dtype for effect in found} <= {"uint8", "int8", "int16"}
    assert seen == [(i + 1, 3 * len(found)) for i in range(3 * len(found))]


def test_no_images_no_effects(model: IntegerModel, pixels: NDArray[np.uint8]) -> None:
    assert effects(model.graph, pixels[:0]) == ()
