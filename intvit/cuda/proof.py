"""The proof about the code that a module holds for GPUs: no floats, and integer matrix instructions in products."""

from collections.abc import Collection, Mapping

from intvit.errors import VerifyError
from intvit.verify.machine.disassembler import disassemble
from intvit.verify.no_float_cuda import prove_no_float_ptx, prove_no_float_sass

PTX = "PTX"
"""The name of an image that is no machine code."""
WITH_PRODUCTS = ("product", "attention", "biased_attention")
"""Kernels that must hold integer matrix instructions, by how their names begin."""


def prove_no_float_images(images: Mapping[str, bytes], kernels: Collection[str], *, code: bool = True) -> int:
    """The PTX of the kernels, and with `code` their machine code, are integer arithmetic.

    `images` are by the name of the architecture or `PTX`. Returns the number of instructions; raises `VerifyError`,
    and `IntvitError` where no disassembler is found that reads machine code.
    """
    products = [name for name in kernels if name.startswith(WITH_PRODUCTS)]
    if PTX not in images:
        raise VerifyError("the module holds no PTX: nothing is proved")
    count = prove_no_float_ptx(images[PTX].decode(), products)
    machine_code = [image for name, image in images.items() if name != PTX and code]
    return count + sum(prove_no_float_sass(disassemble(image), products) for image in machine_code)
