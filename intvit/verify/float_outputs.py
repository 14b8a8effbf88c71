"""The float32 outputs of an exported model, and what they must be, so that the two are compared bit for bit.

An export with float32 outputs ends in `float32(q) * float32(scale)`, each rounded once, half to even (IEEE 754), of the
reference's integers `q`. numpy computes the same.
"""

import numpy as np
from numpy.typing import NDArray

from intvit.model import Array, Model


class FloatOutputs(Model):
    """A model whose `integers` are the float32 outputs of `model`."""

    def __init__(self, model: Model) -> None:
        self.metadata = model.metadata
        self._model = model

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        outputs = self._model(pixels)
        return outputs if isinstance(outputs, tuple) else (outputs,)


class ScaledIntegers(Model):
    """A model whose `integers` are those of `reference` times their scales, as an export computes them in float32."""

    def __init__(self, reference: Model) -> None:
        self.metadata = reference.metadata
        self._reference = reference

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        outputs = self._reference.integers(pixels)
        scales = self.metadata.output_scales
        return tuple(q.astype(np.float32) * np.float32(s) for q, s in zip(outputs, scales, strict=True))
