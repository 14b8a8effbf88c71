"""Products of two activations: int8 times int8, exact int32 sums.

    before   y: f32 = product(a, b, groups)
    after    acc: i32 = intvit::product(q_a, q_b, groups)         y = s_a s_b acc

Both operands have one scale and no offset (`Role.MATRIX`), so the sums have one scale too, and what reads them
requantizes them (`fold-boundaries`) or takes them as they are (`lower-softmax`, `lower-residual`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect.product import product
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerProduct(LoweringPass):
    """Products of two computed tensors."""

    name: ClassVar[str] = "lower-product"
    target: ClassVar[Any] = floatops.product

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if any(graph.is_constant(operand) for operand in arguments(node)[:2]):
            return Skip(node.name, "one of its operands is constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        *operands, groups = arguments(site)
        a, b = (graph.read(x, graph.grid(x, Role.MATRIX)) for x in operands)
        return graph.write(graph.emit(product, a, b, groups), graph.grid(site, Role.ACCUMULATOR))
