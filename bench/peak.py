"""The most multiply-adds per second that an instruction gives on this machine: loops of it in registers, nothing else.

    python bench/peak.py --threads 1 2

Each thread runs independent chains, enough to cover the instruction's latency; operands stay in registers. A product
of 16-bit pairs needs a second instruction to add up (`vpaddd`), which is not in the loop: no product reaches this peak
where the two share ports. The result is that of the fastest of many short runs: a core that nothing disturbs.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import tvm
from tvm import tirx
from tvm.target import Target, codegen
from tvm.tirx.script import builder as T

from intvit.bench.machine import cores
from intvit.kernels.arith import Buffer, Expr, load, store
from intvit.kernels.function import Tensor, function, registers

TRIPLE = "x86_64-linux-gnu"
SHARE_ALL_CORES = -3
STEPS, RUNS = 20_000, 500
TILE = 16 * 64  # bytes of an AMX tile
LINE = 64


@dataclass(frozen=True)
class Instruction:
    """An instruction, the CPU it is compiled for, and the multiply-adds of one step of all chains."""

    name: str
    cpu: str
    features: tuple[str, ...]
    needs: str
    lanes: int
    chains: int
    group: int
    intrinsic: str
    target: str
    """Our target whose products it limits, empty for none."""

    @property
    def multiply_adds(self) -> int:
        """Of one step."""
        return self.chains * self.lanes * self.group


_DOT = "llvm.x86.avx512.vpdpbusd"
INSTRUCTIONS = (
    Instruction(
        "tdpbusd", "x86-64-v4", ("+amx-tile", "+amx-int8"), "amx-int8", 256, 6, 64, "llvm.x86.tdpbusd", "x86-64-v4-amx"
    ),
    Instruction(
        "vpdpbusd zmm", "x86-64-v4", ("+avx512vnni",), "avx512vnni", 16, 20, 4, f"{_DOT}.512", "x86-64-v4-vnni"
    ),
    Instruction("vpdpbusd ymm", "x86-64-v4", ("+avx512vnni",), "avx512vnni", 8, 20, 4, f"{_DOT}.256", ""),
    Instruction("vpmaddwd zmm", "x86-64-v4", (), "avx512bw", 16, 20, 2, "llvm.x86.avx512.pmaddw.d.512", "x86-64-v4"),
    Instruction("vpmaddwd ymm", "x86-64-v3", (), "avx2", 8, 12, 2, "llvm.x86.avx2.pmadd.wd", "x86-64-v3"),
)


def peaks(threads: int) -> dict[str, float]:
    """Multiply-adds per second of every instruction that this machine has."""
    native = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    if not codegen.llvm_get_system_triple().startswith("x86_64"):
        return {}
    return {
        instruction.name: peak(instruction, threads)
        for instruction in INSTRUCTIONS
        if codegen.target_has_features(instruction.needs, native)
        and (instruction.needs != "amx-int8" or _tiles_are_handed_out())
    }


def peak(instruction: Instruction, threads: int) -> float:
    """Multiply-adds per second on so many threads; raises `ValueError` for more than there are cores."""
    if threads > cores():
        raise ValueError(f"{threads} threads on {cores()} cores")
    kernel = build(instruction)["peak"]
    use_threads(threads)
    out, operands = (tvm.runtime.tensor(a) for a in (np.ones((threads, LINE), np.int32), _operands(instruction)))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        kernel(operands, out)
        times.append(time.perf_counter() - start)
    return threads * STEPS * instruction.multiply_adds / min(times)


def build(instruction: Instruction) -> tvm.runtime.Executable:
    """The compiled loop."""
    bodies = {"tdpbusd": _tiles, "vpdpbusd": _bytes, "vpmaddwd": _pairs}
    body = partial(_parallel, partial(bodies[instruction.name.partition(" ")[0]], instruction))
    tensors = [
        Tensor("operands", (LINE,), "uint8"),
        Tensor("out", (tirx.Var("tasks", "int64"), LINE), "int32"),
    ]
    features = list(instruction.features)
    target = Target({"kind": "llvm", "mtriple": TRIPLE, "mcpu": instruction.cpu, "mattr": features})
    return tvm.compile(function("peak", tensors, body), target=target)


def _parallel(body: Callable[[Buffer, Buffer, Expr], None], operands: Buffer, out: Buffer) -> None:
    with T.parallel(out.shape[0]) as task:
        body(operands, out, task)


def _bytes(instruction: Instruction, operands: Buffer, out: Buffer, task: Expr) -> None:
    """`acc = vpdpbusd(acc, a, w)`, each chain an accumulator."""
    kind, width = f"int32x{instruction.lanes}", instruction.lanes * 4
    sums = _started(instruction.chains, instruction.lanes, out, task)
    a = T.bind(load(operands, (0,), width))
    w = T.bind(tirx.reinterpret(f"int8x{width}", a))
    with T.serial(STEPS):
        for acc in sums:
            value = load(acc, (0,), instruction.lanes)
            store(acc, (0,), tirx.call_llvm_pure_intrin(kind, instruction.intrinsic, value, a, w))
    _keep(sums, instruction.lanes, out, task)


def _pairs(instruction: Instruction, operands: Buffer, out: Buffer, task: Expr) -> None:
    """`x = vpmaddwd(x, w)`: the chain goes through the product, so that no compiler can hoist it."""
    lanes = instruction.lanes
    kind, pairs = f"int32x{lanes}", f"int16x{2 * lanes}"
    chains = _started(instruction.chains, lanes, out, task)
    w = T.bind(tirx.reinterpret(pairs, load(operands, (0,), 4 * lanes)))
    with T.serial(STEPS):
        for x in chains:
            a = tirx.reinterpret(pairs, load(x, (0,), lanes))
            store(x, (0,), tirx.call_llvm_pure_intrin(kind, instruction.intrinsic, a, w))
    _keep(chains, lanes, out, task)


def _tiles(instruction: Instruction, operands: Buffer, out: Buffer, task: Expr) -> None:
    """`tdpbusd` into six tiles from two more; `operands` holds the configuration: eight tiles of 16 rows x 64 bytes."""

    def tile(name: str, *arguments: Expr) -> None:
        T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))

    tile("ldtilecfg", operands.access_ptr("r"))
    for number in range(8):
        tile("tilezero", tirx.const(number, "int8"))
    with T.serial(STEPS):
        for acc in range(instruction.chains):
            tile("tdpbusd", *(tirx.const(number, "int8") for number in (acc, 6, 7)))
    tile("tilerelease")
    T.buffer_store(out, tirx.const(1, "int32"), [task, 0])


def _started(count: int, lanes: int, out: Buffer, task: Expr) -> list[Buffer]:
    """Accumulators whose first values are read from memory: no compiler knows them."""
    sums = registers(count, lanes)
    for number, acc in enumerate(sums):
        store(acc, (0,), load(out, (task, 0), lanes) + number)
    return sums


def _keep(sums: list[Buffer], lanes: int, out: Buffer, task: Expr) -> None:
    """Stores the sum of all accumulators."""
    total = load(sums[0], (0,), lanes)
    for acc in sums[1:]:
        total = total + load(acc, (0,), lanes)
    store(out, (task, 0), total)


def _operands(instruction: Instruction) -> np.ndarray:
    """Small numbers, or the configuration of tiles: palette 1, 64 bytes and 16 rows each (Intel SDM, LDTILECFG)."""
    if instruction.needs != "amx-int8":
        return np.ones(LINE, np.uint8)
    line = np.zeros(LINE, np.uint8)
    line[0] = 1
    line[16:32].view(np.uint16)[:] = LINE
    line[48:56] = 16
    return line


def _tiles_are_handed_out() -> bool:
    """Asks Linux for AMX's tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`."""
    return int(ctypes.CDLL(None).syscall(158, 0x1023, 18)) == 0


def use_threads(count: int) -> None:
    """Sets the size of TVM's thread pool."""
    configure = tvm.get_global_func("runtime.config_threadpool")
    names = [str(core) for core in range(cores())]
    configure(SHARE_ALL_CORES, cores(), names)
    configure(SHARE_ALL_CORES, count, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    for threads in parser.parse_args().threads:
        for name, rate in peaks(threads).items():
            print(f"{threads} threads  {name:14} {rate / 1e9:8.1f} 10^9 multiply-adds/s")


if __name__ == "__main__":
    main()
