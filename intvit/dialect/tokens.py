"""`concat_tokens`, `select_tokens`: movement along the token axis, no arithmetic.

Class, distillation and register tokens are constants put before the patches (int16, at the patches' scale);
a classifier reads one token.
"""

import torch
from torch import Tensor

from intvit.dialect.operation import operation, require, require_dtype
from intvit.ranges import Operand, Range, Ranges


def _concat_check(constant: Tensor, x: Tensor) -> Tensor:
    require_dtype("x", x, torch.int16)
    require_dtype("constant", constant, torch.int16)
    require(x.ndim == 3, "x must be [batch, tokens, channels]")
    require(constant.ndim == 2 and constant.shape[1] == x.shape[-1], f"constant must be [tokens, {x.shape[-1]}]")
    return x.new_empty(x.shape[0], constant.shape[0] + x.shape[1], x.shape[2])


def _concat_ranges(constant: Tensor, x: Operand) -> Ranges:
    return Ranges(x.union(Range(int(constant.min()), int(constant.max()))))


@operation(check=_concat_check, ranges=_concat_ranges)
def concat_tokens(constant: Tensor, x: Tensor) -> Tensor:
    """Constant tokens int16 `[K, C]` before those of `x` int16 `[B, T, C]`: `[B, K + T, C]`."""
    return torch.cat([constant.expand(x.shape[0], -1, -1), x], 1)


def _select_check(x: Tensor, start: int, stop: int) -> Tensor:
    require_dtype("x", x, torch.int8, torch.int16, torch.int32)
    require(x.ndim == 3 and 0 <= start < stop <= x.shape[1], f"no tokens {start}..{stop} in {tuple(x.shape)}")
    return x.new_empty(x.shape[0], stop - start, x.shape[2])


def _select_ranges(x: Operand, start: int, stop: int) -> Ranges:
    return Ranges(x)


@operation(check=_select_check, ranges=_select_ranges)
def select_tokens(x: Tensor, start: int, stop: int) -> Tensor:
    """Tokens `start` to `stop - 1` of `[B, T, C]`."""
    return x[:, start:stop].clone()
