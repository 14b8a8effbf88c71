"""Activations, products and quotients by elements on small graphs: before, after, skips, how near they are to float."""

from typing import Any

import gated
import pytest
import sites
import torch
from gated import SILU
from torch import fx

from intvit import floatops
from intvit.grid import Grid
from intvit.passes.base import LoweringPass
from intvit.passes.lower_activation import LowerActivation, table_of
from intvit.passes.lower_divide import LowerDivide
from intvit.passes.lower_multiply import LowerMultiply
from intvit.passes.lowering import Lowering
from intvit.passes.pipeline import lower
from intvit.pointwise import Function, evaluate
from intvit.verify.overflow import prove_no_overflow


def quotient(s: gated.Sketch, blocks: int = 1) -> fx.Node:
    """The embedded tokens by what spans an order of magnitude."""
    function: Function = (("mul", "x", 0.3), ("exp", "0"))
    divisor = s.call(floatops.pointwise, s.linear(s.tokens, n=blocks), function, channels=blocks)
    return s.call(floatops.divide, s.tokens, divisor)


SITES: dict[str, tuple[LoweringPass, Any, str]] = {
    "activation, 8 bits": (
        LowerActivation(),
        lambda s: s.linear(s.call(floatops.pointwise, s.tokens, SILU)),
        "int8",
    ),
    "activation, 16 bits": (LowerActivation(), lambda s: s.gate(s.tokens), "int16"),
    "two tensors, 8 bits": (LowerMultiply(), lambda s: s.linear(s.gate(s.tokens)), "int8"),
    "two tensors, 16 bits": (LowerMultiply(), lambda s: s.gate(s.tokens), "int16"),
    "a square": (LowerMultiply(), lambda s: s.call(floatops.multiply, s.tokens, s.tokens), "int16"),
    "a constant": (
        LowerMultiply(),
        lambda s: s.call(floatops.multiply, s.tokens, s.constant(s.count, s.channels)),
        "int16",
    ),
    "a constant for all tokens": (
        LowerMultiply(),
        lambda s: s.call(floatops.multiply, s.tokens, s.constant(1, s.channels)),
        "int16",
    ),
    "a quotient, 8 bits": (LowerDivide(), lambda s: s.linear(quotient(s, 2)), "int8"),
    "a quotient, 16 bits": (LowerDivide(), quotient, "int16"),
    "a quotient by elements": (LowerDivide(), lambda s: quotient(s, s.channels), "int16"),
    "a token for all": (
        LowerMultiply(),
        lambda s: s.call(floatops.multiply, s.tokens, s.first(s.tokens)),
        "int16",
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_before_and_after(name: str) -> None:
    step, build, dtype = SITES[name]
    source = sites.calibrated(build)
    graph, node = sites.lowered(step, source)
    assert node.args[-1] == dtype
    assert sites.noise(source, graph, sites.IMAGES) < (1 / 100 if dtype == "int8" else 1 / 2000)


@pytest.mark.parametrize("name", SITES)
def test_the_whole_graph_is_integers(name: str) -> None:
    _, build, _ = SITES[name]
    source = sites.calibrated(build)
    graph = lower(source)
    prove_no_overflow(graph)
    assert sites.noise(source, graph, sites.IMAGES) < 1 / 40


FUNCTIONS: dict[str, Function] = {
    "silu": SILU,
    "quick gelu": (("mul", "x", 1.702), ("sigmoid", "0"), ("mul", "x", "1")),
    "relu": (("relu", "x"),),
    "hardswish": (("hardswish", "x"),),
    "tanh": (("tanh", "x"),),
    "constant": (("mul", "x", 0.0), ("add", "0", 3.0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_tables_hold_the_function(name: str, dtype: str) -> None:
    """At the knots to the rounding of the table, on the grid of its values, asymmetric."""
    grid = Grid.symmetric(torch.tensor([6.0]), "int16")
    knots = (torch.arange(257, dtype=torch.float64) - 128) * 256 * grid.scale
    wanted = evaluate(FUNCTIONS[name], knots)
    out = Grid.affine(wanted.min().reshape(1), wanted.max().reshape(1), dtype)
    fine = 128 if dtype == "int8" else 1
    got = table_of(FUNCTIONS[name], grid, out).double() / fine * out.scale + out.offset
    assert float((got - wanted).abs().max()) <= float(out.scale) / fine * 1.001


def test_a_knot_at_which_a_function_is_not_finite_takes_the_nearest_value() -> None:
    grid, out = (Grid.symmetric(torch.tensor([bound]), "int16") for bound in (128.0, 8.0))
    table = table_of((("log", "x"),), grid, out)
    assert torch.equal(table[:129], table[129:130].expand(129))
    assert int(table[129]) == round(float(torch.log(256 * grid.scale) / out.scale))


def test_a_function_that_is_finite_nowhere_is_skipped() -> None:
    graph = Lowering(sites.calibrated(lambda s: s.call(floatops.pointwise, s.tokens, SILU)))
    (node,) = graph.find(floatops.pointwise)
    node.args = (node.args[0], (("mul", "x", 0.0), ("log", "0")))
    (skip,) = LowerActivation().apply(graph).skips
    assert (skip.node, skip.reason) == (node.name, "its function is finite nowhere in the calibrated range")


@pytest.mark.parametrize(
    ("step", "target", "reason"),
    [
        (LowerActivation(), floatops.pointwise, "its operand is constant"),
        (LowerMultiply(), floatops.multiply, "its first factor is constant"),
    ],
)
def test_constants_are_skipped(step: LoweringPass, target: Any, reason: str) -> None:
    graph = Lowering(sites.calibrated(lambda s: s.gate(s.tokens)))
    (node,) = graph.find(target)
    node.args = (graph.find(floatops.linear)[0].args[1], *node.args[1:])
    (skip,) = step.apply(graph).skips
    assert (skip.node, skip.reason) == (node.name, reason)


@pytest.mark.parametrize("place", [0, 1])
def test_a_quotient_with_a_constant_is_skipped(place: int) -> None:
    graph = Lowering(sites.calibrated(quotient))
    (node,) = graph.find(floatops.divide)
    operands = list(node.args)
    operands[place] = graph.find(floatops.linear)[0].args[1]
    node.args = tuple(operands)
    (skip,) = LowerDivide().apply(graph).skips
    assert (skip.node, skip.reason) == (node.name, "one of its operands is constant")
