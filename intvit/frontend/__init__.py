"""From a torch module to a `FloatGraph`: `torch.export` with a dynamic batch, then `canonicalize`.

| file              | what                                                                     |
|-------------------|--------------------------------------------------------------------------|
| `exported.py`     | a module as an exported program, or why it is none                       |
| `canonicalize.py` | the walk over the exported program                                       |
| `trail.py`        | what the walk made of each operation                                     |
| `rules/`          | one rule per ATen operation that computes                                |
| `aliases.py`      | operations in place: which tensors share their memory                    |
| `builder.py`      | emits canonical operations, cuts views to nodes                          |
| `materialize.py`  | lazy values as views                                                     |
| `matrices.py`     | heads and windows of attention inside token tensors                      |
| `values.py`       | what a tensor is known to be: a view of a token tensor, scores, a constant |
"""

import torch
from torch import nn
from torch.export import ExportedProgram

from intvit.errors import IntvitError, VerifyError
from intvit.frontend.canonicalize import canonicalize, trail
from intvit.frontend.exported import exported
from intvit.frontend.trail import Step, Trail
from intvit.frontend.values import PROBE
from intvit.stages import FloatGraph

__all__ = ["Step", "Trail", "capture", "exported", "trail"]


def capture(model: nn.Module | ExportedProgram, input_shape: tuple[int, int, int] | None = None) -> FloatGraph:
    """The canonical graph of `model`, an `nn.Module` or an exported program, for images `[channels, height, width]`.

    Raises `UnsupportedOp` with every operation that has no integer form, `IntvitError` where nothing comes out of it.
    """
    program = model if isinstance(model, ExportedProgram) else exported(model, input_shape or (3, 224, 224))
    graph = canonicalize(program)
    if isinstance(model, nn.Module):
        _check_unchanged(model, graph)
    return graph


@torch.inference_mode()
def _check_unchanged(model: nn.Module, graph: FloatGraph) -> None:
    """The canonical graph computes what the model computes, at another batch than the one it was traced with."""
    image = torch.rand(PROBE + 1, *graph.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    was_training = model.training
    model.eval()
    expected = [leaf for leaf in torch.utils._pytree.tree_leaves(model(image)) if isinstance(leaf, torch.Tensor)]
    model.train(was_training)
    if not all(bool(torch.isfinite(e).all()) for e in expected):
        raise IntvitError("the model's output is not finite on a random image: check its weights for NaN or inf")
    for i, (want, got) in enumerate(zip(expected, graph(image), strict=True)):
        error = (want - got).norm() / want.norm().clamp(min=1e-12)
        if error > 1e-2:
            raise VerifyError(f"canonicalization changed output {i} by {error:.1%}: please report this model")
