"""How an operation of the dialect is declared: schema, reference, check and interval rule, all under one name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.ranges import Ranges

Check = Callable[..., Tensor]
Rule = Callable[..., Ranges]


@dataclass(frozen=True)
class Operation:
    """One operation: `call` is the torch.library overload, `check` its fake, `ranges` its interval rule.

    `ranges(*args)` takes what the operation takes, with an `Operand` for each tensor computed at run time, and returns
    the range of its result with those of every intermediate that could leave 32 bits.
    """

    name: str
    call: Any
    check: Check
    ranges: Rule

    def require_kinds(self, *args: Any, **kwargs: Any) -> None:
        """Raises `TypeError` where an argument is not what the schema says, as torch's dispatcher would."""
        require(not kwargs, "arguments are given by place")
        declared = self.call._schema.arguments
        require(len(args) <= len(declared), f"{self.name} takes {len(declared)} arguments, not {len(args)}")
        for argument, value in zip(declared, args, strict=False):
            kind = str(argument.type)
            require(_is_of(value, kind), f"{argument.name} must be {kind}, not {type(value).__name__}")

    @property
    def qualified(self) -> str:
        return f"intvit::{self.name}"


def _is_of(value: Any, kind: str) -> bool:
    if kind.startswith("List["):
        return isinstance(value, list | tuple) and all(_is_of(entry, kind[5:-1]) for entry in value)
    return isinstance(value, KINDS[kind])


KINDS = {"Tensor": Tensor, "int": int, "str": str}
OPERATIONS: dict[str, Operation] = {}
_BY_CALL: dict[Any, Operation] = {}


def operation(*, check: Check, ranges: Rule) -> Callable[[Callable[..., Tensor]], Any]:
    """Registers a reference function as `intvit::<its name>`; its annotations are the schema."""

    def register(reference: Callable[..., Tensor]) -> Any:
        name = reference.__name__
        custom = torch.library.custom_op(f"intvit::{name}", reference, mutates_args=())
        custom.register_fake(check)
        declared = Operation(name, getattr(torch.ops.intvit, name).default, check, ranges)
        OPERATIONS[name] = _BY_CALL[declared.call] = declared
        return declared.call

    return register


def operation_of(target: Any) -> Operation | None:
    """The operation that a graph node's target is, or None for anything else."""
    return _BY_CALL.get(target)


def require(condition: bool, rule: str) -> None:
    """Refuses arguments that break an operation's rule; used by the checks."""
    if not condition:
        raise TypeError(rule)


def require_dtype(name: str, tensor: Tensor, *allowed: torch.dtype) -> None:
    require(tensor.dtype in allowed, f"{name} must be {' or '.join(map(str, allowed))}, not {tensor.dtype}")


def require_channels(channels: int, **tensors: Tensor) -> None:
    """Per-channel parameters are int32 of shape `[channels]` or `[1]`."""
    for name, tensor in tensors.items():
        require_dtype(name, tensor, torch.int32)
        require(list(tensor.shape) in ([channels], [1]), f"{name} must have 1 or {channels} entries")


def dtype_named(name: str) -> torch.dtype:
    """`"int8" | "int16" | "int32"` to the torch dtype: graphs carry dtypes by name."""
    dtypes = {"int8": torch.int8, "int16": torch.int16, "int32": torch.int32}
    require(name in dtypes, f"dtype must be one of {', '.join(dtypes)}, not {name!r}")
    return dtypes[name]
