"""Where a graph can be cut: pieces that one value alone enters, and one value alone leaves.

In a Transformer each residual sum is such a value. Neighbouring pieces are joined until one has as many linear layers
as a block, attention and MLP: what a block does together is rounded together (BRECQ, arXiv:2102.05426, section 3.2).
"""

from dataclasses import dataclass

from torch import fx

from intvit import floatops

LAYERS = 6
"""Linear layers of a Transformer block: queries, keys, values, projection, and two of the MLP."""


@dataclass(frozen=True)
class Segment:
    """The operations from one cut to the next, in order; `entry` is read by the first, `nodes[-1]` is what leaves."""

    entry: fx.Node
    nodes: tuple[fx.Node, ...]

    @property
    def layers(self) -> tuple[fx.Node, ...]:
        return tuple(node for node in self.nodes if node.target is floatops.linear)


def segments(graph: fx.Graph) -> list[Segment]:
    """Those of a graph from its first cut on; what comes after the last cut is in none."""
    found: list[Segment] = []
    entry: fx.Node | None = None
    pending: list[fx.Node] = []
    for node, is_cut in _cuts(graph):
        pending.append(node)
        if not is_cut:
            continue
        if entry is None:
            entry, pending = node, []
        elif sum(n.target is floatops.linear for n in pending) >= LAYERS:
            found.append(Segment(entry, tuple(pending)))
            entry, pending = node, []
    return found


def _cuts(graph: fx.Graph) -> list[tuple[fx.Node, bool]]:
    """Each operation, and whether no earlier result is read by later ones; outputs of the model do not count."""
    nodes = [node for node in graph.nodes if node.op in ("placeholder", "call_function")]
    order = {node: i for i, node in enumerate(nodes)}
    last = {node: max((order[user] for user in node.users if user in order), default=-1) for node in nodes}
    found, reach = [], -1
    for i, node in enumerate(nodes):
        found.append((node, reach <= i and node.op == "call_function"))
        reach = max(reach, last[node])
    return found
