"""`LowerProduct` and `LowerSoftmax`: before, after, skips, and how near they are to float."""

from collections.abc import Callable

import mixed
import pytest
import sites
import torch
from torch import fx
from windowed import Sketch

from intvit import floatops
from intvit.fusion import name_of
from intvit.grid import Role
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lower_product import LowerProduct
from intvit.passes.lower_softmax import LowerSoftmax
from intvit.passes.lowering import Lowering
from intvit.verify.overflow import prove_no_overflow

CLOSE = 0.02


def pair(sketch: Sketch, groups: int = 1) -> fx.Node:
    image = sketch.pixels.args[0]
    x = sketch.call(floatops.patchify, image, 4, 4, shape=(mixed.TOKENS, 48))
    return mixed.product(sketch, sketch.linear(x), sketch.linear(x), groups)


SITES: dict[str, tuple[LoweringPass, Callable[[Sketch], fx.Node], str]] = {
    "product": (LowerProduct(), lambda s: s.norm(pair(s)), "product"),
    "in groups": (LowerProduct(), lambda s: s.linear(pair(s, 8)), "product"),
    "product as output": (LowerProduct(), pair, "product"),
    "weights of sums": (LowerSoftmax(), lambda s: s.linear(mixed.softmax(s, pair(s), 0.1)), "softmax"),
    "weights of channels": (LowerSoftmax(), lambda s: mixed.softmax(s, s.linear(s.pixels), 1.5), "softmax"),
    "weights of a norm": (LowerSoftmax(), lambda s: mixed.softmax(s, s.norm(s.linear(s.pixels)), 1.0), "softmax"),
}


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    step, build, operation = SITES[name]
    sketch = Sketch()
    calibrated = sketch.calibrated(build(sketch))
    graph, new = sites.lowered(step, calibrated)
    assert name_of(new) == operation
    assert sites.noise(calibrated, graph) < CLOSE


@pytest.mark.parametrize(("name", "dtype"), [("weights of sums", "int32"), ("weights of channels", "int16")])
def test_sums_of_one_scale_are_read_as_they_are(name: str, dtype: str) -> None:
    step, build, _ = SITES[name]
    sketch = Sketch()
    graph, new = sites.lowered(step, sketch.calibrated(build(sketch)))
    assert new.args[0].args[3] == dtype
    (weights,) = new.users
    assert graph.value(weights.args[1]).tolist() == [2.0**-15]


def test_the_scale_of_sums_is_that_of_both_operands() -> None:
    sketch = Sketch()
    node = pair(sketch)
    a, b = node.args[:2]
    calibrated = sketch.calibrated(node)
    scales = [calibrated.grid(x, Role.MATRIX).scale for x in (a, b)]
    assert all(scale.numel() == 1 for scale in scales)
    assert torch.equal(calibrated.grid(node, Role.ACCUMULATOR).scale, scales[0] * scales[1])


def test_skips() -> None:
    sketch = Sketch()
    x, constant = sketch.linear(sketch.pixels), sketch.constant(16, 16)
    constant.meta["shape"] = (16, 16)
    graph = Lowering(mixed.calibrated())
    product = mixed.product(sketch, x, constant)
    assert LowerProduct().match(product, graph) == Skip(product.name, "one of its operands is constant")
    of_constant = mixed.softmax(sketch, constant, 1.0)
    assert LowerSoftmax().match(of_constant, graph) == Skip(of_constant.name, "its operand is constant")
    negative = mixed.softmax(sketch, x, -1.0)
    assert LowerSoftmax().match(negative, graph) == Skip(negative.name, "its scale is -1.0, not positive")


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_whole_model(preset: str) -> None:
    graph = mixed.integer_model(preset).graph
    prove_no_overflow(graph)
    assert sites.noise(mixed.calibrated(preset), graph) < 0.03
