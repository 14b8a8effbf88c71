"""One way to make a TIR function: named parameters with shapes and types, and a body that is traced once.

The outputs are last, and the body is one parallel loop over tasks, which a module deals out to its threads. Functions
are built with TVM's `IRBuilder` and not with the TVMScript parser, so that Python is the only macro language: a Python
loop is an unrolled loop, a Python function an inlined one. Pointers do not alias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr, lanes_of, load, store


@dataclass(frozen=True)
class Tensor:
    """A parameter: the shape may hold symbolic variables of `symbol`."""

    name: str
    shape: tuple[Expr, ...]
    dtype: str


def symbol(name: str) -> Expr:
    """A dimension that is known when the function is called."""
    return tirx.Var(name, "int64")


def function(name: str, tensors: Sequence[Tensor], body: Callable[..., None]) -> tirx.PrimFunc:
    """The function `name` over `tensors`; `body` gets their buffers and writes statements with the builder."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        handles = [T.arg(tensor.name, T.handle()) for tensor in tensors]
        body(*[T.match_buffer(h, t.shape, t.dtype) for h, t in zip(handles, tensors, strict=True)])
    return builder.get()


def scratch(shape: Sequence[Expr], dtype: str, *, volatile: bool = False) -> Buffer:
    """Memory of one task: over 1024 bytes in the thread's workspace, else on the stack; `volatile`, never in registers.

    TVM's alias information is wrong where constant indices are read and written with different widths (it scales the
    offset by the width), so at least one of two such accesses has a loop variable in its index, in a loop that runs
    more than once.
    """
    return T.alloc_buffer(tuple(shape), dtype, annotations={"tirx.volatile": True} if volatile else None)


def registers(count: int, lanes: int, dtype: str = "int32") -> list[Buffer]:
    """`count` vectors, each a buffer of its own on the stack, which LLVM keeps in registers.

    Not in the scope "local", which TVM 0.27 allocates in the workspace.
    """
    return [T.alloc_buffer((lanes,), dtype) for _ in range(count)]


def kept(x: Expr) -> Expr:
    """`x` in a register: TVM's simplifier looks through `let`, once for each use, so that nested uses multiply."""
    lanes = lanes_of(x)
    register = registers(1, lanes, str(x.ty.dtype).partition("x")[0])[0]
    store(register, (0,), x)
    return load(register, (0,), lanes)
