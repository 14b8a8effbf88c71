"""The two functions at the border of float and integer while a graph is half lowered; none is left when it is done.

A lowering pass replaces a float operation by `dequantize(integer operation(quantize(x)))`. Between two lowered
operations a `quantize` meets a `dequantize`, and `passes/fold_boundaries.py` removes the pair or leaves one
`requantize`.
"""

from torch import Tensor

from intvit.grid import Grid


def quantize(x: Tensor, scale: Tensor, offset: Tensor, dtype: str) -> Tensor:
    """Float to the integers of a grid."""
    return Grid(scale, offset, dtype).quantize(x)


def dequantize(q: Tensor, scale: Tensor, offset: Tensor, dtype: str) -> Tensor:
    """The integers of a grid to float."""
    return Grid(scale, offset, dtype).dequantize(q)
