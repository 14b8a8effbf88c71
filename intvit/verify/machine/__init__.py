"""Machine code of three processors, judged instruction by instruction: does it compute with floating point?

| file         | what                                                                                   |
|--------------|----------------------------------------------------------------------------------------|
| `elf.py`     | executable sections, functions and imports of a shared library or an object file        |
| `fault.py`   | an instruction that computes with floating point, or that cannot be read                |
| `x86.py`     | x86-64, disassembled by capstone, and what processors have learnt since capstone        |
| `aarch64.py` | AArch64, disassembled by capstone                                                      |
| `riscv.py`   | RISC-V, by its major opcodes                                                           |

Capstone, and not the toolchain's `objdump`: a computer that only runs modules has no toolchain, and a toolchain reads
code for its own processor only. Moves, loads, shuffles and logic that are named for floats carry integers as well.
"""
