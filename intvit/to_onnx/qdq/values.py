"""Values of the ONNX graph that stand for integers, and what is written around them: factors, pairs, tables."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto

from intvit.to_onnx.qdq.scales import PRODUCT, Scale
from intvit.to_onnx.scope import Scope

CLOSE = 1e-9
"""Relative difference of scales that are the same."""


@dataclass(frozen=True)
class Value:
    """A float32 value `[batch, tokens, C]` that is `scale · integers`."""

    name: str
    scale: Scale

    def at(self, scope: Scope, scale: Scale | float) -> str:
        """The name of `scale · integers`: this value, or its product with a factor.

        A channel whose scale is 0, because its reader multiplies it by 0, stays as it is.
        """
        wanted = np.asarray(scale, np.float64)
        shape = np.broadcast_shapes(wanted.shape, self.scale.shape)
        factor = np.divide(wanted, self.scale, out=np.ones(shape), where=self.scale != 0)
        if np.allclose(factor, 1, rtol=CLOSE, atol=0):
            return self.name
        return scope.op("Mul", self.name, scope.constant(factor, "float32", "factor"), label="scaled")

    @property
    def quantization(self) -> Scale:
        """The one scale at which it is quantized."""
        return np.atleast_1d(self.scale[0] if (self.scale == self.scale[0]).all() else PRODUCT)

    def quantized(self, scope: Scope) -> "Value":
        """Through QuantizeLinear and DequantizeLinear: the nearest of 256 multiples of one scale."""
        scale = self.quantization
        parameters = scope.constant(scale[0], "float32", "scale"), scope.constant(0, "int8")
        quantized = scope.op("QuantizeLinear", self.at(scope, scale), *parameters, label="quantized")
        return Value(scope.op("DequantizeLinear", quantized, *parameters, label="dequantized"), scale)


def weights(scope: Scope, integers: NDArray[np.int8], scale: Scale) -> str:
    """int8 weights `[K, N]` as float32, `scale` per column."""
    stored = scope.constant(integers, "int8", "weight"), scope.constant(scale, "float32", "weight_scale")
    return scope.op("DequantizeLinear", *stored, axis=1, label="weights")


def table(scope: Scope, values: ArrayLike, label: str) -> str:
    """Constant tokens, stored as float16: they take the two bytes of their int16, a type that few runtimes have."""
    stored = scope.constant(values, "float16", label)
    return scope.op("Cast", stored, to=int(TensorProto.FLOAT), label=f"{label}_float32")


def reshaped(scope: Scope, x: str, *shape: int, label: str) -> str:
    """`x` as `[batch, *shape]`."""
    return scope.op("Reshape", x, scope.int64(-1, *shape), label=label)
