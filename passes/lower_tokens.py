"""Class tokens, registers and the choice of a token: movement along the token axis, on integers.

    before   y = concat_tokens(constant, x)     y = select_tokens(x, start, stop)
    after    the same on int16 (`concat_tokens`: constant and patches at one scale), or on whatever `x` is stored as

The class token enters at the scale of the sequence, so that it is rounded like every other token (I-ViT's code
concatenates it unquantized).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from intvit import floatops
from intvit.dialect import tokens
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.passes.base import LoweringPass, Skip
from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class LowerConcatTokens(LoweringPass):
    """Constant tokens before those of the image."""

    name: ClassVar[str] = "lower-concat-tokens"
    target: ClassVar[Any] = floatops.concat_tokens

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        if not graph.is_constant(arguments(node)[0]):
            return Skip(node.name, "its first tokens are not constant")
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        constant, x = arguments(site)
        grid = graph.grid(site, Role.WIDE)
        q = graph.emit(tokens.concat_tokens, grid.quantize(graph.value(constant)), graph.read(x, grid))
        return graph.write(q, grid)


@dataclass(frozen=True)
class LowerSelectTokens(LoweringPass):
    """Some tokens of a sequence, at the scale of the sequence."""

    name: ClassVar[str] = "lower-select-tokens"
    target: ClassVar[Any] = floatops.select_tokens

    def match(self, node: fx.Node, graph: Lowering) -> fx.Node | Skip:
        return node

    def rewrite(self, site: fx.Node, graph: Lowering) -> fx.Node:
        x, start, stop = arguments(site)
        grid = graph.stored_grid(site)
        return graph.write(graph.emit(tokens.select_tokens, graph.read(x, grid), start, stop), grid)
