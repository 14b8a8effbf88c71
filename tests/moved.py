"""The small Vision Transformer with movements of every kind inserted between its operations, for tests of whole models.

Its outputs are not those of a float model: it is the same model for every back end, and no more.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import tiny
import torch
from torch import fx

from intvit.dialect.rearrange import rearrange
from intvit.fusion import name_of
from intvit.integer_model import IntegerModel
from intvit.stages import IntGraph, copy_of

TOKENS, WIDTH, HEADS = 17, 32, 2


@cache
def integer_model() -> IntegerModel:
    """`tiny.integer_model()` with moved tokens, channels, and constants among them."""
    model = tiny.integer_model()
    module = copy_of(model.graph.module)
    first = {name: [n for n in module.graph.nodes if name_of(n) == name] for name in ("add", "layernorm", "linear")}
    _moved(module, first["add"][0], _rows(np.roll(np.arange(TOKENS), 5)), WIDTH)
    _moved(module, first["layernorm"][0], np.arange(TOKENS)[:, None] * 8 + [4, 5, 6, 7, 0, 1, 2, 3], 4)
    values = next(n for n in module.graph.nodes if name_of(n) == "attention").args[2]
    channels = np.arange(WIDTH).reshape(HEADS, -1)[:, ::-1].reshape(-1)
    _moved(module, values, np.arange(TOKENS)[:, None] * WIDTH + channels, 1)
    projection = next(n for n in first["linear"] if "add" in map(name_of, n.users))
    _moved(module, projection, _rows(np.arange(TOKENS)[::-1]), WIDTH)
    rows = np.arange(TOKENS)
    rows[3] = TOKENS
    _moved(module, first["add"][1], _rows(rows), WIDTH, np.full((1, WIDTH), 77, np.int16))
    module.recompile()
    graph = IntGraph.of(module, tiny.GRID, model.graph.output_scales, model.graph.output_shapes)
    return IntegerModel(graph, replace(model.metadata, name="moved"))


def _rows(numbers: Any) -> Any:
    return np.asarray(numbers)[:, None]


def _moved(module: fx.GraphModule, node: fx.Node, index: Any, chunk: int, constant: Any = None) -> None:
    """Puts a movement of `node`, and of a constant behind it, between it and its readers."""
    number = len(list(module.buffers()))
    module.register_buffer(f"places_{number}", torch.from_numpy(np.ascontiguousarray(index, np.int32)))
    with module.graph.inserting_after(node):
        new = module.graph.call_function(rearrange, ([node], None, chunk))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    with module.graph.inserting_before(new):
        sources = [node]
        if constant is not None:
            module.register_buffer(f"tokens_{number}", torch.from_numpy(constant))
            sources.append(module.graph.get_attr(f"tokens_{number}"))
        new.args = (sources, module.graph.get_attr(f"places_{number}"), chunk)
    new.meta["path"] = f"{node.meta.get('path', '')}.moved"
