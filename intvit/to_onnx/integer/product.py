"""`product`: the int8 product of two computed tensors, `MatMulInteger` of groups of tokens.

The first operand is raised uint8, whose zero point 128 the operator takes back; the second is int8, or raised too where
the model is to run on units that want it so.
"""

from torch import fx

from intvit.nodes import arguments
from intvit.to_onnx.integer.dyadic import RAISE8
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope


def multiplied(w: Writer, node: fx.Node) -> str:
    """The rule."""
    a, b, groups = arguments(node)
    (_, rows, depth), (_, columns, _) = (w.shapes[x.name] for x in (a, b))
    sizes = (groups, rows // groups, columns // groups, depth)
    second = w.written[b] if w.portable else w.signed(b)
    return w.scope.call("Product", product, w.written[a], second, sizes=sizes, portable=w.portable)


def product(s: Scope, a: str, b: str, *, sizes: tuple[int, int, int, int], portable: bool) -> str:
    """uint8 a `[B, G·M, K]`, b `[B, G·N, K]` (int8, or uint8) to int32 `[B, G·M, N]`."""
    groups, rows, columns, depth = sizes
    left = s.op("Reshape", a, s.int64(-1, groups, rows, depth))
    right = s.op("Transpose", s.op("Reshape", b, s.int64(-1, groups, columns, depth)), perm=[0, 1, 3, 2])
    zero = s.constant(RAISE8, "uint8")
    sums = s.op("MatMulInteger", left, right, *([zero, zero] if portable else [zero]), label="sums")
    return s.op("Reshape", sums, s.int64(-1, groups * rows, columns))
