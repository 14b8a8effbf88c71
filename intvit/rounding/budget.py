"""What a budget allows: `--bits mixed --budget 0.6` is 0.6 of the bytes that a model's weights have at 8 bits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from intvit import floatops
from intvit.bits import keeps_whole
from intvit.errors import IntvitError
from intvit.nodes import arguments
from intvit.rounding.allocation import CHOICES, stored_bytes
from intvit.stages import FloatGraph


@dataclass(frozen=True)
class Budget:
    """The number of weights of each layer that may have fewer bits, by its node's name, and the bytes for them all."""

    weights: Mapping[str, int]
    limit: int

    @classmethod
    def of(cls, graph: FloatGraph, share: float) -> "Budget":
        """`share` of the bytes of all linear layers, of which the first and the last ones keep 8 bits.

        Raises `IntvitError` where the others at their fewest bits take more.
        """
        nodes = graph.module.graph.find_nodes(op="call_function", target=floatops.linear)
        counts = {node: _weights(graph, node) for node in nodes}
        chosen = {node.name: count for node, count in counts.items() if not keeps_whole(node)}
        whole = sum(counts.values())
        fixed = whole - sum(chosen.values())
        limit = math.floor(share * whole + 1e-6) - fixed
        least = sum(stored_bytes(count, min(CHOICES)) for count in chosen.values())
        if limit < least:
            smallest = math.ceil(1000 * (fixed + least) / whole - 1e-6) / 1000
            raise IntvitError(
                f"a budget of {share:g} is too small: with the first and the last layers at 8 bits and all others at"
                f" {min(CHOICES)}, the weights take {smallest:g} of their bytes at 8 bits; give {smallest:g} or more"
            )
        return cls(chosen, limit)


def _weights(graph: FloatGraph, node: fx.Node) -> int:
    return graph.module.get_buffer(str(arguments(node)[1].target)).numel()
