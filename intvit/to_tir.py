"""From a program to TVM's IR: a function for each kernel's tasks, and `run`, which each thread of a call goes through.

    run(image, constants, workspace, batch, first, last, share, output_0, ...)          pointers, a C function

Of every step a thread takes the next task that nobody has, from `share` eighths of them on, until there is none, and
goes on to the next phase when all tasks of this one are done: a thread that the system keeps waiting between tasks
holds up no phase, uneven tasks even out, and a row mostly stays with one core, in whose cache it is. Steps `first` to
`last - 1` are run. Memory and constants come from the caller, counts of tasks lie at the beginning of the workspace
(`embed/module.c`).
"""

from collections.abc import Callable, Sequence
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
COUNTS = memory.ALIGNMENT
"""Bytes of the counts of a step, a cache line (`struct counts` of module.c)."""
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
    shape = tuple(dict.fromkeys(d for p in kernel.params for d in p.ty.shape if isinstance(d, tirx.Var)))
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
        first, last, share = (T.arg(n, T.int32()) for n in ("first", "last", "share"))
        outputs = {v: T.arg(f"output_{i}", T.handle(v.dtype)) for i, v in enumerate(program.outputs)}
        bytes_of = {p: T.decl_buffer((MOST_BYTES,), "uint8", data=p) for p in (fixed, workspace)}
        task = T.alloc_buffer((2,), "int64")

        def counts(index: int) -> Expr:
            return T.address_of(bytes_of[workspace][COUNTS * index])

        def pointer(argument: Argument) -> Expr:
            if isinstance(argument, Image):
                return image
            if isinstance(argument, Value) and argument in outputs:
                return outputs[argument]
            if isinstance(argument, Value):
                return T.address_of(bytes_of[workspace][header_bytes(program) + batch * program.offsets[argument]])
            return T.address_of(bytes_of[fixed][constants.add(argument)])

        for phase in range(program.phases[-1] + 1):
            parts = []
            for index, step in enumerate(program.steps):
                if program.phases[index] == phase:
                    wanted = tirx.all(first <= index, index < last)
                    parts.append(_part(step, tasks(step), pointer, batch, wanted, counts(index)))
            _share(parts, share, task)
    return builder.get()


@dataclass(frozen=True)
class Part:
    """A step in a phase: where its tasks are counted, how many it has, and the call of one."""

    counts: Expr
    tasks: Expr
    call: Callable[[Expr], Expr]


def _part(
    step: Step,
    tasks: tuple[tvm.ir.GlobalVar, Tasks],
    pointer: Callable[[Argument], Expr],
    batch: Expr,
    wanted: Expr,
    counts: Expr,
) -> Part:
    variable, cut = tasks
    operands = (*step.arguments, step.result)
    sizes = shape_values(step.kernel.function, [shape_of(a, batch) for a in operands])
    rest = [*(sizes[d] for d in cut.shape), *(pointer(a) for a in operands)]
    count = tirx.Select(wanted, substituted(cut.count, sizes), tirx.const(0, "int64"))
    return Part(counts, count, lambda task: tvm.ir.Call(variable, [task, *rest], ret_ty=INT32))


def _share(parts: Sequence[Part], share: Expr, task: Expr) -> None:
    """This thread's part of a phase: it takes tasks as long as there are any, then waits for those of the others.

    `task` holds the task that was taken, and how many were done.
    """
    counts = parts[0].counts
    ends = [T.bind(part.tasks) for part in parts]
    T.buffer_store(task, tirx.const(0, "int64"), [1])
    for part, end in zip(parts, ends, strict=True):
        take = T.call_extern("int64", "intvit_take", part.counts, share, end)
        T.buffer_store(task, take, [0])
        with T.While(task[0] < end):
            with T.If(part.call(task[0]) != 0), T.Then():
                T.evaluate(T.call_extern("int32", "intvit_fail", counts))
            T.buffer_store(task, task[1] + 1, [1])
            T.buffer_store(task, take, [0])
    T.evaluate(T.call_extern("int32", "intvit_meet", counts, task[1], sum(ends[1:], ends[0])))


def header_bytes(program: Program) -> int:
    """Bytes at the beginning of the workspace in which threads keep count of the tasks of each step."""
    return COUNTS * len(program.steps)


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
