"""The proof that a TVM module is integer: every buffer, expression and constant in all of its functions."""

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from intvit.errors import VerifyError

TYPED = (tvm.ir.PrimType, tirx.BufferType)
EXTERNAL = tvm.ir.Op.get("tirx.call_extern")
VOID = tvm.ir.PrimType("void")
INTEGERS = ("int", "uint", "bool")
SCHEDULER = ("intvit_take", "intvit_meet", "intvit_fail")
"""Functions of every module's C part, whose instructions are proved with the others."""
SHOWN, WIDTH = 5, 80


def prove_no_float_module(module: tvm.IRModule) -> int:
    """No value in any function of a module is float; returns the number of functions.

    Raises `VerifyError` with the functions and the expressions of the first that are, of unknown type, or computed by
    code from elsewhere.
    """
    faults = [
        f"{variable.name_hint}: {fault}"
        for variable, function in module.functions.items()
        for fault in _faults(function)
    ]
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        shown = "\n  ".join(faults[:SHOWN] + more)
        raise VerifyError(f"{len(faults)} places of the TVM module are or may be float:\n  {shown}")
    return len(module.functions)


def _faults(function: tvm.ir.BaseFunc) -> list[str]:
    """What is or may be float in a function; the walk meets variables' types, and expressions, which have one.

    Most of what it meets are `IntImm` and arrays, which are passed over: the one cannot be made of another type, the
    others' elements are met themselves.
    """
    found: dict[str, None] = {}

    def typed(kind: Any, node: Any) -> None:
        if isinstance(kind, TYPED) and not str(kind.dtype).startswith(INTEGERS) and kind != VOID:
            found[f"{kind.dtype or 'any type'}: {_shown(node)}"] = None

    def number(value: float) -> None:
        found[f"the number {value}"] = None

    def expression(node: Any) -> None:
        typed(getattr(node, "ty", None), node)

    def call(node: tvm.ir.Call) -> None:
        expression(node)
        if node.op == EXTERNAL and node.args[0].value not in SCHEDULER:
            found[f"calls {node.args[0].value}, which is not in the module"] = None

    passed_over = (tirx.IntImm, tvm_ffi.Array), lambda node: None
    types = TYPED, lambda kind: typed(kind, kind)
    tvm_ffi.structural_walk(function, [passed_over, types, (float, number), (tvm.ir.Call, call), (object, expression)])
    return list(found)


def _shown(node: Any) -> str:
    """An expression as TVM prints it, the last line, cut; a type by its kind."""
    if isinstance(node, TYPED):
        return type(node).__name__
    text = str(node).strip().splitlines()[-1]
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
