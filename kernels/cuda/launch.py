"""One way to make a kernel for a GPU: pointers in, a body that is traced once, a grid that grows with the rows.

A kernel works on `rows` rows, the batch times the rows of an image, its last parameter. It has `ceil(rows / per) *
times` blocks of `threads` threads. Memory of the device is flat; indices are 32-bit, so that no tensor may have more
than 2^31 elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arith import quotient

MOST_ELEMENTS = 1 << 31
WARP = 32
ROLLED = {"disable_unroll": True}
"""Of loops that the compiler must leave as they are: unrolled, their registers would spill."""
DEVICE_KERNEL = 2
"""TVM's calling convention of functions that run on a device."""


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A kernel with its launch: `blocks(rows) = ceil(rows / per) * times`; `shared` bytes besides what it declares.

    A multiprocessor is to have registers for at least `resident` blocks: told nothing, ptxas keeps registers in memory
    to make room for more.
    """

    function: tirx.PrimFunc
    threads: int
    per: int
    times: int
    shared: int
    resident: int

    @property
    def name(self) -> str:
        return str(self.function.attrs["global_symbol"])


@dataclass(frozen=True)
class Block:
    """Where a thread is: its block, itself in the block, how many rows there are, the block's dynamic memory."""

    index: Expr
    thread: Expr
    rows: Expr
    shared: Buffer

    @property
    def lane(self) -> Expr:
        return self.thread & (WARP - 1)

    @property
    def warp(self) -> Expr:
        return self.thread >> 5


def device_kernel(
    name: str,
    pointers: Sequence[tuple[str, str]],
    body: Callable[..., None],
    *,
    threads: int,
    per: int = 1,
    times: int = 1,
    shared: int = 0,
    resident: int = 2,
) -> DeviceKernel:
    """The kernel `name` over `pointers` (name and type); `body(block, *buffers)` writes statements with the builder."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "calling_conv": DEVICE_KERNEL})
        handles = [T.arg(n, T.handle(dtype)) for n, dtype in pointers]
        rows = T.arg("rows", T.int32())
        buffers = [flat(handle, dtype) for handle, (_, dtype) in zip(handles, pointers, strict=True)]
        blocks = quotient(rows + (per - 1), per) * times
        with (
            T.launch_thread("blockIdx.x", blocks) as index,
            T.launch_thread("threadIdx.x", threads) as thread,
        ):
            memory = T.alloc_buffer((max(shared, 16),), "uint8", scope="shared.dyn")
            body(Block(index, thread, rows, memory), *buffers)
    return DeviceKernel(builder.get(), threads, per, times, max(shared, 16), resident)


def flat(pointer: Expr, dtype: str, scope: str = "global") -> Buffer:
    """Memory behind a pointer as a flat buffer."""
    return T.decl_buffer((MOST_ELEMENTS - 1,), dtype, data=pointer, scope=scope)


def view(shared: Buffer, dtype: str) -> Buffer:
    """The block's dynamic memory as another type."""
    return flat(shared.data, dtype, "shared.dyn")


def local(count: int, dtype: str) -> Buffer:
    """Registers of a thread: all indices must be known when loops are unrolled."""
    return T.alloc_buffer((count,), dtype, scope="local")


def move(target: Buffer, to: Expr, source: Buffer, start: Expr, count: int) -> None:
    """`count` neighbouring elements of one type from buffer to buffer, in pieces of up to 16 bytes, aligned to them."""
    itemsize = np.dtype(str(source.ty.dtype)).itemsize
    piece = min(count * itemsize, 16)
    step = piece // itemsize
    for i in range(0, count, step):
        _call("move", piece, T.address_of(target[to + i]), T.address_of(source[start + i]))


def clear(target: Buffer, to: Expr, size: int) -> None:
    """`size` bytes (1 to 16, a power of two) to zero."""
    _call("clear", size, T.address_of(target[to]))


_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "uint2", 16: "uint4"}


def _call(name: str, size: int, *pointers: Expr) -> None:
    """A function of CUDA C++ on whole words: TVM's own vectors of small elements are built up byte by byte."""
    word, function = _WORDS[size], f"intvit_{name}{size}"
    if name == "move":
        code = f"void {function}(void* to, const void* from) {{ *({word}*)to = *(const {word}*)from; }}"
    else:
        code = f"void {function}(void* to) {{ *({word}*)to = {{}}; }}"
    T.evaluate(T.cuda.func_call(function, *pointers, source_code=f"\n__forceinline__ __device__ {code}\n"))
