"""`intvit inspect`: what is in an artifact, layer by layer; with `--coverage`, what would become of a float model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from intvit.cli.coverage import show_coverage
from intvit.cli.options import ARTIFACTS, Json, Weights, check_input, open_described
from intvit.cli.output import Report, stages
from intvit.cli.settings import described
from intvit.errors import IntvitError, VerifyError
from intvit.metadata import Layer, Metadata
from intvit.onnx_model import OnnxModel


def inspect_command(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="m.so, m.intvit or m.onnx; with --coverage a name as for `quantize`."),
    ],
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="What would become of every operation of a float model; needs no images."),
    ] = False,
    weights: Weights = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="N|HxW|CxHxW", help="With --coverage: the input; by default the model's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in an artifact, layer by layer.

    result: the integer type of the layer's output. scale: what one step is worth; scales: how many (per tensor 1).
    weights: bits that hold all of the layer's. bits used: magnitude bits of 31 that its widest intermediate can reach.
    SNR: against float, on calibration images.
    """
    report = Report(ctx)
    if coverage:
        show_coverage(report, model, weights, size)
        return
    for option, given in (("--weights", weights), ("--size", size)):
        if given is not None:
            raise IntvitError(f"{option} is of --coverage, which takes a float model: leave it out")
    inspect_artifact(report, Path(model))


def inspect_artifact(report: Report, model: Path) -> None:
    """Prints what an artifact holds."""
    check_input(model, *ARTIFACTS)
    with stages() as progress:
        progress("load")
        loaded = open_described(model)
        bits, weights = (bits_used(loaded), weight_bits(loaded)) if model.suffix == ".intvit" else ({}, {})
    metadata = loaded.metadata
    facts = summary(metadata, loaded.digest, getattr(loaded, "target", None), model) | exported_facts(loaded)
    report.say()
    for name, value in facts.items():
        if value is not None:
            report.say(f"{name.replace('_', ' '):<14} {value}")
    if metadata.layers:
        report.say()
        show_layers(report, metadata.layers, bits, weights)
    report.finish(
        **{
            **facts,
            "preprocessing": None if metadata.preprocessing is None else metadata.preprocessing.to_dict(),
            "labels": metadata.labels,
            "layers": [
                {**asdict(layer), "bits": bits.get(layer.node), "weight_bits": weights.get(layer.node)}
                for layer in metadata.layers
            ],
        }
    )


def summary(metadata: Metadata, digest: str, target: str | None, path: Path) -> dict[str, Any]:
    """What holds for the whole model."""
    channels, height, width = metadata.input_grid.shape
    inputs = [f"float32 [batch, {channels}, {height}, {width}]"]
    if metadata.input_grid.takes_pixels:
        inputs.append(f"uint8 [batch, {height}, {width}, {channels}]")
    outputs = [
        f"[{', '.join(map(str, ('batch', *shape)))}] x {scale:.6g}"
        for shape, scale in zip(metadata.output_shapes, metadata.output_scales, strict=True)
    ]
    return {
        "name": metadata.name,
        "preset": metadata.preset,
        "bits": metadata.bits,
        "made_by": f"intvit {metadata.version}",
        "target": target,
        "input": " or ".join(inputs),
        "output": "; ".join(outputs),
        "preprocessing": described(metadata.preprocessing),
        "labels": None if metadata.labels is None else f"{len(metadata.labels)} names",
        "bytes": path.stat().st_size,
        "digest": digest,
    }


def exported_facts(model: Any) -> dict[str, Any]:
    """What is chosen when a model is exported; the graph's own input and outputs. Nothing of other artifacts."""
    if not isinstance(model, OnnxModel):
        return {}
    batch = "any number of" if model.batch is None else model.batch
    return {
        "profile": model.profile,
        "bit_exact": "yes" if model.bit_exact else "no",
        "graph": f"{model.image} image, {model.output} outputs, {batch} images per run",
    }


def bits_used(model: Any) -> dict[str, int]:
    """How many of an int32's 31 magnitude bits the widest intermediate of each node can take, by the overflow proof."""
    from intvit.verify.overflow import analyse

    try:
        return {entry.node: entry.largest.bit_length() for entry in analyse(model.graph)}
    except VerifyError:  # `intvit verify` says why
        return {}


def weight_bits(model: Any) -> dict[str, int]:
    """How many bits hold every weight of each linear layer."""
    from intvit.dialect import OPERATIONS

    module = model.graph.module
    found = {}
    for node in module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call):
        weight = module.get_buffer(str(node.args[1].target)).int()
        found[node.name] = int((weight ^ (weight >> 31)).max()).bit_length() + 1
    return found


def show_layers(report: Report, layers: tuple[Layer, ...], bits: dict[str, int], weights: dict[str, int]) -> None:
    """One row per layer; bits and weights are known where there is a graph."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "operation", "result"):
        table.add_column(heading, overflow="fold")
    for heading in ("scale", "scales", *(["weights"] if weights else []), *(["bits used"] if bits else []), "SNR dB"):
        table.add_column(heading, justify="right")
    for layer in layers:
        low, high = layer.scale
        scale = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        used = [str(known.get(layer.node, "")) for known in (weights, bits) if known]
        noise = "" if layer.snr is None else f"{layer.snr:.1f}"
        table.add_row(layer.path or "(model)", layer.operation, layer.dtype, scale, str(layer.channels), *used, noise)
    report.show(table)
