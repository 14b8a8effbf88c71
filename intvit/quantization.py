"""From a float model and images to an `IntegerModel`: capture, calibrate, lower, prove."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from intvit._version import __version__
from intvit.bits import WIDEST, Bits
from intvit.calibrate import calibrate
from intvit.codebook import CODEBOOKS
from intvit.data import Batch, Source
from intvit.errors import IntvitError
from intvit.files import check_folder
from intvit.frontend import capture
from intvit.grids import PRESETS, Policy
from intvit.input_grid import InputGrid
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.models import preprocessing_of, resolve
from intvit.noise import layers
from intvit.observers import ObserverChoice
from intvit.passes.base import Pass
from intvit.passes.hoist_selection import hoist_selection
from intvit.passes.pipeline import PASSES, lower_with_layers
from intvit.preprocess import Preprocessing
from intvit.rounding.model import round_model
from intvit.stages import CalibratedGraph, FloatGraph
from intvit.verify.overflow import prove_no_overflow
from intvit.weights import check_finite

DEFAULT_SHAPE = (3, 224, 224)
NOISE_IMAGES = 8
"""Images for the signal-to-noise ratios: their mean over tokens is stable to 0.2 dB from here on."""
RANGE_IMAGES = 64
"""Float images that fix the input's range where it is not that of pixels."""


@torch.inference_mode(mode=False)
def quantize(
    model: nn.Module | ExportedProgram | str,
    data: Any,
    *,
    weights: str | Path | None = None,
    preset: str = "default",
    bits: str = "W8A8",
    budget: float | None = None,
    observer: str | None = None,
    codebook: str = "kmeans",
    calib: int = 100,
    batch: int = 10,
    preprocessing: Preprocessing | None = None,
    input_shape: tuple[int, int, int] | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    passes: Sequence[Pass] = PASSES,
    dump_ir: str | Path | None = None,
    refine: Callable[[CalibratedGraph, FloatGraph, Source], CalibratedGraph] | None = None,
    progress: Callable[[str, int], None] = lambda stage, done: None,
) -> IntegerModel:
    """The integer-only form of a Vision Transformer, calibrated on `calib` images of `data`, without training.

    `model`: a module, an exported program, or a name (`timm:deit_tiny_patch16_224`, see `intvit.models`) with
    `weights`.
    `data`: a folder of images, float32 `[C, H, W]` or `[N, C, H, W]` arrays or tensors (one, an iterable, a
    DataLoader), `.npy`, `.npz`, or a callable that gives one of these. `preprocessing` overrides the model's own.
    `preset`: `default`, `accurate` (queries and keys equalized; of fewer bits, blocks trained for longer) or `paper`.
    `bits`: of the weights and the operands of products, such as `W4A8`; with fewer than 8 of either, blocks are
    trained. `mixed`: 4 or 8 bits for each layer's weights, by what they cost the answers, so that all take `budget`
    (0.7) of their bytes at 8.
    `labels`: a name per class. `observer`: `auto`, `minmax`, `mse` or `percentile:FRACTION`. `codebook`:
    `kmeans` or `tangent`, levels behind activation functions of fewer than 8 bits (even ones where the observer
    keeps no histogram). `refine` is given the calibrated graph, the float graph and the images, and returns what is
    lowered instead (`intvit.finetune`).
    `progress` is told the stage and the number of images done.

    Raises `IntvitError` for bad input, `UnsupportedOp` with every operation that has no integer form, `VerifyError`
    where a layer could overflow.
    """
    if preset not in PRESETS:
        *others, last = PRESETS
        raise IntvitError(f"unknown preset {preset!r}: choose {', '.join(others)} or {last}")
    width = Bits.of(bits, budget)
    if not width.whole and PRESETS[preset].published:
        raise IntvitError(f"the preset {preset} is W8A8, as published: use the preset default with {width}")
    _check_codebook(codebook, width)
    policy = replace(PRESETS[preset], activations=width.activations, codebook=codebook)
    policy = policy if observer is None else replace(policy, observer=observer)
    ObserverChoice(policy.observer).make(1)  # refuses an unknown name before any work
    if dump_ir is not None:
        check_folder(Path(dump_ir))
    if isinstance(model, str):
        resolved = resolve(model, weights)
        name, model = name or resolved.name, resolved.module
        preprocessing = preprocessing or resolved.preprocessing
        labels = labels or resolved.labels
    elif isinstance(model, nn.Module):
        check_finite(model, type(model).__name__)
        preprocessing = preprocessing or preprocessing_of(model)
    progress("capture", 0)
    captured = capture(model, input_shape or _shape_of(preprocessing, data))
    if labels is not None:
        _check_labels(labels, captured.output_shapes)
    images = Source(data, preprocessing, shape=captured.input_shape)
    grid, stream = _input_grid(images, preprocessing, captured.input_shape, calib, batch)
    kept: list[NDArray[np.uint8]] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for entry in stream:
            chunk = grid.pixels(entry.values)
            if sum(map(len, kept)) < NOISE_IMAGES:
                kept.append(chunk[:NOISE_IMAGES])
            yield chunk

    if policy.published:
        source = hoist_selection(captured)
        calibrated = calibrate(source, pixels(), grid, policy, lambda done: progress("calibrate", done))
    else:
        chunks, accurate = list(pixels()), preset == "accurate"
        source, calibrated = round_model(captured, chunks, grid, policy, width, accurate, progress)
    if refine is not None:
        calibrated = refine(calibrated, source, images)
    progress("lower", 0)
    graph, written = lower_with_layers(calibrated, passes, None if dump_ir is None else Path(dump_ir))
    prove_no_overflow(graph)
    metadata = Metadata(
        name=name or type(model).__name__,
        preset=preset,
        bits=str(width),
        version=__version__,
        input_grid=grid,
        output_scales=graph.output_scales,
        output_shapes=graph.output_shapes,
        preprocessing=preprocessing,
        labels=None if labels is None else tuple(labels),
        layers=layers(source, graph, written, grid, np.concatenate(kept)[:NOISE_IMAGES]),
    )
    return IntegerModel(graph, metadata)


def _check_codebook(codebook: str, bits: Bits) -> None:
    """It is known, and there are levels to choose."""
    if codebook not in CODEBOOKS:
        raise IntvitError(f"unknown codebook {codebook!r}: choose {' or '.join(CODEBOOKS)}")
    if codebook != Policy.codebook and bits.activations == WIDEST:
        raise IntvitError(f"the codebook {codebook} is for activations of fewer than 8 bits: give bits such as W4A4")


def _shape_of(preprocessing: Preprocessing | None, data: Any) -> tuple[int, int, int]:
    """`[channels, height, width]`: that of the preprocessing, else of the first array where data can be read twice."""
    if preprocessing is not None:
        return (preprocessing.channels, *preprocessing.size)
    source = Source(data)
    if not source.repeatable:
        return DEFAULT_SHAPE
    first = next(source.items()).values
    if first.dtype == np.uint8:
        raise IntvitError(f"{source.name}: raw uint8 images need a preprocessing (size, mean, std); or give float32")
    channels, height, width = first.shape
    return channels, height, width


def _check_labels(labels: Sequence[str], outputs: tuple[tuple[int, ...], ...]) -> None:
    """There is a name for every class."""
    if len(outputs[0]) != 1 or len(labels) != outputs[0][0]:
        has = f"{outputs[0][0]} classes" if len(outputs[0]) == 1 else f"an output of {list(outputs[0])}, not classes"
        raise IntvitError(f"{len(labels)} class names, but the model has {has}: give one name per class, or none")


def _input_grid(
    images: Source, preprocessing: Preprocessing | None, shape: tuple[int, int, int], calib: int, batch: int
) -> tuple[InputGrid, Iterator[Batch]]:
    """Pixels where the images are 8-bit images; else 256 steps over the range of the first images."""
    stream = images.batches(batch, calib)
    first: list[Batch] = []
    for entry in stream:
        first.append(entry)
        if sum(len(b.values) for b in first) >= RANGE_IMAGES or entry.values.dtype == np.uint8:
            break

    def again() -> Iterator[Batch]:
        yield from first
        yield from stream

    grid = None if preprocessing is None else InputGrid.of_pixels(preprocessing, shape)
    floats = [b.values for b in first if b.values.dtype != np.uint8]
    if grid is not None and all(grid.holds(values) for values in floats):
        return grid, again()
    if not floats:
        raise IntvitError("raw images need a preprocessing (mean and std): give one with `preprocessing`")
    low = min(float(values.min()) for values in floats)
    high = max(float(values.max()) for values in floats)
    return InputGrid.of_range(low, high, shape), again()
