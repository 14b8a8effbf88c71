"""`linear`: int8 products with constant weights, `MatMulInteger` of raised activations.

    (x + 128) W = x W + 128 Σ_k W      so that the bias is b - 128 Σ_k W, plus what its reader raises its operand by

Products of one operand whose results are requantized alike (queries, keys and values) are one product, whose result is
split: few large operators are faster than many small ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import fx

from intvit.errors import IntvitError
from intvit.fusion import name_of, node_of
from intvit.to_onnx.integer.dyadic import RAISE8, Array, fits32
from intvit.to_onnx.scope import Scope

MOST = 255
"""Of a raised activation."""


@dataclass(frozen=True)
class Product:
    """int8 `weight` `[N, K]`, int32 `bias` `[N]`, and the rise of the result, `[N]` or `[1]`."""

    weight: Array
    bias: Array
    rise: Array

    @classmethod
    def of(cls, products: Sequence["Product"]) -> "Product":
        """One product with the columns of all."""
        rises = [np.broadcast_to(p.rise, len(p.bias)) for p in products]
        return cls(
            np.concatenate([p.weight for p in products]),
            np.concatenate([p.bias for p in products]),
            np.concatenate(rises),
        )

    @property
    def sums(self) -> Array:
        """`Σ_k W` of each column."""
        sums: Array = self.weight.sum(1, dtype=np.int64)
        return sums

    @cached_property
    def sizes(self) -> Array:
        """`Σ_k |W|` of each column."""
        sizes: Array = abs(self.weight.astype(np.int16)).sum(1, dtype=np.int64)
        return sizes

    @property
    def fits(self) -> bool:
        """Whether 32 bits hold every sum of raised activations, with bias and rise."""
        largest = MOST * self.sizes
        bias = np.int64(1) * self.bias + self.rise
        return fits32(largest, bias - RAISE8 * self.sums, largest + abs(bias) + RAISE8 * abs(self.sums))

    @property
    def bounds(self) -> tuple[int, int]:
        """Between which every sum with its bias is, for all activations."""
        reach = RAISE8 * self.sizes
        return int((self.bias - reach).min()), int((self.bias + reach).max())

    def write(self, scope: Scope, x: str, portable: bool) -> str:
        """int32 sums of uint8 `[..., K]`; with `portable` the weights are uint8 with a zero point of 128."""
        if not self.fits:
            raise IntvitError(f"{scope.path}: sums of raised activations leave 32 bits: it cannot be exported to ONNX")
        bias = scope.constant(self.bias + self.rise - RAISE8 * self.sums, "int32", "bias")
        if not portable:
            weight = scope.constant(self.weight.T, "int8", "weight")
            return scope.call("Linear", linear, x, weight, bias)
        weight = scope.constant(self.weight.T.astype(np.int16) + RAISE8, "uint8", "weight")
        return scope.call("LinearPortable", linear_portable, x, weight, bias)


def linear(s: Scope, x: str, weight: str, bias: str) -> str:
    """Raised activations times int8 weights `[K, N]`, and the bias."""
    return s.op("Add", s.op("MatMulInteger", x, weight, label="sums"), bias)


def linear_portable(s: Scope, x: str, weight: str, bias: str) -> str:
    """Raised activations times weights `[K, N]` that are raised by 128, and the bias."""
    zero = s.constant(0, "uint8")
    return s.op("Add", s.op("MatMulInteger", x, weight, zero, s.constant(RAISE8, "uint8"), label="sums"), bias)


def siblings(node: fx.Node) -> list[fx.Node]:
    """A linear with the others of its operand that are requantized alike, in the graph's order."""
    mine = _ending(node)
    if mine is None:
        return [node]
    readers = [user for user in node_of(node.args[0]).users if name_of(user) == "linear"]
    return [reader for reader in readers if _ending(reader) == mine]


def reads_alone(node: fx.Node) -> bool:
    """Whether one requantization or residual sum, and nothing else, reads a product."""
    if len(node.users) != 1:
        return False
    reader = node_of(next(iter(node.users)))
    return name_of(reader) == "requantize" or (name_of(reader) == "add" and reader.args[0] is not reader.args[3])


def _ending(node: fx.Node) -> tuple[object, ...] | None:
    """Shift, zero point and type of the requantization that alone reads a product of 8-bit results."""
    reader = node_of(next(iter(node.users))) if len(node.users) == 1 else None
    if reader is None or name_of(reader) != "requantize" or reader.args[5] != "int8":
        return None
    return reader.args[3:]
