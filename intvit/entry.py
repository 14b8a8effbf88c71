"""What TVM's users call: packed functions that check their tensors and hand them to the module's C functions.

main(image: uint8 [batch, H, W, C], output_0: int32 [batch * tokens, channels], ...)
steps(image, workspace: uint8 [bytes], first, last, output_0, ...)       steps `first` to `last - 1`, for profiles
"""

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from intvit.program import Program
from intvit.to_tir import header_bytes

Expr = Any
NOT_READY, NOT_ALIGNED = 2, 3
"""Of `intvit.h`."""


def entry_module(program: Program) -> tvm.IRModule:
    """`main` and `steps` for a program."""
    return tvm.IRModule({"main": _main(program), "steps": _steps(program)})


def _main(program: Program) -> tirx.PrimFunc:
    batch = tirx.Var("batch", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        image = T.arg("image", T.buffer((batch, *program.image.shape), "uint8"))
        outputs = _outputs(program, batch)
        workspace = T.alloc_buffer((header_bytes(program) + batch * program.workspace,), "uint8")
        _call(image, workspace, batch, tirx.const(0, "int32"), tirx.const(len(program.steps), "int32"), outputs)
    return builder.get()


def _steps(program: Program) -> tirx.PrimFunc:
    batch, size = tirx.Var("batch", "int64"), tirx.Var("size", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("steps")
        image = T.arg("image", T.buffer((batch, *program.image.shape), "uint8"))
        workspace = T.arg("workspace", T.buffer((size,), "uint8"))
        first, last = (T.arg(name, T.int32()) for name in ("first", "last"))
        outputs = _outputs(program, batch)
        _require(size >= header_bytes(program) + batch * program.workspace, "the workspace is too small")
        _call(image, workspace, batch, first, last, outputs)
    return builder.get()


def _outputs(program: Program, batch: Expr) -> list[Expr]:
    return [
        T.arg(f"output_{i}", T.buffer((batch * value.tokens, value.columns), value.dtype))
        for i, value in enumerate(program.outputs)
    ]


def _call(image: Expr, workspace: Expr, batch: Expr, first: Expr, last: Expr, outputs: Sequence[Expr]) -> None:
    pointers = [output.data for output in outputs]
    status = T.call_extern("int32", "intvit_run_steps", image.data, workspace.data, batch, first, last, *pointers)
    status = T.bind(status)
    _require(status != NOT_READY, "this machine lacks the module's instructions")
    _require(status != NOT_ALIGNED, "images, outputs and workspace must be aligned to 64 bytes")
    _require(status == 0, "no memory for the scratch of a kernel")


def _require(condition: Expr, message: str) -> None:
    """An error in the caller's language where a condition does not hold."""
    with T.Assert(condition, message):
        pass
