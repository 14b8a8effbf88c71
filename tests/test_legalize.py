"""Which operations become one kernel, and that equal kernels are compiled once."""

from collections import Counter
from copy import deepcopy

import pytest
import tiny
import torch
from torch import fx

from intvit.constants import ConstantPool
from intvit.dialect import operation_of
from intvit.kernels.isa import AVX2, AVX512_VNNI
from intvit.legalize import Legalizer
from intvit.program import program_of
from intvit.to_tir import to_tir
from intvit.verify.overflow import shapes_of


def legalizer() -> Legalizer:
    graph = deepcopy(tiny.integer_model().graph)
    return Legalizer(graph.module, shapes_of(graph), AVX2)


def names(nodes: tuple[fx.Node, ...]) -> str:
    return " ".join(operation_of(node.target).name for node in nodes)


def test_products_take_in_what_follows_them() -> None:
    """Of two blocks; the last one's queries, projection and MLP are for the class token alone."""
    groups = legalizer().groups()
    assert Counter(names(group.nodes) for group in groups) == {
        "patchify": 1,
        "concat_tokens": 1,
        "add": 1,
        "select_tokens": 2,
        "layernorm": 5,
        "attention": 2,
        "linear requantize": 8,
        "linear requantize gelu": 2,
        "linear add": 4,
    }
    nodes = tiny.integer_model().graph.module.graph.nodes
    assert sum(len(group.nodes) for group in groups) == sum(node.op == "call_function" for node in nodes)


@pytest.mark.parametrize(
    ("factor", "shift", "zero_point", "halfway"),
    [
        (2**14, 14, 0, True),
        (0, 14, 0, True),
        (2**14 - 1, 14, 0, False),
        (-(2**14), 14, 0, False),
        (-(2**15), 14, 0, False),
        (2**14, 15, 0, False),
        (2**14, 14, 1, False),
    ],
)
def test_a_requantization_ends_halfway_before_gelu_where_it_may(factor, shift, zero_point, halfway) -> None:
    found = legalizer()
    group = next(group for group in found.groups() if names(group.nodes) == "linear requantize gelu")
    _, requantize, gelu = group.nodes
    multiplier = found.module.get_buffer(str(requantize.args[1].target))
    multiplier.copy_(2**14 + torch.arange(multiplier.numel()))
    multiplier[3] = factor
    requantize.args = (*requantize.args[:3], shift, zero_point, *requantize.args[5:])
    gelu.args = (requantize, 10, *gelu.args[2:])
    (_, before, stage), _, _ = found.stages(group, multiplier.numel())
    assert stage.halfway and before.halfway == halfway


def test_every_operand_is_computed_before_it_is_read() -> None:
    """A group stands where its last node stands, so both arms of a residual are there."""
    known = {"image"}
    nodes = legalizer()
    for group in nodes.groups():
        for argument in nodes.call(group).arguments:
            assert not isinstance(argument, fx.Node) or argument.op == "placeholder" or argument.name in known
        known.add(group.result.name)


@pytest.mark.parametrize("isa", [AVX2, AVX512_VNNI], ids=lambda isa: isa.name)
def test_equal_kernels_are_one_function(isa) -> None:
    module = to_tir(program_of(tiny.integer_model(), isa), ConstantPool(), "run")
    functions = [var.name_hint for var in module.get_global_vars() if var.name_hint != "run"]
    assert len([name for name in functions if "attention" in name]) <= 2
    assert len(functions) < len(legalizer().groups())
