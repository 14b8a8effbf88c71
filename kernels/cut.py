"""How a kernel is cut into tasks and tiles, where something other than its own rule says so: `intvit.tuning`.

A cut decides the order of the work and never a sum: integers add up to the same in any order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """Rows of a register tile, and parts into which a block of rows or a head is split; `None`: as the rule says.

    On AMX the rows are those of a task.
    """

    tile: int | None = None
    splits: int | None = None


RULE = Cut()
