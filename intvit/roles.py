"""Which grid a tensor is read on, and written on: decided by what reads it, never by the model."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Role
from intvit.nodes import arguments

READS: Mapping[Callable[..., Tensor], tuple[Role, ...]] = {
    floatops.linear: (Role.PRODUCT,),
    floatops.attention: (Role.SCORE, Role.SCORE, Role.VALUE),
    floatops.gelu: (Role.FIXED,),
    floatops.layer_norm: (Role.WIDE,),
    floatops.add: (Role.WIDE, Role.WIDE),
    floatops.concat_tokens: (Role.WIDE, Role.WIDE),
    floatops.pointwise: (Role.WIDE,),
    floatops.multiply: (Role.WIDE, Role.WIDE),
    floatops.divide: (Role.WIDE, Role.WIDE),
    floatops.product: (Role.MATRIX, Role.MATRIX),
    floatops.softmax: (Role.WIDE,),
    floatops.unfold: (Role.PRODUCT,),
    floatops.depthwise: (Role.PRODUCT,),
    floatops.pool: (Role.WIDE,),
    floatops.rms_norm: (Role.WIDE,),
    floatops.group_norm: (Role.WIDE,),
}
ONE_SCALE = {Role.PRODUCT, Role.MATRIX}
PER_CHANNEL = {Role.PRODUCT, Role.MATRIX, Role.SCORE, Role.VALUE}
DIRECT: Mapping[Callable[..., Tensor], set[Role]] = {
    floatops.layer_norm: {Role.PRODUCT},
    floatops.group_norm: {Role.PRODUCT},
    floatops.rms_norm: PER_CHANNEL,
    floatops.multiply: PER_CHANNEL,
    floatops.divide: PER_CHANNEL,
    floatops.pointwise: ONE_SCALE,
    floatops.rearrange: {*PER_CHANNEL, Role.FIXED},
}
"""Operations that write a grid of these roles at once where all that reads them wants it, and 16 bits otherwise."""
SUMS = (floatops.linear, floatops.depthwise, floatops.product)
NORMALIZATIONS = (floatops.layer_norm, floatops.group_norm)


def roles_read(node: fx.Node) -> dict[Role, list[fx.Node]]:
    """For what its users read `node`; a selection of tokens hands on what is read of it.

    A rearrangement reads its sources on its own grid, which theirs need not be: they keep 16 bits for it.
    """
    roles: dict[Role, list[fx.Node]] = {}
    for user in node.users:
        if user.op == "output":
            roles.setdefault(Role.OUTPUT, []).append(user)
        elif user.target is floatops.select_tokens:
            for role, readers in roles_read(user).items():
                roles.setdefault(role, []).extend(readers)
        elif user.target is floatops.rearrange:
            roles.setdefault(Role.WIDE, []).append(user)
        else:
            for argument, role in zip(arguments(user), READS[user.target], strict=False):  # type: ignore[index]
                if argument is node:
                    roles.setdefault(role, []).append(user)
    return roles


def stored_role(node: fx.Node) -> Role:
    """The grid that the integer operation of `node` writes; readers that want another get a requantization."""
    target: Any = node.target
    if target is floatops.select_tokens:
        return stored_role(arguments(node)[0])
    if target in SUMS:
        return Role.ACCUMULATOR
    if target in (floatops.patchify, floatops.gelu, floatops.attention, floatops.unfold):
        return Role.PRODUCT
    if target in DIRECT:
        roles = set(roles_read(node))
        if len(roles) == 1 and roles <= DIRECT[target]:
            return roles.pop()
    return Role.WIDE


def heads_reading(node: fx.Node) -> int:
    """The number of heads of the attention that reads `node` as queries or keys."""
    return next(int(arguments(user)[3]) for user in roles_read(node)[Role.SCORE])
