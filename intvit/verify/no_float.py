"""The proof that an integer graph is one: operations of the dialect, on integers, and nothing else."""

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from intvit.dialect import operation_of
from intvit.errors import VerifyError
from intvit.stages import IntGraph
from intvit.verify.overflow import fake_values


def prove_no_float(graph: IntGraph) -> int:
    """Every operation is one of the dialect, and its operands and its result are integers.

    Returns the number of operations; raises `VerifyError` with every layer where one is not.
    """
    nodes = list(graph.module.graph.nodes)
    faults = [fault for node in nodes if (fault := _fault(node, graph.module)) is not None]
    if not faults:
        values = fake_values(graph)
        faults = [f"{_where(n)}: gives {values[n.name].dtype}" for n in nodes if _is_float(values.get(n.name))]
    if faults:
        raise VerifyError(f"{len(faults)} places are float or unknown:\n  " + "\n  ".join(faults))
    return sum(node.op == "call_function" for node in nodes)


def _fault(node: fx.Node, module: fx.GraphModule) -> str | None:
    """Why a node cannot be proved before the types of its operands are known, or None."""
    if node.op in ("placeholder", "output"):
        return None
    if node.op == "get_attr":
        value = module.get_buffer(str(node.target))
        reader = next(iter(node.users), node)
        return f"{_where(reader)}: constant {node.target} is {value.dtype}" if _is_float(value) else None
    if operation_of(node.target) is None:
        return f"{_where(node)}: {node.target} is not an operation of the dialect"
    floats = [a for a in tree_leaves((node.args, node.kwargs)) if isinstance(a, float | complex)]
    return f"{_where(node)}: takes the number {floats[0]}" if floats else None


def _is_float(value: Tensor | None) -> bool:
    return value is not None and (value.dtype.is_floating_point or value.dtype.is_complex)


def _where(node: fx.Node) -> str:
    return node.meta.get("path") or node.name
