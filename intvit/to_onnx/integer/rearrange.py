"""`rearrange`: its tensors in the form in which a writer keeps them, moved (`to_onnx/rearrange.py`)."""

import numpy as np
from torch import fx

from intvit.blocks import Blocks
from intvit.fusion import node_of
from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import RAISE8, RAISE16
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.rearrange import Plan

KEPT = {"int8": (RAISE8, "uint8"), "int16": (RAISE16, "int32"), "int32": (0, "int32")}
"""By how much an integer is raised, and as what it is kept."""


def rearrangement(w: Writer, node: fx.Node) -> str:
    tensors, index, chunk = arguments(node)
    rise, kept = KEPT[w.dtypes[node.name]]
    values = [w.array(x).astype(np.int64) + rise if x.op == "get_attr" else None for x in tensors]
    shapes = [w.shapes[x.name][1:] if value is None else value.shape for x, value in zip(tensors, values, strict=True)]
    plan = Plan.of(Blocks.of(shapes, w.array(index), chunk), values)
    computed = [_computed(w, node_of(tensors[i])) for i in plan.computed]
    return plan.write(w.scope, computed, [w.scope.constant(values, kept, "tokens") for values in plan.constants])


def _computed(w: Writer, x: fx.Node) -> str:
    return w.raised(x, np.array([RAISE16])) if w.dtypes[x.name] == "int16" else w.written[x]
