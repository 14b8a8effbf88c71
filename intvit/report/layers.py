"""Signal to noise along the depth, and the noise that each layer adds to what it was given.

    N = 10^(-SNR/10)             noise energy over signal energy, of a layer's result against float
    added = N - max N(inputs)    its own rounding, and what its function makes of the noise that arrives

Inputs are the nearest results of other layers before it in the integer graph; several count as the noisiest of them,
and the pixels have no noise. A negative figure says that the layer dampens the noise that came in, as a residual sum
does whose noisier arm is the smaller one. A function that keeps the small part of its input, as GELU does, raises the
share even where it computes exactly.
"""

from dataclasses import dataclass

from torch import fx

from intvit.metadata import Layer
from intvit.stages import IntGraph


@dataclass(frozen=True)
class LayerRow:
    """A layer whose signal-to-noise ratio is known; `inputs` are the nodes of the layers that it reads.

    `before` is the SNR of the noisiest input, None where it reads pixels and constants alone; `added` is a share of the
    signal's energy.
    """

    layer: Layer
    snr: float
    inputs: tuple[str, ...]
    before: float | None
    added: float


def layer_rows(graph: IntGraph, layers: tuple[Layer, ...]) -> tuple[LayerRow, ...]:
    """A row per layer with an SNR, in the order of the graph; none for a model that was made without."""
    known = {layer.node: layer for layer in layers if layer.snr is not None}
    nodes = {node.name: node for node in graph.module.graph.nodes}
    rows = []
    for name, layer in known.items():
        assert layer.snr is not None
        inputs = tuple(_inputs(nodes[name], known)) if name in nodes else ()
        ratios = [known[source].snr or 0.0 for source in inputs]
        before = min(ratios, default=None)
        arriving = 0.0 if before is None else noise_share(before)
        rows.append(LayerRow(layer, layer.snr, inputs, before, noise_share(layer.snr) - arriving))
    return tuple(rows)


def noise_share(snr: float) -> float:
    """Noise energy over signal energy."""
    return float(10.0 ** (-snr / 10))


def _inputs(node: fx.Node, known: dict[str, Layer]) -> list[str]:
    """The nearest layers that `node` is computed from, each once, in the order of its arguments."""
    found: dict[str, None] = {}
    waiting = list(node.all_input_nodes)
    seen: set[fx.Node] = set()
    while waiting:
        source = waiting.pop(0)
        if source in seen:
            continue
        seen.add(source)
        if source.name in known:
            found[source.name] = None
        else:
            waiting += source.all_input_nodes
    return list(found)
