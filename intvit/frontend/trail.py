"""What each operation of an exported program becomes: kept by the walk, read by `intvit inspect --coverage`.

    conv2d      ->  patchify, linear         operations of its own
    batch_norm  ->  folded into linear       the linear is made again with other weights
    q @ kᵀ      ->  folded into attention    nothing until the softmax and the values come
    permute     ->  movement: nothing        an index map
    arange      ->  constant

What a lazy value emits when something reads it is counted for the operation that made the value.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch.export import ExportedProgram


@dataclass(frozen=True)
class Step:
    """An operation of the exported program: its module, its name, what it became; `reason` where it is unsupported."""

    path: str
    operation: str
    becomes: str = ""
    canonical: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Trail:
    """All operations of a program in order, and what keeps it from being canonical, one line each."""

    steps: tuple[Step, ...]
    unsupported: tuple[str, ...] = ()


@dataclass
class Visit:
    """A node of the exported program as the walk leaves it: the kind of its value and what was emitted for it."""

    node: fx.Node
    path: str
    operation: str
    kind: str = ""
    emitted: list[fx.Node] = field(default_factory=list)
    reason: str | None = None


def steps_of(
    program: ExportedProgram, visits: list[Visit], remade: dict[fx.Node, fx.Node], graph: fx.Graph
) -> tuple[Step, ...]:
    """The visits as steps. `remade` says which operation of `graph` was made again from which, with other constants."""
    return tuple(_Reader(program, visits, remade, graph).steps())


class _Reader:
    def __init__(
        self, program: ExportedProgram, visits: list[Visit], remade: dict[fx.Node, fx.Node], graph: fx.Graph
    ) -> None:
        self.visits = {visit.node: visit for visit in visits}
        self.remade = remade
        self.uses = Counter(self._first(node) for node in graph.nodes)
        self.callers = dict(_callers(program.graph_module))

    def steps(self) -> Iterator[Step]:
        for visit in self.visits.values():
            own = self._own(visit)
            becomes = "" if visit.reason is not None else _counted(own) or self._without_own(visit)
            yield Step(visit.path, visit.operation, becomes, own, visit.reason)

    def _first(self, node: fx.Node) -> fx.Node:
        """What an operation was at first, before it was made again."""
        while node in self.remade:
            node = self.remade[node]
        return node

    def _own(self, visit: Visit) -> tuple[str, ...]:
        """The canonical operations that were first made for it, as often as they are there in the end."""
        return tuple(_called(node) for node in visit.emitted if node not in self.remade for _ in range(self.uses[node]))

    def _folded(self, visit: Visit) -> str | None:
        return next((_called(node) for node in reversed(visit.emitted) if self.uses[self._first(node)]), None)

    def _without_own(self, visit: Visit) -> str:
        if visit.kind in _FIXED:
            return _FIXED[visit.kind]
        into = self._folded(visit) or self._reader(visit.node)
        if into is not None:
            return f"folded into {into}"
        return "nothing: no output needs it" if visit.kind == "value" else "not known: it follows what is unsupported"

    def _reader(self, node: fx.Node) -> str | None:
        """The main operation of the nearest that reads `node`: what a rule emits last."""
        seen, waiting = {node}, [node]
        while waiting:
            for user in self._users(waiting.pop(0)):
                if user in seen:
                    continue
                seen.add(user)
                visit = self.visits.get(user)
                found = None if visit is None else self._folded(visit)
                if found is not None:
                    return found
                waiting.append(user)
        return None

    def _users(self, node: fx.Node) -> Iterator[fx.Node]:
        """Those behind a node, also behind the graph in which it is."""
        for user in node.users:
            if user.op == "output" and user.graph in self.callers:
                yield self.callers[user.graph]
            else:
                yield user


_FIXED = {
    "movement": "movement: nothing",
    "identity": "nothing: the same values",
    "check": "nothing: a check",
    "constant": "constant",
    "unknown": "not known: it follows what is unsupported",
}


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _counted(names: tuple[str, ...]) -> str:
    counts = {name: names.count(name) for name in names}
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())


def _callers(module: fx.GraphModule) -> Iterator[tuple[fx.Graph, Any]]:
    """The node that calls each graph inside a graph: parts under `torch.no_grad()`."""
    for node in module.graph.nodes:
        for argument in node.all_input_nodes:
            inner = getattr(module, str(argument.target), None) if argument.op == "get_attr" else None
            if isinstance(inner, fx.GraphModule):
                yield inner.graph, node
                yield from _callers(inner)
