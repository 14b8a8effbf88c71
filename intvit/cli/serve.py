"""`intvit serve`: the exported model on a page, in the browser, its logits compared with those computed here."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from intvit.cli.options import Threads, check_input, open_model
from intvit.cli.output import Report, stages
from intvit.model import Model
from intvit.onnx_model import OnnxModel
from intvit.web import runtime_folder


def serve_command(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="m.onnx, made by `intvit export`.")],
    runtime: Annotated[
        Path,
        typer.Option(
            "--runtime", metavar="FOLDER", envvar="INTVIT_ORT_WEB", help="onnxruntime-web, installed by npm: its dist."
        ),
    ] = Path("node_modules/onnxruntime-web/dist"),
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="m.intvit or m.so: computes the server's logits; else m.onnx."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine's are public.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    threads: Threads = None,
) -> None:
    """Serve a page that runs an exported model in the browser and compares every logit."""
    report = Report(ctx)
    check_input(model, ".onnx")
    if against is not None:
        check_input(against, ".intvit", ".so")
    folder = runtime_folder(runtime)
    with stages() as progress:
        progress("load")
        from intvit.serve import Server, site

        exported = OnnxModel.load(model, threads)
        compared: Model = exported if against is None else open_model(against, threads)
        by = f"{model.name} in ONNX Runtime" if against is None else against.name
        content = site(exported, folder, compared, by)
    with Server(host, port, content) as server:
        report.say(f"compared with {by}; Ctrl-C ends")
        report.say(server.url)
        sys.stdout.flush()
        server.serve_forever()
