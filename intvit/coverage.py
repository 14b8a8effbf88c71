"""What becomes of every operation of a float model: it is captured, and the passes of what it becomes are looked up.

No images are needed; a pass that leaves a site alone, which only calibration can show, is reported by `quantize`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from intvit.errors import UnsupportedOp
from intvit.frontend import exported, trail
from intvit.passes.base import LoweringPass, Pass
from intvit.passes.pipeline import PASSES


@dataclass(frozen=True)
class Row:
    """An operation of the exported program, the module that it is in, and how often it is there.

    `becomes` says what it turns into, `canonical` names the float operations that are made for it and `passes` those
    that lower them to integers; `reason` is why it would stay float.
    """

    path: str
    operation: str
    count: int
    becomes: str
    canonical: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Coverage:
    """Every operation of a model in order, and one line for each that would stay float."""

    rows: tuple[Row, ...]
    unsupported: tuple[str, ...]

    @property
    def operations(self) -> int:
        return sum(row.count for row in self.rows)

    @property
    def canonical(self) -> int:
        return sum(len(row.canonical) * row.count for row in self.rows)


def coverage(model: nn.Module, input_shape: tuple[int, int, int], passes: Sequence[Pass] = PASSES) -> Coverage:
    """What `passes` would make of `model` for images `[batch, *input_shape]`.

    A model that cannot be exported has no rows. Raises `IntvitError` where it returns nothing.
    """
    try:
        program = exported(model, input_shape)
    except UnsupportedOp as error:
        return Coverage((), (str(error),))
    found = trail(program)
    lowered = {type(step).target.__name__: step.name for step in passes if isinstance(step, LoweringPass)}
    counts: Counter[Row] = Counter()
    left = []
    for step in found.steps:
        missing = [name for name in dict.fromkeys(step.canonical) if name not in lowered]
        names = tuple(dict.fromkeys(lowered[name] for name in step.canonical if name in lowered))
        reason = step.reason
        if missing and reason is None:
            reason = f"no pass lowers {', '.join(missing)}"
            left.append(f"{step.path or '(model)'}: {step.operation}: {reason}")
        counts[Row(step.path, step.operation, 1, step.becomes, step.canonical, names, reason)] += 1
    rows = tuple(
        Row(row.path, row.operation, count, row.becomes, row.canonical, row.passes, row.reason)
        for row, count in counts.items()
    )
    return Coverage(rows, (*found.unsupported, *left))
