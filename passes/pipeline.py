"""The compiler from a calibrated graph to an integer graph: the passes, in order.

A list, not a registry: to leave one out or add one, pass another list to `lower`.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import fx

from intvit import floatops
from intvit.dialect import operation_of
from intvit.errors import UnsupportedOp
from intvit.files import write_text
from intvit.noise import Written
from intvit.passes.base import Pass
from intvit.passes.fold_boundaries import FoldBoundaries
from intvit.passes.lower_activation import LowerActivation
from intvit.passes.lower_attention import LowerAttention
from intvit.passes.lower_depthwise import LowerDepthwise
from intvit.passes.lower_divide import LowerDivide
from intvit.passes.lower_gelu import LowerGelu
from intvit.passes.lower_groupnorm import LowerGroupNorm
from intvit.passes.lower_layernorm import LowerLayerNorm
from intvit.passes.lower_linear import LowerLinear
from intvit.passes.lower_multiply import LowerMultiply
from intvit.passes.lower_patchify import LowerPatchify
from intvit.passes.lower_pool import LowerPool
from intvit.passes.lower_product import LowerProduct
from intvit.passes.lower_rearrange import LowerRearrange
from intvit.passes.lower_residual import LowerResidual
from intvit.passes.lower_rmsnorm import LowerRMSNorm
from intvit.passes.lower_softmax import LowerSoftmax
from intvit.passes.lower_tokens import LowerConcatTokens, LowerSelectTokens
from intvit.passes.lower_unfold import LowerUnfold
from intvit.passes.lowering import Lowering
from intvit.stages import CalibratedGraph, IntGraph

PASSES: tuple[Pass, ...] = (
    # image to tokens
    LowerPatchify(),
    LowerConcatTokens(),
    LowerSelectTokens(),
    LowerRearrange(),
    # blocks
    LowerLayerNorm(),
    LowerRMSNorm(),
    LowerGroupNorm(),
    LowerUnfold(),
    LowerLinear(),
    LowerDepthwise(),
    LowerPool(),
    LowerAttention(),
    LowerGelu(),
    LowerActivation(),
    LowerMultiply(),
    LowerDivide(),
    LowerResidual(),
    LowerProduct(),
    LowerSoftmax(),
    # nothing float is left between them
    FoldBoundaries(),
)


def lower(calibrated: CalibratedGraph, passes: Sequence[Pass] = PASSES, dump_ir: Path | None = None) -> IntGraph:
    """The integer graph of a calibrated graph; `dump_ir` is a folder for the graph after every pass."""
    return lower_with_layers(calibrated, passes, dump_ir)[0]


def lower_with_layers(
    calibrated: CalibratedGraph, passes: Sequence[Pass] = PASSES, dump_ir: Path | None = None
) -> tuple[IntGraph, dict[str, Written]]:
    """The integer graph, and for each integer node that holds a float node's result, which and on what grid.

    Raises `UnsupportedOp` with every float operation that is left, its module path and the reason of its pass.
    """
    graph = Lowering(calibrated)
    reasons: dict[str, str] = {}
    for i, step in enumerate(passes):
        result = step.apply(graph)
        reasons.update({skip.node: skip.reason for skip in result.skips})
        if dump_ir is not None:
            title = f"# after {step.name}: {result.rewritten} sites, {len(result.skips)} skipped\n"
            write_text(dump_ir, f"{i:02d}-{step.name}.txt", title + printed(graph.graph) + "\n")
    left = [node for node in graph.graph.nodes if node.op == "call_function" and operation_of(node.target) is None]
    if left:
        raise UnsupportedOp(
            f"{len(left)} float operations are left:\n  " + "\n  ".join(_described(node, reasons) for node in left)
        )
    lowered = IntGraph.of(graph.module, calibrated.input_grid, graph.output_scales, calibrated.source.output_shapes)
    return lowered, graph.written


def printed(graph: fx.Graph) -> str:
    """One line per operation, as the dump shows it."""
    return "\n".join(str(node.format_node()) for node in graph.nodes if node.op != "get_attr")


def _described(node: fx.Node, reasons: dict[str, str]) -> str:
    kind = node.target.__name__ if callable(node.target) else str(node.target)
    reason = reasons.get(
        node.name, "no pass for it" if node.target in floatops.OPERATIONS else "its neighbour is float"
    )
    return f"{node.meta.get('path') or '(model)'}: {kind} {node.name}: {reason}"
