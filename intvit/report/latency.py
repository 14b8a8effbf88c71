"""The time of each kernel of a compiled module, in the order in which they run."""

from collections.abc import Iterable
from dataclasses import dataclass

from intvit.bench.kernels import Kernel, by_kernel
from intvit.bench.machine import describe
from intvit.model import Step


@dataclass(frozen=True)
class Latency:
    """The profile of one run of a module: its kernels in order, and added up by kind; `where` it was taken."""

    target: str
    threads: int | None
    where: str
    steps: tuple[Step, ...]
    kernels: tuple[Kernel, ...]

    @property
    def seconds(self) -> float:
        """All kernels together."""
        return sum(step.seconds for step in self.steps)


def latency(steps: Iterable[Step], target: str, threads: int | None) -> Latency:
    """What the page shows of a profile; with the CPU that it was taken on, where that is what ran it."""
    steps = tuple(steps)
    where = "" if target.startswith("cuda") else str(describe().get("cpu", ""))
    return Latency(target, threads, where, steps, tuple(by_kernel(steps)))
