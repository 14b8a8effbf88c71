"""Builds a module of TVM's IR for a CPU: the passes of TVM's pipeline that our kernels need.

They have no blocks, no thread bindings and no floats. What TVM would add for those, above all the compaction of
buffers, took two thirds of the time to compile DeiT-T (16 s), and would drop columns of a buffer that only AMX reads.
"""

from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.transform import Pass, Sequential
from tvm.target import Target

CPU = 1


def build(module: tvm.IRModule, target: Target) -> Any:
    """TVM's compiled module."""
    _register()
    return tvm.tirx.build(module, target, pipeline="intvit")


def build_kernel(kernel: tirx.PrimFunc, target: Target) -> Any:
    """A kernel alone, as a packed function of its tensors that shares its tasks among TVM's threads."""
    name = str(kernel.attrs["global_symbol"])
    return build(tvm.IRModule({name: kernel}), target)[name]


def build_object(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compiles a module to the object file `path`."""
    build(module, target).write_to_file(str(path), "o")


def _lower() -> Pass:
    return Sequential(
        [
            tirx.transform.StmtSimplify(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )


def _finalize() -> Pass:
    return Sequential([PLACE_SCRATCH, tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])


def _on_cpu(function: tirx.PrimFunc, module: tvm.IRModule, context: tvm.transform.PassContext) -> tirx.PrimFunc:
    body = function.body
    for key, value in (("device_type", CPU), ("device_id", 0)):
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.const(value, "int32"), body)
    return function.with_body(body)


PLACE_SCRATCH = tirx.transform.prim_func_pass(_on_cpu, opt_level=0)
"""Says on which device a function allocates scratch: TVM knows it of functions with packed arguments only."""


@cache
def _register() -> None:
    tirx.register_tir_pipeline("intvit", lambda: (_lower(), _finalize, lambda: Sequential([])))
