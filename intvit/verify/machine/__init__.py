"""Machine code of three processors and of NVIDIA's GPUs, judged by instructions: does it compute with floating point?

| file              | what                                                                                   |
|-------------------|----------------------------------------------------------------------------------------|
| `elf.py`          | executable sections, functions and imports of a shared library or an object file       |
| `fault.py`        | an instruction that computes with floating point, or that cannot be read               |
| `x86.py`          | x86-64, disassembled by capstone, and what processors have learnt since capstone       |
| `aarch64.py`      | AArch64, disassembled by capstone                                                      |
| `riscv.py`        | RISC-V, by its major opcodes                                                           |
| `routine.py`      | the code of one function of a GPU, as text                                             |
| `ptx.py`          | PTX, the assembly language of NVIDIA's GPUs, by the types that it names                |
| `sass.py`         | machine code of NVIDIA's GPUs, by the names of its instructions                        |
| `disassembler.py` | finds and runs `nvdisasm`, which shows that machine code                               |

Capstone, and not the toolchain's `objdump`: a computer that only runs modules has no toolchain, and a toolchain reads
code for its own processor only. Moves, loads, shuffles and logic that are named for floats carry integers as well.
"""
