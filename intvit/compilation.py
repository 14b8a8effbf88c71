"""From an integer model to a TVM module: legalize, build with Relax, link one shared library."""

import tempfile
from pathlib import Path

import tvm
from tvm import relax, transform

from intvit import targets
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel
from intvit.kernels.isa import detect
from intvit.linking import link, require_compiler, require_space
from intvit.runtime import CompiledModel
from intvit.seal import seal
from intvit.to_relax import to_relax
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_module import prove_no_float_module
from intvit.verify.overflow import prove_no_overflow

PIPELINE = transform.Sequential(
    [
        # calls of kernels become calls with memory that is planned ahead
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        # allocations and shapes become instructions of the virtual machine
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
)
"""TVM's default without legalization, fusion and reshape detection: there is nothing left for them to do."""


def compile_model(model: IntegerModel, target: str = "auto", threads: int | None = None) -> CompiledModel:
    """The module of a model for a CPU: `auto` (this machine) or a name of `intvit.targets.TARGETS`.

    Runs on the returned object's `threads` (by default all cores); `save` keeps it as `*.so`. Raises `IntvitError` for
    an unknown target or a missing C compiler, `VerifyError` where a proof fails.
    """
    resolved = targets.resolve(target)
    if not isinstance(model, IntegerModel):
        raise IntvitError(f"only an integer model can be compiled, not {type(model).__name__}: make one with quantize")
    prove_no_float(model.graph)
    prove_no_overflow(model.graph)
    require_compiler()
    require_space(sum(buffer.nbytes for buffer in model.graph.module.buffers()))
    name = targets.features(resolved)
    module = to_relax(model, detect(resolved), name)
    prove_no_float_module(module)
    executable = tvm.compile(module, target=resolved, relax_pipeline=PIPELINE)
    folder = tempfile.TemporaryDirectory(prefix="intvit-")
    try:
        path = Path(folder.name) / "model.so"
        link(executable, path)
        seal(path)
        return CompiledModel(path, threads, folder)
    except BaseException:
        folder.cleanup()
        raise
