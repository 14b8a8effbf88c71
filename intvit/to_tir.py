"""From a program to TVM's IR: a function for each kernel's tasks, and `run`, which schedules the tasks of all steps.

    run(image, constants, workspace, batch, first, last, output_0, ...) -> int32        pointers, a C function

`run` is one parallel region for the whole model: every thread takes its share of the tasks of a step, and threads meet
at a barrier after each phase. The workspace begins with an int32: 1 where a task
found no memory for its scratch, else 0. Steps `first` to `last - 1` are run. Memory and constants come from the caller.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from intvit import memory
from intvit.constants import ConstantPool
from intvit.program import Argument, Image, Program, Step, Value

Expr = Any
C_FUNCTION = 1
"""TVM's calling convention of functions that are called as they are, without its packed arguments."""
INT32 = tvm.ir.PrimType("int32")
STATUS = memory.ALIGNMENT
"""Bytes at the beginning of the workspace, for the int32 that tells of a failure."""
MOST_BYTES = 1 << 40


@dataclass(frozen=True)
class Tasks:
    """A kernel as a function of one task: `function(task, *shape, *pointers)`, and how many tasks there are."""

    function: tirx.PrimFunc
    count: Expr
    shape: tuple[tirx.Var, ...]


def tasks_of(kernel: tirx.PrimFunc) -> Tasks:
    """Cuts a kernel, which is one parallel loop, into its body and the loop's extent."""
    loop = kernel.body
    assert isinstance(loop, tirx.For) and loop.kind == tirx.ForKind.PARALLEL, "a kernel is one parallel loop"
    shape = tuple({id(d): d for p in kernel.params for d in p.ty.shape if isinstance(d, tirx.Var)}.values())
    pointers = [_pointer(f"p{i}", str(p.ty.dtype)) for i, p in enumerate(kernel.params)]
    buffers = [tirx.DeclBuffer(p, data=q) for p, q in zip(kernel.params, pointers, strict=True)]
    body = tirx.SeqStmt([*buffers, loop.body])
    attributes = tvm.ir.make_node("ir.DictAttrs", **{"tirx.noalias": True, "s_tir": True})
    return Tasks(
        tirx.PrimFunc([loop.loop_var, *shape, *pointers], body, ret_type=INT32, attrs=attributes), loop.extent, shape
    )


def to_tir(program: Program, constants: ConstantPool, name: str) -> tvm.IRModule:
    """The module of a program; its constants go into `constants`. `name` is that of its `run`."""
    module = tvm.IRModule({})
    known: dict[tirx.PrimFunc, tuple[tvm.ir.GlobalVar, Tasks]] = {}

    def tasks(step: Step) -> tuple[tvm.ir.GlobalVar, Tasks]:
        kernel = step.kernel.function
        if kernel not in known:
            variable, cut = tvm.ir.GlobalVar(f"{step.name}_{len(known)}"), tasks_of(kernel)
            module[variable] = cut.function
            known[kernel] = variable, cut
        return known[kernel]

    module[name] = _run(program, constants, tasks, name)
    return module


def _run(
    program: Program, constants: ConstantPool, tasks: Callable[[Step], tuple[tvm.ir.GlobalVar, Tasks]], name: str
) -> tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"calling_conv": C_FUNCTION})
        T.func_ret(INT32)
        image, fixed, workspace = (T.arg(n, T.handle("uint8")) for n in ("image", "constants", "workspace"))
        batch = T.arg("batch", T.int64())
        first, last = (T.arg(n, T.int32()) for n in ("first", "last"))
        outputs = {v: T.arg(f"output_{i}", T.handle(v.dtype)) for i, v in enumerate(program.outputs)}
        status = T.decl_buffer((1,), "int32", data=workspace)
        bytes_of = {p: T.decl_buffer((MOST_BYTES,), "uint8", data=p) for p in (fixed, workspace)}

        def pointer(argument: Argument) -> Expr:
            if isinstance(argument, Image):
                return image
            if isinstance(argument, Value) and argument in outputs:
                return outputs[argument]
            if isinstance(argument, Value):
                return T.address_of(bytes_of[workspace][STATUS + batch * program.offsets[argument]])
            return T.address_of(bytes_of[fixed][constants.add(argument)])

        T.buffer_store(status, 0, [0])
        with T.attr(T.int32(0), "pragma_parallel_launch_point", 1):
            for index, step in enumerate(program.steps):
                ends_phase = index + 1 == len(program.steps) or program.phases[index] != program.phases[index + 1]
                runs = T.If(tirx.all(first <= index, index < last))
                with barrier() if ends_phase else nullcontext(), runs, T.Then():
                    _schedule(step, tasks(step), pointer, batch, status)
    return builder.get()


def barrier() -> Any:
    """The threads of a parallel region wait for one another at the end of this scope."""
    return T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", 1)


def _schedule(
    step: Step, tasks: tuple[tvm.ir.GlobalVar, Tasks], pointer: Callable[[Argument], Expr], batch: Expr, status: Expr
) -> None:
    """The tasks of a step, dealt out to the threads one by one."""
    variable, cut = tasks
    operands = (*step.arguments, step.result)
    sizes = shape_values(step.kernel.function, [shape_of(a, batch) for a in operands])
    count = substituted(cut.count, sizes)
    pointers = [pointer(a) for a in operands]
    with T.attr(T.int32(0), "pragma_parallel_stride_pattern", 1), T.parallel(count) as task:
        arguments = [task, *(sizes[d] for d in cut.shape), *pointers]
        with T.If(tvm.ir.Call(variable, arguments, ret_ty=INT32) != 0), T.Then():
            T.buffer_store(status, 1, [0])


def shape_of(argument: Argument, batch: Expr) -> tuple[Expr, ...]:
    """The shape of an operand for a batch."""
    if isinstance(argument, Image):
        return (batch, *argument.shape)
    if isinstance(argument, Value):
        return (batch * argument.tokens, argument.columns)
    return np.shape(argument)


def shape_values(kernel: tirx.PrimFunc, shapes: Sequence[tuple[Expr, ...]]) -> dict[tirx.Var, Expr]:
    """What the symbolic dimensions of a kernel's operands are."""
    found: dict[tirx.Var, Expr] = {}
    for parameter, shape in zip(kernel.params, shapes, strict=True):
        assert len(parameter.ty.shape) == len(shape), f"{parameter.ty.shape} against {shape}"
        for dimension, size in zip(parameter.ty.shape, shape, strict=True):
            if isinstance(dimension, tirx.Var):
                found.setdefault(dimension, size)
            else:
                assert int(dimension) == int(size), f"{parameter.ty.shape} against {shape}"
    return found


def substituted(expression: Expr, known: dict[tirx.Var, Expr]) -> Expr:
    """An expression of binary operators with its variables replaced."""
    if isinstance(expression, tirx.Var):
        return known[expression]
    if isinstance(expression, tirx.IntImm):
        return expression
    return type(expression)(substituted(expression.a, known), substituted(expression.b, known))


def _pointer(name: str, dtype: str) -> tirx.Var:
    return tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))
