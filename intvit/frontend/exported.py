"""A module as an exported program with a dynamic batch, or one line that says why it is none.

torch.export prints pages when it fails; what matters of them is what it said first and the user's line of code.
"""

import contextlib
import inspect
import io
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from intvit.errors import UnsupportedOp
from intvit.frontend.values import PROBE

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n\s*(?P<code>.+)')
_TORCH = str(Path(torch.__file__).parent)
_REQUIRED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def exported(model: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    """The program of `model` in evaluation mode for images `[batch, *shape]`.

    Raises `UnsupportedOp` where the model takes something else than one image, or torch.export cannot follow it.
    """
    _check_takes_image(model)
    image = torch.zeros(PROBE, *shape)
    was_training = model.training
    model.eval()
    try:
        with _silenced():
            return torch.export.export(model, (image,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as error:
        raise UnsupportedOp(
            f"torch.export cannot capture {type(model).__name__} for images {list(shape)} with a dynamic batch: "
            f"{_said(error)}{_place(error)}"
        ) from error
    finally:
        model.train(was_training)


def _check_takes_image(model: nn.Module) -> None:
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    first = next(iter(parameters), "nothing")
    if first == getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise UnsupportedOp(f"cannot capture {name}: it takes {first}, not an image [batch, channels, height, width]")
    needed = [p.name for p in parameters.values() if p.kind in _REQUIRED and p.default is p.empty]
    if len(needed) > 1:
        listed = ", ".join(needed)
        raise UnsupportedOp(
            f"cannot capture {name}: it needs {len(needed)} inputs ({listed}), and intvit gives one image"
        )


def _said(error: Exception) -> str:
    """The first line of an error, with what it means where that is known."""
    text = str(error).strip()
    first = text.partition("\n")[0].partition("  (")[0] or type(error).__name__
    if "data-dependent" in first:
        return f"its control flow depends on the values of the image ({first.rstrip('.')})"
    if first.startswith("Constraints violated"):
        why = [line.strip(" -") for line in text.splitlines() if line.lstrip().startswith("- ")]
        return f"its code depends on the number of images ({(why or [first])[0].partition('. ')[0]})"
    return first


def _place(error: Exception) -> str:
    """The last line of code outside torch that an error names, or that it was raised in."""
    named = [tuple(found.group("file", "line", "code")) for found in _FRAME.finditer(str(error))]
    raised = [(f.filename, f.lineno, f.line or "") for f in traceback.extract_tb(error.__traceback__)]
    for frames in (named, raised):
        outside = [frame for frame in frames if not frame[0].startswith((_TORCH, "<")) and frame[0] != __file__]
        if outside:
            file, line, code = outside[-1]
            return f", at {file}:{line}: {code.strip()}"
    return ""


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """No graphs and warnings of torch.export on stderr."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
