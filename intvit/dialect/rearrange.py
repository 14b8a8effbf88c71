"""`rearrange`: blocks of neighbouring channels of any tensors, in any order and number; no arithmetic.

    x_i [B, T_i, C_i] or constants [T_i, C_i], of one type  ->  [B, T, C]

Windows and their shifts, merged patches, shuffled channels, transposes, padding and concatenations are all this. Every
tensor is cut into blocks of `chunk` channels, row by row, and the blocks are numbered through, those of the first
tensor before those of the second; `index` says which of them comes where in the result.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from intvit.dialect.operation import operation, require, require_dtype
from intvit.ranges import Operand, Range, Ranges


def _check(tensors: list[Tensor], index: Tensor, chunk: int) -> Tensor:
    computed = [x for x in tensors if x.ndim == 3]
    require(bool(computed), "at least one tensor must be [batch, tokens, channels]")
    for x in tensors:
        require_dtype("each of tensors", x, torch.int8, torch.int16, torch.int32)
        require(x.ndim in (2, 3), f"a tensor must be [batch, tokens, channels] or [tokens, channels], not {x.ndim}-D")
        require(x.dtype == computed[0].dtype, f"the tensors are {x.dtype} and {computed[0].dtype}, not of one type")
    _check_blocks([tuple(x.shape[-2:]) for x in tensors], index, chunk)
    return computed[0].new_empty(computed[0].shape[0], index.shape[0], index.shape[1] * chunk)


def _check_blocks(shapes: Sequence[tuple[int, ...]], index: Tensor, chunk: int) -> None:
    require_dtype("index", index, torch.int32)
    require(index.ndim == 2 and min(index.shape) > 0, f"index must be [tokens, blocks], not {tuple(index.shape)}")
    for _, channels in shapes:
        require(chunk > 0 and channels % chunk == 0, f"{channels} channels are not blocks of {chunk}")


def _ranges(tensors: list[Operand | Tensor], index: Tensor, chunk: int) -> Ranges:
    shapes = [tuple(x.shape)[-2:] for x in tensors]
    _check_blocks(shapes, index, chunk)
    count = sum(tokens * channels // chunk for tokens, channels in shapes)
    low, high = int(index.min()), int(index.max())
    require(low >= 0 and high < count, f"index holds {low} to {high}, and there are {count} blocks")
    return Ranges(reduce(Range.union, [_range_of(x) for x in tensors]))


def _range_of(x: Operand | Tensor) -> Range:
    return Range(int(x.min()), int(x.max())) if isinstance(x, Tensor) else Range(x.low, x.high)


@operation(check=_check, ranges=_ranges)
def rearrange(tensors: list[Tensor], index: Tensor, chunk: int) -> Tensor:
    """The blocks of `chunk` channels that `index` int32 `[T, C / chunk]` names: `[B, T, C]`."""
    batch = next(x.shape[0] for x in tensors if x.ndim == 3)
    blocks = torch.cat([x.expand(batch, *x.shape[-2:]).reshape(batch, -1, chunk) for x in tensors], 1)
    return blocks[:, index.flatten()].reshape(batch, index.shape[0], -1)
