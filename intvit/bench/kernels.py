"""A profile's steps added up by kernel and layer: where the time of a call goes, and how fast each multiplies.

Layers that differ in their numbers alone are one: `blocks.*.mlp.fc1`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intvit.model import Step


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel for one kind of layer, in one run of the model."""

    name: str
    layer: str
    calls: int
    multiply_adds: int
    seconds: float
    share: float
    """Of the time of all kernels."""

    @property
    def rate(self) -> float:
        """Multiply-adds per second."""
        return self.multiply_adds / self.seconds if self.seconds > 0 else 0.0


def by_kernel(steps: Iterable["Step"]) -> list[Kernel]:
    """Kernels by name and layer, the one that takes most first."""
    sums: dict[tuple[str, str], tuple[int, int, float]] = {}
    for step in steps:
        key = step.name, re.sub(r"\b\d+\b", "*", step.path)
        calls, multiply_adds, seconds = sums.get(key, (0, 0, 0.0))
        sums[key] = calls + 1, multiply_adds + step.multiply_adds, seconds + step.seconds
    total = sum(seconds for _, _, seconds in sums.values()) or 1.0
    kernels = [
        Kernel(name, layer, calls, multiply_adds, seconds, seconds / total)
        for (name, layer), (calls, multiply_adds, seconds) in sums.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)
