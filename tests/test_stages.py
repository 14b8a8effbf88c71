"""Copies of graphs: every constant once, whatever names it has."""

import torch
from torch import Tensor, fx

from intvit.stages import copy_of


def plus(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def test_a_constant_of_two_names_is_kept_once_and_read_by_both() -> None:
    shared, other = torch.tensor([1.0]), torch.tensor([5.0])
    root = torch.nn.Module()
    for name, value in (("first", shared), ("second", shared), ("third", other), ("unused", torch.zeros(1))):
        root.register_buffer(name, value)
    graph = fx.Graph()
    result = graph.placeholder("x")
    for name in ("second", "first", "third"):
        result = graph.call_function(plus, (result, graph.get_attr(name)))
    graph.output(result)
    copied = copy_of(fx.GraphModule(root, graph))
    assert set(dict(copied.named_buffers(remove_duplicate=False))) == {"first", "third"}
    assert copied(torch.tensor([10.0])).item() == 17.0
