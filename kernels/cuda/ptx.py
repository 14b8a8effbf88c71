"""The PTX instructions of the kernels (PTX ISA 9: 9.7.16.5 for `mma` and `ldmatrix`, 9.7.10.25 for `cp.async`).

Fragments are registers of 32 bits, four int8 each; `fragments.py` says which. Accumulators are uint32 because TVM's
table of instructions has them so.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import Buffer, Expr
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.launch import clear, move

ALL_LANES = 0xFFFFFFFF
SIGNED, UNSIGNED = "s8", "u8"


def multiply_add(d: Sequence[Expr], a: Sequence[Expr], b: Sequence[Expr], arch: Arch, left: str = SIGNED) -> None:
    """`d += a b`: 16 x 32 times 32 x 8 int8 (`a` of type `left`), sums int32 modulo 2^32; 4, 4 and 2 registers."""
    if arch.tall:
        instruction = T.ptx[f"mma.sync.aligned.m16n8k32.row.col.s32.{left}.s8.s32"]
        T.evaluate(instruction(*d, *a, *b, *d))
        return
    instruction = T.ptx[f"mma.sync.aligned.m8n8k16.row.col.s32.{left}.s8.s32"]
    for depth in range(2):
        for half in range(2):
            sums = d[2 * half : 2 * half + 2]
            T.evaluate(instruction(*sums, a[2 * depth + half], b[depth], *sums))


def load_fragments(registers: Sequence[Expr], shared: Buffer, at: Expr, *, transposed: bool = False) -> None:
    """Four 8 x 8 matrices of 16-bit elements; `at` of lane `8 i + r` is where row `r` of matrix `i` lies, 16 bytes."""
    trans = ".trans" if transposed else ""
    instruction = T.ptx[f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16"]
    T.evaluate(instruction(*registers, T.address_of(shared[at])))


def copy(shared: Buffer, to: Expr, source: Buffer, start: Expr, size: int, valid: Expr, arch: Arch) -> None:
    """`size` bytes (1 to 16, a power of two, both ends aligned to it) from the device's memory, zeros if not `valid`.

    They are there after `wait`, for other threads after a barrier too; at once where the GPU has no such copies.
    """
    if arch.asynchronous and size >= 4:
        keep = "cg" if size == 16 else "ca"
        count = tirx.Select(valid, tirx.const(size, "uint32"), tirx.const(0, "uint32"))
        instruction = T.ptx[f"cp.async.{keep}.shared.global"]
        T.evaluate(instruction(T.address_of(shared[to]), T.address_of(source[start]), size, count))
        return
    with T.If(valid):
        with T.Then():
            move(shared, to, source, start, size)
        with T.Else():
            clear(shared, to, size)


def commit(arch: Arch) -> None:
    """Ends a group of copies."""
    if arch.asynchronous:
        T.evaluate(T.ptx["cp.async.commit_group"]())


def wait(groups: int, arch: Arch) -> None:
    """Until all of this thread's groups of copies but the last `groups` are done."""
    if arch.asynchronous:
        T.evaluate(T.ptx["cp.async.wait_group"](groups))


def barrier() -> None:
    """Until all threads of the block are here."""
    T.evaluate(T.cuda.cta_sync())


def exchanged(value: Expr, distance: int) -> Expr:
    """The value of the lane whose number differs in the bits of `distance`."""
    lanes = tirx.const(ALL_LANES, "uint32")
    return tirx.call_extern(value.ty.dtype, "__shfl_xor_sync", lanes, value, distance)


def permuted(a: Expr, b: Expr, selector: int) -> Expr:
    """Four bytes of the eight of `b:a`, a hexadecimal digit for each (`prmt`)."""
    return tirx.call_pure_extern("uint32", "__byte_perm", a, b, selector)
