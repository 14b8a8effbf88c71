"""What a pass is: a frozen dataclass with a name, that matches sites or says why not, and rewrites them.

`LoweringPass.apply` does the rest: it takes every node of the pass's float operation, keeps the reasons of the skips,
replaces uses, removes dead nodes, and checks the graph (`Lowering.check`) before it returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, fx

from intvit.passes.lowering import Lowering


@dataclass(frozen=True)
class Skip:
    """A node that a pass leaves alone, legally, and why."""

    node: str
    reason: str


@dataclass
class Result:
    """What a pass did: how many sites it rewrote, and what it skipped."""

    rewritten: int = 0
    skips: list[Skip] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return self.rewritten > 0


class Pass(ABC):
    """A step of the pipeline; `name` is its name on the command line."""

    name: ClassVar[str]

    @abstractmethod
    def apply(self, graph: Lowering) -> Result:
        """Rewrites `graph` in place."""


class LoweringPass(Pass):
    """Rewrites every node of one float operation by integer operations."""

    target: ClassVar[Callable[..., Tensor]]

    @abstractmethod
    def match(self, node: fx.Node, graph: Lowering) -> Any | Skip:
        """All that `rewrite` needs of a site, or the reason why `node` is none."""

    @abstractmethod
    def rewrite(self, site: Any, graph: Lowering) -> fx.Node:
        """Emits the integer operations of a site and returns the float node that replaces it."""

    def apply(self, graph: Lowering) -> Result:
        result = Result()
        for node in graph.find(type(self).target):
            site = self.match(node, graph)
            if isinstance(site, Skip):
                result.skips.append(site)
                continue
            with graph.replacing(node) as replacement:
                replacement(self.rewrite(site, graph))
            result.rewritten += 1
        graph.finish(self.name)
        return result
