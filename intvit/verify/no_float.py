"""The proof that nothing between the boundary tensors is float: graph, TVM functions, machine code."""

import torch

from intvit.dialect import operation_of
from intvit.errors import VerifyError
from intvit.stages import IntGraph
from intvit.verify.overflow import fake_values


def prove_no_float(graph: IntGraph) -> int:
    """Every node is an operation of the dialect on integer tensors; returns their number, raises `VerifyError`."""
    faults = []
    values = fake_values(graph) if all(_known(node) for node in graph.module.graph.nodes) else {}
    constants = {name: buffer for name, buffer in graph.module.named_buffers()}
    for node in graph.module.graph.nodes:
        if not _known(node):
            faults.append(f"{node.meta.get('path') or node.name}: {node.target} is not an operation of the dialect")
    for name, tensor in {**constants, **values}.items():
        if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            faults.append(f"{name} is {tensor.dtype}")
    if faults:
        raise VerifyError(f"{len(faults)} places are float:\n  " + "\n  ".join(faults))
    return len(values)


def _known(node: torch.fx.Node) -> bool:
    return node.op in ("placeholder", "get_attr", "output") or operation_of(node.target) is not None
