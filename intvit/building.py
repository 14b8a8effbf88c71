"""Builds a module of TVM's IR for a CPU with TVM's own pipeline, and one more step for functions that only we call."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import tvm
from tvm import tirx
from tvm.target import Target

CPU = 1


def build_object(module: tvm.IRModule, target: Target, path: Path) -> None:
    """Compiles a module to the object file `path`."""
    _register()
    tvm.tirx.build(module, target, pipeline="intvit").write_to_file(str(path), "o")


def _on_cpu(function: tirx.PrimFunc, module: tvm.IRModule, context: tvm.transform.PassContext) -> tirx.PrimFunc:
    body = function.body
    for key, value in (("device_type", CPU), ("device_id", 0)):
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.const(value, "int32"), body)
    return function.with_body(body)


PLACE_SCRATCH = tirx.transform.prim_func_pass(_on_cpu, opt_level=0)
"""Says on which device a function allocates scratch: TVM knows it of functions with packed arguments only."""


@cache
def _register() -> None:
    def pipeline() -> tuple[tvm.transform.Pass, Callable[[], tvm.transform.Pass], Callable[[], tvm.transform.Pass]]:
        lower, finalize, finalize_device = tirx.get_tir_pipeline("default")
        return lower, lambda: tvm.transform.Sequential([PLACE_SCRATCH, finalize()]), finalize_device

    tirx.register_tir_pipeline("intvit", pipeline)
