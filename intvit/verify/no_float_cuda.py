"""The proof that the kernels of a CUDA image compute nothing in floating point. Needs neither torch nor TVM.

PTX is what the compiler made of the source and is always there; machine code (SASS) is what a GPU runs, and needs
`nvdisasm` to be read. The driver makes machine code for newer GPUs from PTX, which only the first proof covers.
"""

from collections.abc import Callable, Collection, Iterable

from intvit.errors import VerifyError
from intvit.verify.machine import ptx, sass
from intvit.verify.machine.routine import Routine

SHOWN, WIDTH = 8, 100


def prove_no_float_ptx(text: str, matrix_kernels: Collection[str]) -> int:
    """No declaration and no instruction of a PTX module is of a float type, divides by a variable, or calls elsewhere.

    `matrix_kernels` name kernels that have matrix products: they must hold integer matrix instructions. Returns the
    number of instructions; raises `VerifyError` with the kernels and the first instructions at fault.
    """
    routines, declarations = ptx.read(text)
    functions = frozenset(routine.name for routine in routines)

    def fault(statement: str) -> str | None:
        return ptx.fault_of(statement, functions)

    module = Routine("(the module)", False, declarations)
    return _prove("PTX", (module, *routines), fault, ptx.is_matrix_product, matrix_kernels)


def prove_no_float_sass(text: str, matrix_kernels: Collection[str]) -> int:
    """No instruction in what `nvdisasm` printed of an image computes with floats, or uses local memory.

    `matrix_kernels` name kernels that have matrix products: they must hold integer matrix instructions. Returns the
    number of instructions; raises `VerifyError` with the kernels and the first instructions at fault.
    """
    return _prove("machine code", sass.read(text), sass.fault_of, sass.is_matrix_product, matrix_kernels)


def _prove(
    what: str,
    routines: Iterable[Routine],
    fault_of: Callable[[str], str | None],
    is_matrix_product: Callable[[str], bool],
    matrix_kernels: Collection[str],
) -> int:
    total = 0
    lines = []
    missing = dict.fromkeys(matrix_kernels, "there is no such kernel")
    for routine in routines:
        total += len(routine.instructions) if routine.is_kernel else 0
        faults = [f"{text[:WIDTH]} {why}" for text in routine.instructions if (why := fault_of(text)) is not None]
        if faults:
            others = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            lines.append(f"{routine.name}: {faults[0]}{others}")
        if routine.is_kernel and routine.name in missing:
            del missing[routine.name]
            if not any(map(is_matrix_product, routine.instructions)):
                lines.append(f"{routine.name}: has no integer matrix instruction")
    lines += [f"{name}: {reason}" for name, reason in missing.items()]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        shown = "\n  ".join(lines[:SHOWN] + more)
        raise VerifyError(
            f"the {what} of the CUDA kernels fails the proof in {len(lines)} kernels or functions:\n  {shown}"
        )
    if not total:
        raise VerifyError(f"the {what} holds no kernel: nothing is proved")
    return total
