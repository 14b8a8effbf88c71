"""What an error of each channel of a tensor weighs in the products with constant weights that read it.

E |W e|² = Σ_k E[e_k²] Σ_n W_nk²        errors e_k independent of each other, rows n of every product
"""

import torch
from torch import Tensor, fx, nn

from intvit import floatops
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.roles import roles_read

OTHER_BYTES = {Role.MATRIX, Role.SCORE, Role.VALUE}


def importance(module: nn.Module, node: fx.Node) -> Tensor | None:
    """The squared weights of each channel `[C]`; None where no product with constant weights reads `node`."""
    parts = [part for user in node.users if (part := _of_reader(module, user)) is not None]
    return torch.stack(parts).sum(0) if parts else None


def shared(module: nn.Module, node: fx.Node) -> Tensor | None:
    """The importance where all channels have one scale in front of these products: behind activation functions.

    None where what else reads the tensor in 8 bits would get the range of these products.
    """
    if node.target not in (floatops.gelu, floatops.pointwise) or OTHER_BYTES & set(roles_read(node)):
        return None
    return importance(module, node)


def _of_reader(module: nn.Module, user: fx.Node) -> Tensor | None:
    if user.target is floatops.select_tokens:
        return importance(module, user)
    if user.target is floatops.unfold:
        of_columns = importance(module, user)
        return None if of_columns is None else of_columns.reshape(-1, arguments(user)[0].meta["shape"][-1]).sum(0)
    if user.target not in (floatops.linear, floatops.depthwise):
        return None
    weight = arguments(user)[1]
    return module.get_buffer(str(weight.target)).square().sum(0) if weight.op == "get_attr" else None
