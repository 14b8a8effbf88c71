"""`levels`: a look-up by the raised form of an 8-bit integer, 0 to 255, which is its place in the table."""

from typing import Any

import numpy as np
from torch import fx

from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import RAISE8
from intvit.to_onnx.integer.lookup import look_up
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope


def levelling(w: Writer, node: fx.Node) -> str:
    """The rule of `intvit::levels`."""
    x, table = arguments(node)
    raised = w.scope.constant(w.array(table).astype(np.int16) + RAISE8, "uint8", "levels")
    fixed: dict[str, Any] = dict(shape=w.shapes[node.name][1:])
    return w.scope.call("Levels", levelled, w.raised(x, np.array([RAISE8])), raised, **fixed)


def levelled(s: Scope, x: str, table: str, *, shape: tuple[int, int]) -> str:
    """The raised levels, uint8 `[B, *shape]`, of raised int32 integers."""
    return look_up(s, table, x, *shape)
