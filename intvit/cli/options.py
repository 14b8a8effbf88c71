"""The options that commands share, and the paths that are checked before any work is done."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intvit.cuda.runtime import CudaModel, is_cuda_module
from intvit.errors import IntvitError
from intvit.images import image_files, labels_for, read_labels
from intvit.loading import load

if TYPE_CHECKING:
    from intvit.integer_model import IntegerModel
    from intvit.onnx_model import OnnxModel
    from intvit.runtime import CompiledModel

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per run of the model.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Cores to use; by default all that this process may run on.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help="Weights of the float model: a file, 'pretrained' or 'random'."),
]
FloatModel = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function."),
]
IntegerOutput = Annotated[Path, typer.Option("-o", "--output", help="The integer model to write: m.intvit.")]
Calib = Annotated[int, typer.Option("--calib", min=1, help="Images to calibrate on, the first by file name.")]
ClassNames = Annotated[
    Path | None, typer.Option("--class-names", help="A class name per line, kept in the model for `run`.")
]
Preset = Annotated[str, typer.Option("--preset", help="default, accurate (slower) or paper (as published).")]
Width = Annotated[
    str,
    typer.Option(
        "--bits",
        help="Of weights and activations: W8A8, W4A8, W6A6, W4A4, mixed (--budget); fewer are trained, in minutes.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", metavar="SHARE", help="Of mixed bits: of the weights' bytes at 8 bits; 0.7 by default."),
]
Observer = Annotated[
    str | None,
    typer.Option("--observer", help="auto, minmax, mse or percentile:FRACTION; by default the preset's."),
]
Codebook = Annotated[
    str, typer.Option("--codebook", help="kmeans or tangent: levels behind GELU and its like, of fewer than 8 bits.")
]
_OWN = "by default the model's own"
Size = Annotated[str | None, typer.Option("--size", metavar="N|HxW", help=f"The model's input; {_OWN}.")]
Resize = Annotated[str | None, typer.Option("--resize", metavar="N|HxW", help="Shorter side, or both.")]
Crop = Annotated[str | None, typer.Option("--crop", help="center, center_floor or none.")]
Interpolation = Annotated[str | None, typer.Option("--interpolation", help="bicubic, bilinear, ...")]
Mean = Annotated[str | None, typer.Option("--mean", metavar="M|R,G,B", help="Of the normalization.")]
Std = Annotated[str | None, typer.Option("--std", metavar="S|R,G,B", help="Of the normalization.")]
Artifact = Annotated[
    Path, typer.Argument(metavar="MODEL", help="m.so (compiled), m.intvit (integer reference) or m.onnx (exported).")
]

SUFFIXES = {".intvit": "intvit quantize", ".so": "intvit compile", ".onnx": "intvit export"}
ARTIFACTS = tuple(SUFFIXES)


def check_input(path: Path, *suffixes: str) -> None:
    """The artifact is there and of a kind that the command takes."""
    if path.suffix not in suffixes:
        makers = " or ".join(f"{suffix} (made by `{SUFFIXES[suffix]}`)" for suffix in suffixes)
        raise IntvitError(f"{path}: this command takes a file that ends in {makers}")
    if not path.is_file():
        raise IntvitError(f"{path}: no such file; check the path, or make it with `{SUFFIXES[path.suffix]}`")


def open_model(path: Path, threads: int | None = None) -> "IntegerModel | CompiledModel | CudaModel | OnnxModel":
    """The artifact, run on `threads` cores."""
    if path.suffix == ".intvit" and threads is not None:
        import torch

        torch.set_num_threads(threads)
    return load(path, threads)


def open_described(path: Path) -> "IntegerModel | CompiledModel | CudaModel | OnnxModel":
    """The artifact, to read of it: a module for GPUs needs none."""
    if path.suffix == ".so" and is_cuda_module(path):
        return CudaModel(path, device=None)
    return open_model(path)


def check_output(path: Path, *suffixes: str) -> None:
    """The suffix decides the artifact; its folder is there and can be written to."""
    if path.suffix not in suffixes:
        first = path.with_suffix(suffixes[0]).name
        raise IntvitError(f"{path}: the output must end in {' or '.join(suffixes)}; write -o {first}")
    if path.is_dir():
        raise IntvitError(f"{path}: is a folder; give the path of a file")
    if (nearest := next(folder for folder in path.parents if folder.exists())).is_file():
        raise IntvitError(f"{path}: {nearest} is a file, not a folder; choose another path")
    if not path.parent.is_dir():
        raise IntvitError(f"{path}: the folder {path.parent} does not exist; create it or choose another path")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise IntvitError(f"{path}: no permission to write in {path.parent}; choose another path")


def check_data(path: Path) -> list[Path] | None:
    """The image files of a folder, which must hold some; None for an array file, which must be there."""
    if path.suffix not in (".npy", ".npz") or path.is_dir():
        return image_files(path)
    if not path.is_file():
        raise IntvitError(f"{path}: no such file; check the path of the data")
    return None


def names_in(folder: Path, files: list[Path]) -> list[str]:
    """The names by which a CSV file of labels knows the images of a folder."""
    return [file.relative_to(folder).as_posix() if folder.is_dir() else str(file) for file in files]


def check_images(
    data: Path, skip: int, limit: int | None, labels: Path | None
) -> tuple[list[Path] | None, dict[str, int] | None]:
    """The images that are left of `check_data`, and the classes in `labels`, of which each of them has one."""
    files = check_data(data)
    known = None if labels is None else read_labels(labels)
    if files is not None:
        files = files[skip : None if limit is None else skip + limit]
        if not files:
            raise IntvitError(f"{data}: nothing is left after skipping {skip} images; lower --skip")
        if known is not None:
            labels_for(names_in(data, files), known, str(labels))
    return files, known
