"""From an integer model to a compiled module: kernels for each variant, one copy of the constants, one file."""

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

from intvit import targets
from intvit.building import build_object
from intvit.constants import ConstantPool
from intvit.cuda.compilation import write_cuda_module
from intvit.cuda.runtime import CudaModel
from intvit.cuda.targets import PREFIX, is_cuda, resolve_gpu
from intvit.description import described
from intvit.entry import entry_module
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel
from intvit.linking import KINDS, link, require_compiler, require_space
from intvit.program import Program
from intvit.runtime import CompiledModel
from intvit.seal import seal
from intvit.targets import Cpu
from intvit.to_tir import header_bytes, to_tir
from intvit.tuning import Tuned, Tuning
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_module import prove_no_float_module
from intvit.verify.overflow import prove_no_overflow


def compile_model(
    model: IntegerModel,
    target: str = "auto",
    threads: int | None = None,
    tune: float = 0,
    cache: Path | None = None,
) -> CompiledModel | CudaModel:
    """The module of a model, run here: `auto` (this machine's CPU), a name of `intvit.targets.TARGETS`, or `cuda`.

    For a CPU it runs on the returned object's `threads` (by default all cores); `save` keeps it as `*.so`. With `tune`,
    so many seconds are spent on finding the fastest block sizes; `cache` is the file that keeps them
    (`intvit.tuning`). Raises `IntvitError` for an unknown target, one that this machine does not run or a missing
    compiler, `VerifyError` where a proof fails.
    """
    on_gpu = is_cuda(target)
    if on_gpu and threads is not None:
        raise IntvitError("threads are for modules that run on a CPU: leave them out")
    if not on_gpu:
        targets.require_here(targets.resolve(target))
    folder = tempfile.TemporaryDirectory(prefix="intvit-")
    try:
        path = Path(folder.name) / "model.so"
        write_module(model, path, target, tune, cache)
        if on_gpu:  # one that was named need not be here: the model goes onto a device when it first runs
            return CudaModel(path, None if ":" in target else 0, folder)
        return CompiledModel(path, threads, folder)
    except BaseException:
        folder.cleanup()
        raise


def target_name(target: str) -> str:
    """The name of what `auto`, `cuda` or a name stands for; `IntvitError` for an unknown one."""
    return f"{PREFIX}:{resolve_gpu(target).name}" if is_cuda(target) else targets.resolve(target).name


def write_module(
    model: IntegerModel, path: Path, target: str = "auto", tune: float = 0, cache: Path | None = None
) -> Tuned:
    """Compiles a model to `path`, whose suffix decides: `.so`, a shared library, or `.o`, for static linking.

    The target may be another machine's, or a GPU that is not here (`cuda:sm_90`), whose modules are `.so`. Says what
    tuning did. Errors as `compile_model`.
    """
    if is_cuda(target):
        if tune or cache is not None:
            raise IntvitError("kernels for GPUs are not tuned: leave --tune and --tune-cache out")
        write_cuda_module(model, path, target)
        return Tuned()
    if path.suffix not in KINDS:
        raise IntvitError(f"{path}: a module is written to {' or '.join(KINDS)}, which the suffix decides")
    cpu = targets.resolve(target)
    if not isinstance(model, IntegerModel):
        raise IntvitError(f"only an integer model can be compiled, not {type(model).__name__}: make one with quantize")
    tuning = Tuning(cpu.name, targets.variants_of(cpu), tune, cache)
    prove_no_float(model.graph)
    prove_no_overflow(model.graph)
    compiler = require_compiler(cpu.triple)
    require_space(path.parent, sum(buffer.nbytes for buffer in model.graph.module.buffers()))
    with tempfile.TemporaryDirectory(prefix="intvit-", dir=path.parent) as name:
        folder = Path(name)
        variants = targets.variants_of(cpu)
        objects, program = _build(model, variants, folder, tuning)
        if path.suffix == ".so":
            objects.append(folder / "entry.o")
            build_object(entry_module(program), targets.baseline(cpu).target, objects[-1])
        (folder / "metadata.json").write_text(described(model, program, cpu.name))
        (folder / "model.h").write_text(header(program, variants))
        link(compiler, objects, folder, path)
    if path.suffix == ".so":
        seal(path)
    return tuning.result


def _build(model: IntegerModel, variants: Sequence[Cpu], folder: Path, tuning: Tuning) -> tuple[list[Path], Program]:
    """An object for each variant, and the constants of all."""
    constants = ConstantPool()
    objects = []
    for cpu in variants:
        program = tuning.program(model, cpu)
        module = to_tir(program, constants, f"intvit_run_{cpu.symbol}")
        prove_no_float_module(module)
        objects.append(folder / f"{cpu.symbol}.o")
        build_object(module, cpu.target, objects[-1])
    constants.write(folder / "constants.bin")
    return objects, program


def header(program: Program, variants: Sequence[Cpu]) -> str:
    """What `module.c` has to know of a model."""
    names = [f"output_{i}" for i in range(len(program.outputs))]
    definitions = {
        "INTVIT_VARIANTS(V)": " ".join(f'V({cpu.symbol}, "{cpu.name}")' for cpu in variants),
        "INTVIT_OUTPUT_PARAMETERS": ", ".join(f"void *{name}" for name in names),
        "INTVIT_OUTPUT_NAMES": ", ".join(names),
        "INTVIT_OUTPUT_ELEMENTS": ", ".join(f"outputs[{i}]" for i in range(len(names))),
        "INTVIT_IMAGE_BYTES": str(prod(program.image.shape)),
        "INTVIT_OUTPUT_BYTES": ", ".join(str(value.bytes) for value in program.outputs),
        "INTVIT_WORKSPACE": f"INT64_C({program.workspace})",
        "INTVIT_HEADER": str(header_bytes(program)),
        "INTVIT_STEPS": str(len(program.steps)),
        "INTVIT_OUTPUTS": str(len(names)),
    }
    return "".join(f"#define {name} {value}\n" for name, value in definitions.items())
