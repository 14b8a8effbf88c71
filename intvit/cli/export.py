"""`intvit export`: m.intvit to m.onnx."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intvit.cli.options import Json, check_input, check_output
from intvit.cli.output import Report, stages
from intvit.errors import IntvitError

if TYPE_CHECKING:
    from intvit.integer_model import IntegerModel


def export_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.intvit, made by `intvit quantize`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model to write: m.onnx.")],
    profile: Annotated[
        str,
        typer.Option(
            "--profile", help="integer (integer operators, the same bits) or qdq (Q/DQ nodes, not bit-exact)."
        ),
    ] = "integer",
    keep_functions: Annotated[
        bool, typer.Option("--keep-functions", help="Leave every integer operation a local function, to read.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Version of the standard operators; a wrong one lists all.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images per run, fixed.")] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Any number of images per run: the default.")
    ] = False,
    input_type: Annotated[
        str, typer.Option("--input-type", help="uint8 [batch, H, W, C] or float32 [batch, C, H, W], normalized.")
    ] = "uint8",
    output_type: Annotated[
        str | None,
        typer.Option(
            "--output-type",
            help="int32: integers (int32 for logits); float32: these times their scale, as qdq gives.",
        ),
    ] = None,
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Exact on x86 CPUs without VNNI (before 2019 to 2022) too; slower elsewhere."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Export an integer model to ONNX.

    Everything between input and output of the profile integer is integer arithmetic, proved before it is written.
    """
    report = Report(ctx)
    check_output(output, ".onnx")
    if batch is not None and dynamic_batch:
        raise IntvitError("--batch fixes the batch and --dynamic-batch leaves it free: give one of them")
    check_input(model, ".intvit")
    with stages() as progress:
        progress("load")
        from intvit.to_onnx.file import OPSET, check_choices, export_onnx

        opset = OPSET if opset is None else opset
        chosen: dict[str, Any] = {
            "profile": profile,
            "keep_functions": keep_functions,
            "opset": opset,
            "batch": batch,
            "image": input_type,
            "output": output_type,
            "portable": portable,
        }
        check_choices(**chosen)
        from intvit.integer_model import IntegerModel

        loaded = IntegerModel.load(model)
        progress("export")
        exported = export_onnx(loaded, **chosen)
        progress("check and write")
        files = exported.save(output)
    size, weights = sum(file.stat().st_size for file in files), int8_bytes(loaded)
    exact = "bit-exact" if exported.bit_exact else "not bit-exact"
    report.say(
        f"profile {profile}, {exact}: {exported.operators} operators, opset {opset}, digest {loaded.digest[:16]}"
    )
    report.say(f"{size / 1e6:.1f} MB, {size / weights:.3f} x its int8 weights")
    for file in files[1:]:
        report.say(f"over 2 GB: the weights are in {file.name}, which must stay beside it")
    report.finish_file(
        output,
        profile=profile,
        bit_exact=exported.bit_exact,
        digest=loaded.digest,
        opset=opset,
        operators=exported.operators,
        bytes=size,
        weight_bytes=weights,
        files=[str(file) for file in files],
    )


def int8_bytes(model: "IntegerModel") -> int:
    """Bytes of the model's weights."""
    return sum(buffer.nbytes for buffer in model.graph.module.buffers() if str(buffer.dtype) == "torch.int8")
