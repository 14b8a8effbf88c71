"""From an integer model to a module for NVIDIA GPUs: kernels, machine code and PTX, proofs, one file.

Nothing here needs a GPU or a driver. Machine code runs on GPUs of its architecture and of later minor versions; PTX,
which the module holds too, on all later ones, for which the driver compiles it when the module is first loaded.
"""

import platform
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from intvit.constants import ConstantPool
from intvit.cuda.legalize import DeviceCall, DeviceLegalizer
from intvit.cuda.outputs import with_own_outputs
from intvit.cuda.proof import PTX, prove_no_float_images
from intvit.cuda.source import cuda_source, named
from intvit.cuda.tables import Binary, image_file, model_header
from intvit.cuda.targets import resolve_gpu
from intvit.cuda.toolkit import compile_image
from intvit.description import described
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel
from intvit.kernels.cuda.arch import Arch
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.linking import link, require_compiler, require_space
from intvit.program import Program, assembled
from intvit.seal import seal
from intvit.verify.machine.disassembler import find_disassemblers
from intvit.verify.no_float import prove_no_float
from intvit.verify.overflow import prove_no_overflow

LOADER = "cuda.c"


def write_cuda_module(model: IntegerModel, path: Path, target: str) -> None:
    """Compiles a model to `path`, a `.so`, for `cuda` or `cuda:sm_90`.

    Raises `IntvitError` for an unknown target, a missing CUDA or C compiler, `UnsupportedOp` for operations that have
    no CUDA kernel, `VerifyError` where a proof fails.
    """
    if path.suffix != ".so":
        raise IntvitError(f"{path}: a module for GPUs is a shared library: write it to .so")
    if not isinstance(model, IntegerModel):
        raise IntvitError(f"only an integer model can be compiled, not {type(model).__name__}: make one with quantize")
    arch = resolve_gpu(target)
    prove_no_float(model.graph)
    prove_no_overflow(model.graph)
    compiler = require_compiler(f"{platform.machine()}-linux-gnu")
    require_space(path.parent, sum(buffer.nbytes for buffer in model.graph.module.buffers()))
    program = device_program(model, arch)
    kernels = named([kernel for step in program.steps for kernel in kernels_of(step.kernel)])
    binaries = compiled(cuda_source(kernels, arch), arch, kernels.values())
    constants = ConstantPool()
    with tempfile.TemporaryDirectory(prefix="intvit-", dir=path.parent) as name:
        folder = Path(name)
        (folder / "model.h").write_text(model_header(program, constants, kernels, binaries))
        (folder / "metadata.json").write_text(described(model, program, f"cuda:{arch.name}"))
        constants.write(folder / "constants.bin")
        for index, binary in enumerate(binaries):
            (folder / image_file(index)).write_bytes(binary.content)
        link(compiler, [], folder, path, LOADER)
    seal(path)


def device_program(model: IntegerModel, arch: Arch) -> Program:
    """The kernels of a model on one architecture."""
    model = replace(model, graph=with_own_outputs(model.graph))
    return assembled(model, lambda module, shapes: DeviceLegalizer(module, shapes, arch))


def kernels_of(call: object) -> tuple[DeviceKernel, ...]:
    """The kernels among which a step chooses."""
    assert isinstance(call, DeviceCall)
    return call.kernels


def compiled(source: str, arch: Arch, kernels: Collection[str]) -> list[Binary]:
    """Machine code and PTX of a source, proved to hold no floats; machine code where a disassembler is found."""
    image = compile_image(source, arch.name)
    content = {arch.name: image.cubin, PTX: image.ptx.encode()}
    prove_no_float_images(content, kernels, code=bool(find_disassemblers()))
    return [Binary(name, arch.number, name == PTX, code) for name, code in content.items()]
