"""Operations in place: which tensors share memory with the one that is changed.

    y = x[:, 0]; y.mul_(2); return x

The walk gives the result of `mul_` a value of its own and leaves that of `x` as it was: right where nothing reads `x`
any more, and refused where something does.
"""

from collections.abc import Iterator
from typing import Any

from torch import fx

MAY_RETURN_ITS_INPUT = {
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "to",
    "contiguous",
    "reshape",
    "flatten",
    "identity",
    "getitem",
}


def read_later(node: fx.Node) -> Iterator[fx.Node]:
    """Tensors that share memory with the one that `node` changes in place, and that something reads behind it."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not node.all_input_nodes:
        return
    root = node.all_input_nodes[0]
    while _shares_memory(root):
        root = root.all_input_nodes[0]
    waiting = [root]
    while waiting:
        member = waiting.pop()
        readers = [user for user in member.users if user is not node]
        if any(node < user for user in readers):
            yield member
        waiting.extend(user for user in readers if _shares_memory(user) and user.all_input_nodes[0] is member)


def _shares_memory(node: fx.Node) -> bool:
    """Whether the result of an operation may lie in the memory of its first input."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    if getattr(packet, "__name__", "") in MAY_RETURN_ITS_INPUT:
        return True
    schema = getattr(target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
