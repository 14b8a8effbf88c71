"""AMX: its instructions on tiles of 16 rows of 64 bytes."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels.arith import LINE, Buffer, Expr, load, store
from intvit.kernels.function import scratch
from intvit.kernels.isa import TILE_DEPTH, TILE_ROWS
from intvit.kernels.pack import round_up
from intvit.kernels.tile import runs


def configure() -> None:
    """All eight tiles of this thread have 16 rows of 64 bytes (the SDM's `LDTILECFG`, palette 1)."""
    config = scratch((LINE,), "uint8")
    values = {0: 1, **{16 + 2 * t: TILE_DEPTH for t in range(8)}, **{48 + t: TILE_ROWS for t in range(8)}}
    for byte in range(LINE):
        store(config, (byte,), tirx.const(values.get(byte, 0), "uint8"))
    instruction("ldtilecfg", T.address_of(config[0]))


def instruction(name: str, *operands: Expr) -> None:
    """An AMX instruction; a Python int is the number of a tile."""
    values = [tirx.IntImm("int8", x) if isinstance(x, int) else x for x in operands]
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *values))


def load_tile(tile: int, buffer: Buffer, index: tuple[Expr, ...], stride: int) -> None:
    """16 rows of 64 bytes, `stride` bytes apart."""
    instruction("tileloadd64", tile, T.address_of(buffer[index]), tirx.IntImm("int64", stride))


def store_tile(tile: int, buffer: Buffer, index: tuple[Expr, ...], stride: int) -> None:
    """16 rows of 64 bytes, `stride` bytes apart."""
    instruction("tilestored64", tile, T.address_of(buffer[index]), tirx.IntImm("int64", stride))


def release() -> None:
    """This thread is done with its tiles, which the system need not keep for it."""
    instruction("tilerelease")


def copy_row(x: Buffer, row: Expr, column: Expr, left: Buffer, start: Expr, k: int) -> None:
    """`k` int8 of a row from `column` on, and zeros up to a whole tile, from `start` on."""
    whole = k // LINE * LINE
    if whole:
        with T.serial(whole // LINE) as i:
            store(left, (start + i * LINE,), load(x, (row, column + i * LINE), LINE))
    for offset, lanes in runs(k - whole, LINE):
        store(left, (start + (whole + offset),), load(x, (row, column + (whole + offset)), lanes))
    for offset, lanes in runs(round_up(k, TILE_DEPTH) - k, LINE):
        zeros = tirx.const(0, "int8" if lanes == 1 else f"int8x{lanes}")
        store(left, (start + (k + offset),), zeros)
