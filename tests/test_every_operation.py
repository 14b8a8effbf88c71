"""Walks the dialect: every operation becomes a kernel, alone and in a whole model."""

from collections.abc import Iterator

import biased
import coarse
import gated
import mixed
import moved
import normalized
import pytest
import tiny
import windowed
from torch import fx

from intvit.dialect import OPERATIONS, operation_of
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import AVX2
from intvit.legalize import Group, Legalizer
from intvit.verify.overflow import shapes_of

PRESETS = ("default", "paper")


def models() -> Iterator[IntegerModel]:
    """The small model of every preset, and models with what it has not."""
    yield from map(tiny.integer_model, PRESETS)
    yield moved.integer_model()
    yield gated.integer_model()
    yield normalized.integer_model()
    yield windowed.integer_model()
    yield mixed.integer_model()
    yield biased.integer_model()
    yield coarse.integer_model()


def first(name: str) -> tuple[Legalizer, fx.Node] | None:
    """The first node of an operation in the small models."""
    for model in models():
        graph = model.graph
        for node in graph.module.graph.nodes:
            operation = operation_of(node.target) if node.op == "call_function" else None
            if operation is not None and operation.name == name:
                return Legalizer(graph.module, shapes_of(graph), AVX2), node
    return None


@pytest.mark.parametrize("name", OPERATIONS)
def test_becomes_a_kernel(name: str) -> None:
    found = first(name)
    assert found is not None, f"no small model has {name}: the tests of compilation miss it"
    legalizer, node = found
    call = legalizer.call(Group((node,)))
    *_, columns = legalizer.shapes[node.name]
    assert call.columns == columns
    assert call.dtype == str(node.meta["val"].dtype).removeprefix("torch.")
    assert len(call.arguments) + 1 == len(call.function.params)
