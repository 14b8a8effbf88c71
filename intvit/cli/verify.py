"""`intvit verify`: what can be proved of an artifact; exit code 4 where a proof fails.

|                 | m.intvit                 | m.so         | m.onnx     | m.so or m.onnx --against m.intvit |
|-----------------|--------------------------|--------------|------------|-----------------------------------|
| `integer_only`  | graph                    | machine code | ONNX graph | both                              |
| `overflow_free` | graph, with its weights  | null         | null       | graph of the same digest          |
| `bit_exact`     | null without `--against` | null         | null       | all outputs of the two            |

A module for another processor is not run: its machine code is read, and that is all. An ONNX model of the profile qdq
is neither integer-only nor bit-exact, and says so. One with float32 outputs is bit-exact where these are the
reference's integers times their scale, to the last bit.

An ONNX model that was changed after it was exported fails too, whatever else holds. It is found here only: a file that
another tool rewrote can still be loaded and run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from intvit.cli.options import ARTIFACTS, Artifact, Json, check_data, check_input, open_described, open_model
from intvit.cli.output import Report, Stages, stages
from intvit.cuda.runtime import CudaModel
from intvit.data import Source
from intvit.errors import IntvitError, VerifyError
from intvit.model import Array, Model
from intvit.onnx_model import OnnxModel
from intvit.seal import check_seal
from intvit.verify.float_outputs import FloatOutputs, ScaledIntegers
from intvit.verify.machine.elf import foreign_processor


class Findings:
    """The outcome of each proof, and the reasons of those that failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, bool | None] = {"integer_only": None, "overflow_free": None, "bit_exact": None}
        self.reasons: list[str] = []

    def attempt(self, name: str, proof: Callable[..., Any], *arguments: Any) -> None:
        """Run a proof; one that failed before stays failed."""
        try:
            proof(*arguments)
        except VerifyError as error:
            self.fail(name, str(error))
        else:
            self.outcomes[name] = self.outcomes[name] is not False

    def fail(self, name: str, reason: str) -> None:
        """The proof `name` failed."""
        self.outcomes[name] = False
        self.reject(f"{name}: {reason}")

    def reject(self, reason: str) -> None:
        """Something is wrong with the artifact, whatever was proved of it."""
        self.reasons.append(reason.replace("\n", "\n  "))


def verify_command(
    ctx: typer.Context,
    model: Artifact,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="m.intvit", help="The model that m.so or m.onnx was made from."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Images to compare bits on, besides random and extreme ones.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many images of --data.")] = 100,
    as_json: Json = False,
) -> None:
    """Prove no float, no overflow, and equal bits."""
    report = Report(ctx)
    check_input(model, *ARTIFACTS)
    if against is not None:
        check_input(against, ".intvit")
    if data is not None:
        check_data(data)
        if against is None:
            raise IntvitError("--data is for comparing bits: say with which model by --against m.intvit")
    found, digest = Findings(), None
    with stages() as progress:
        progress("load")
        if model.suffix == ".so" and foreign_processor(model) is not None:
            verify_foreign(model, against, found)
        else:
            digest = verify_here(model, against, data, limit, found, progress)
    report.say()
    for name, outcome in found.outcomes.items():
        report.say(f"{name:<14} {'not checked' if outcome is None else 'yes' if outcome else 'NO'}")
    report.finish(digest=digest, **found.outcomes, reasons=found.reasons)
    if found.reasons:
        raise VerifyError(f"{len(found.reasons)} proofs failed:\n  " + "\n  ".join(found.reasons))


def verify_foreign(model: Path, against: Path | None, found: Findings) -> None:
    """What can be said of a module that this machine cannot run."""
    if against is not None:
        raise IntvitError(f"{model}: compiled for {foreign_processor(model)}: its bits can be compared there only")
    check_seal(model)
    verify_code(model, found)


def verify_here(
    model: Path, against: Path | None, data: Path | None, limit: int, found: Findings, progress: Stages
) -> str:
    """All proofs that the artifacts allow; returns the digest of `model`."""
    loaded = open_model(model) if against is not None else open_described(model)
    reference = loaded if against is None else open_model(against)
    progress("verify")
    same = reference.digest == loaded.digest
    if model.suffix == ".so":
        verify_images(loaded, found) if isinstance(loaded, CudaModel) else verify_code(model, found)
    if isinstance(loaded, OnnxModel):
        verify_operators(model, found)
    if model.suffix == ".intvit" or (against is not None and same):
        verify_graph(loaded if model.suffix == ".intvit" else reference, found)
    if model.suffix != ".intvit" and not same:
        digests = f"digests {loaded.digest[:16]} and {reference.digest[:16]}"
        made = "exported" if isinstance(loaded, OnnxModel) else "compiled"
        found.fail("bit_exact", f"{model} was not {made} from {against} ({digests})")
    elif against is not None and isinstance(loaded, OnnxModel) and not loaded.bit_exact:
        found.fail("bit_exact", f"{model} is of the profile {loaded.profile}, which gives other numbers by design")
    elif against is not None:
        progress("compare bits")
        pixels = None if data is None else pixels_of(data, limit, reference)
        if isinstance(loaded, OnnxModel) and loaded.output == "float32":
            verify_bits(FloatOutputs(loaded), ScaledIntegers(reference), pixels, found)
        else:
            verify_bits(loaded, reference, pixels, found)
    return loaded.digest


def verify_graph(model: Any, found: Findings) -> None:
    """The proofs about an integer graph."""
    from intvit.verify.no_float import prove_no_float
    from intvit.verify.overflow import prove_no_overflow

    found.attempt("integer_only", prove_no_float, model.graph)
    found.attempt("overflow_free", prove_no_overflow, model.graph)


def verify_code(path: Path, found: Findings) -> None:
    """The proof about machine code; needs no torch."""
    from intvit.verify.no_float_code import prove_no_float_instructions

    found.attempt("integer_only", prove_no_float_instructions, path)


def verify_operators(path: Path, found: Findings) -> None:
    """The proof about an ONNX graph, and whether it is as it was exported; needs the package `onnx`."""
    from intvit.to_onnx.seal import check_unchanged
    from intvit.verify.no_float_onnx import prove_no_float_onnx, read_model

    proto = read_model(path)
    try:
        check_unchanged(proto, path)
    except VerifyError as error:
        found.reject(str(error))
    found.attempt("integer_only", prove_no_float_onnx, proto)


def verify_images(model: CudaModel, found: Findings) -> None:
    """The proof about code for GPUs."""
    from intvit.cuda.proof import prove_no_float_images

    found.attempt("integer_only", prove_no_float_images, model.images, model.kernels)


def verify_bits(model: Model, reference: Model, pixels: Array | None, found: Findings) -> None:
    """All outputs of the two models are the same."""
    from intvit.verify.bit_exact import prove_bit_exact

    found.attempt("bit_exact", prove_bit_exact, model, reference, pixels)


def pixels_of(data: Path, limit: int, model: Model) -> Array:
    """The first images of a folder or file, as the model takes them."""
    metadata = model.metadata
    source = Source(data, metadata.preprocessing, shape=metadata.input_grid.shape)
    return np.concatenate([metadata.input_grid.pixels(batch.values) for batch in source.batches(16, limit)])
