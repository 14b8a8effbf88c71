"""`einsum` of two tensors: a `matmul` of what its letters say are matrices, so that an attention is found in it.

    bhid,bhjd->bhij     many matrices (b, h), rows i, columns j, summed over d
    btc,oc->bto         a constant without b: a linear
    bhwc,hkc->bhwk      a constant for each h: the same for each b

Any other form is left to torch, which says it in sums and products of its own.
"""

import math
import string
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from intvit.frontend.builder import Builder
from intvit.frontend.materialize import as_view
from intvit.frontend.rules.products import matmul
from intvit.frontend.rules.registry import rule
from intvit.frontend.values import Constant, Probabilities, Scores, Value, View, shape_of


@rule("einsum")
def einsum(b: Builder, equation: str, operands: list[Value], path: Any = None) -> Value | None:
    if len(operands) != 2 or "->" not in equation:
        return None
    first, second, result = _letters(equation, [len(shape_of(x)) for x in operands])
    lead = [c for c in first if c in second and c in result]
    inner = [c for c in first if c in second and c not in result]
    rows, columns = [c for c in first if c not in second], [c for c in second if c not in first]
    if not inner or sorted(lead + rows + columns) != sorted(result):
        return None
    if len(set(first)) < len(first) or len(set(second)) < len(second):
        return None
    alone: list[str] = []
    if lead and isinstance(operands[1], Constant):
        alone = _taken(rows, first[0])
    elif lead and isinstance(operands[0], Constant):
        alone = _taken(columns, second[0])
    sizes = dict(zip(first + second, (*shape_of(operands[0]), *shape_of(operands[1])), strict=True))
    x = _moved(b, operands[0], _Axes(first, _only(alone + lead, first), rows, inner, sizes))
    y = _moved(b, operands[1], _Axes(second, _only(alone + lead, second), inner, columns, sizes))
    found = [*alone, *lead, *rows, *columns]
    return _moved(b, matmul(b, x, y), _Axes("".join(found), list(result), None, None, sizes))


def _taken(letters: list[str], batch: str) -> list[str]:
    """The letter of the batch, taken out of those of rows or columns: matrices of each image by itself."""
    if batch not in letters:
        return []
    letters.remove(batch)
    return [batch]


def _only(letters: list[str], given: str) -> list[str]:
    return [c for c in letters if c in given]


@dataclass(frozen=True)
class _Axes:
    """Axes called `letters` in another order: one for each of `lead`, then, of two groups, one for each group."""

    letters: str
    lead: list[str]
    left: list[str] | None
    right: list[str] | None
    sizes: dict[str, int]

    def __call__(self, t: Tensor) -> Tensor:
        groups = [group for group in (self.left, self.right) if group is not None]
        order = [*self.lead, *(c for group in groups for c in group)]
        apart = t.reshape([self.sizes[c] for c in self.letters])
        shape = [*(self.sizes[c] for c in self.lead), *(math.prod(self.sizes[c] for c in group) for group in groups)]
        return apart.permute([self.letters.index(c) for c in order]).reshape(shape)


def _moved(b: Builder, x: Value, axes: _Axes) -> Value:
    if isinstance(x, Constant):
        return Constant(axes(x.tensor))
    if isinstance(x, View | Scores | Probabilities):
        moved = x.move(axes)
        if moved is not None:
            return moved
    return as_view(b, x).move(axes)


def _letters(equation: str, ranks: list[int]) -> tuple[str, str, str]:
    """The letters of both tensors and of the result, with letters for the axes that `...` stands for."""
    given, _, result = equation.replace(" ", "").partition("->")
    parts = given.split(",")
    hidden = [rank - len(part) + 3 if "..." in part else 0 for part, rank in zip(parts, ranks, strict=True)]
    spare = [c for c in string.ascii_letters if c not in equation]
    names = "".join(spare[: max(hidden)])
    first, second = (
        part.replace("...", names[len(names) - count :]) for part, count in zip(parts, hidden, strict=True)
    )
    return first, second, result.replace("...", names)
