"""All figures of the page, gathered in one run over the images."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intvit.data import Batch
from intvit.errors import IntvitError
from intvit.evaluation import Reference, check_labels, first
from intvit.images import labels_for
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.model import Model
from intvit.report.accuracy import Accuracy, accuracy
from intvit.report.comparison import ImageResult, compared
from intvit.report.latency import Latency
from intvit.report.layers import LayerRow, layer_rows
from intvit.report.sensitivity import Effect, effects
from intvit.report.tensors import TensorRow, tensor_rows
from intvit.report.worst import Picture, Worst

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Figures:
    """What the page shows; `settings` are those of the command, `*_images` how many images are behind a part."""

    metadata: Metadata
    digest: str
    accuracy: Accuracy
    cosines: tuple[float, ...]
    worst: tuple[Picture, ...]
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    tensor_images: int
    effects: tuple[Effect, ...] = ()
    effect_images: int = 0
    latency: Latency | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Amounts:
    """How many images are looked at for what costs time or room, beyond the predictions."""

    tensors: int = 8
    effects: int = 1
    worst: int = 24


def gather(
    model: IntegerModel,
    batches: Iterable[Batch],
    *,
    runner: Model | None = None,
    reference: Reference | None = None,
    labels: Mapping[str, int] | None = None,
    labels_file: str | Path = "labels",
    amounts: Amounts | None = None,
    latency: Latency | None = None,
    settings: Mapping[str, str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Figures:
    """Runs the model and `reference`, the float one, on every batch, and the integer graph on the first images.

    Without labels and `reference` there is nothing to say of the other images, and they are not run.

    `runner` gives the same integers as the model faster: a module that was compiled from it. `progress` is told the
    stage, what is done of it and the whole where that is known. Raises `IntvitError` where there are no images, where
    an image has no label, and where `runner` or `reference` belong to another model.
    """
    amounts = amounts or Amounts()
    runner = runner or model
    require_same(model, runner)
    run = _Run(model, runner, reference, labels, labels_file, amounts)
    for done in run.over(batches):
        progress("evaluate", done, None)
    if not run.results:
        raise IntvitError("there are no images to report on")
    pixels = np.concatenate(run.kept)
    looked, perturbed = pixels[: amounts.tensors], pixels[: amounts.effects]
    return Figures(
        metadata=model.metadata,
        digest=model.digest,
        accuracy=accuracy(run.results),
        cosines=tuple(sorted(r.cosine for r in run.results if r.cosine is not None)),
        worst=run.worst.pictures(),
        layers=layer_rows(model.graph, model.metadata.layers),
        tensors=tensor_rows(model.graph, model.metadata, looked, lambda n: progress("tensors", n, len(looked))),
        tensor_images=len(looked),
        effects=effects(model.graph, perturbed, lambda n, total: progress("sensitivity", n, total)),
        effect_images=len(perturbed),
        latency=latency,
        settings=dict(settings or {}),
    )


def require_same(model: IntegerModel, runner: Model) -> None:
    """Raises `IntvitError` unless both are the same integer model, by their digests."""
    digest = getattr(runner, "digest", None)
    if digest != model.digest:
        raise IntvitError(
            f"the module was compiled from another model (digests {str(digest)[:16]} and {model.digest[:16]}): "
            "compile this one"
        )


class _Run:
    """What is kept of the images while they stream through: results, the worst, and the first few whole."""

    def __init__(
        self,
        model: IntegerModel,
        runner: Model,
        reference: Reference | None,
        labels: Mapping[str, int] | None,
        labels_file: str | Path,
        amounts: Amounts,
    ) -> None:
        self._grid, self._runner, self._reference = model.metadata.input_grid, runner, reference
        self._labels, self._labels_file = labels, labels_file
        self._wanted = max(amounts.tensors, amounts.effects)
        self.results: list[ImageResult] = []
        self.worst = Worst(amounts.worst)
        self.kept: list[NDArray[np.uint8]] = []

    def over(self, batches: Iterable[Batch]) -> Iterator[int]:
        """Runs every batch, or the first few where there is nothing to compare with; gives the images done so far."""
        for batch in batches:
            pixels = self._grid.pixels(batch.values)
            outputs = first(self._runner(pixels if self._grid.takes_pixels else batch.values))
            truth = None
            if self._labels is not None:
                truth = np.asarray(labels_for(batch.names, self._labels, self._labels_file))
                check_labels(truth, outputs, self._labels_file)
            exact = None if self._reference is None else self._reference(batch.normalized())
            results = compared(batch.names, outputs, truth, exact)
            if len(self.results) < self._wanted:
                self.kept.append(pixels[: self._wanted - len(self.results)].copy())
            self.results += results
            self.worst.add(results, pixels)
            yield len(self.results)
            if self._labels is None and self._reference is None and len(self.results) >= self._wanted:
                return
