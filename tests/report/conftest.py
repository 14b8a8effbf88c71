"""A tiny model with its layers' signal-to-noise ratios, images of its own, and figures gathered from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray

from intvit.data import Source
from intvit.evaluation import Reference
from intvit.integer_model import IntegerModel
from intvit.noise import layers
from intvit.passes.pipeline import lower_with_layers
from intvit.preprocess import Preprocessing
from intvit.report.figures import Amounts, Figures, gather
from intvit.report.latency import latency

IMAGES = 20
NAMES = tuple(f"</script><b>kind {i}</b>, other" for i in range(10))
"""Class names that would be markup wherever they were not treated as text."""


@pytest.fixture(scope="session")
def model() -> IntegerModel:
    """The tiny model as `quantize` leaves it."""
    calibrated = tiny.calibrated()
    graph, written = lower_with_layers(calibrated)
    metadata = replace(
        tiny.integer_model().metadata,
        layers=layers(calibrated.source, graph, written, tiny.GRID, tiny.pixels(2)),
        labels=NAMES,
        preprocessing=Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, resize=None, crop="none"),
    )
    return IntegerModel(graph, metadata)


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The float model."""
    module = tiny.vit()

    def run(images: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    return tiny.pixels(IMAGES, seed=7)


@pytest.fixture(scope="session")
def images(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An array file of the images."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, pixels)
    return path


@pytest.fixture(scope="session")
def labels(images: Path) -> dict[str, int]:
    """A class per image, as a CSV file gives it."""
    return {f"{images}[{i}]": i % 10 for i in range(IMAGES)}


@pytest.fixture(scope="session")
def figures(model: IntegerModel, reference: Reference, images: Path, labels: dict[str, int]) -> Figures:
    """Everything that the page can show."""
    from intvit.model import Step

    steps = [Step("product", f"blocks.{i}.fc1", 1000, 1e-4) for i in range(4)] + [Step("softmax", "", 0, 2e-6)]
    return gather(
        model,
        Source(images, model.metadata.preprocessing).batches(3),
        reference=reference,
        labels=labels,
        amounts=Amounts(tensors=4, effects=2, worst=14),
        latency=latency(steps, "x86-64", 1),
        settings={"model": "<tiny>", "data": str(images)},
    )
