"""One run over the images: everything is gathered, and what does not belong together is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import biased
import coarse
import gated
import mixed
import moved
import normalized
import numpy as np
import pytest
import tiny
import windowed
from numpy.typing import NDArray

from intvit.data import Batch, Source
from intvit.errors import IntvitError
from intvit.evaluation import Reference, evaluate
from intvit.integer_model import IntegerModel
from intvit.report.figures import Amounts, Figures, gather
from intvit.report.page import content


def test_figures_agree_with_the_evaluation(
    figures: Figures, model: IntegerModel, reference: Reference, images: Path, labels: dict[str, int]
) -> None:
    expected = evaluate(model, Source(images, model.metadata.preprocessing).batches(20), labels, reference)
    found = figures.accuracy
    assert found.images == expected.images == 20
    for mine, theirs in (
        (found.top1, expected.top1),
        (found.top5, expected.top5),
        (found.float_top1, expected.float_top1),
        (found.float_top5, expected.float_top5),
        (found.agreement, expected.agreement),
    ):
        assert mine is not None and 100 * mine.value == pytest.approx(theirs)
    assert found.cosine is not None and found.cosine.value == pytest.approx(expected.cosine)
    assert list(figures.cosines) == sorted(figures.cosines) and len(figures.cosines) == 20


def test_images_are_counted_as_asked(figures: Figures) -> None:
    assert (figures.tensor_images, figures.effect_images, len(figures.worst)) == (4, 2, 14)
    image = figures.tensors[0]
    assert image.histogram.total == 4 * 32 * 32 * 3


def test_progress_names_the_stage_and_what_cannot_be_compared_is_not_run(model: IntegerModel, images: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    gather(
        model,
        Source(images, model.metadata.preprocessing).batches(15),
        amounts=Amounts(tensors=2, effects=0),
        progress=lambda *said: seen.append(said),
    )
    assert seen == [("evaluate", 15, None), ("tensors", 1, 2), ("tensors", 2, 2)]


def test_float_images(model: IntegerModel, reference: Reference, pixels: NDArray[np.uint8]) -> None:
    """As a model is given them that was not calibrated on pictures."""
    grid = replace(model.metadata.input_grid, takes_pixels=False)
    floats = IntegerModel(model.graph, replace(model.metadata, input_grid=grid, preprocessing=None))
    values = grid.normalized(pixels)
    found = gather(floats, [Batch(values, tuple(map(str, range(20))), (None,) * 20)], reference=reference)
    assert found.accuracy.agreement is not None and found.accuracy.agreement.value > 0.5
    assert found.worst[0].pixels.dtype == np.uint8


def test_a_module_of_another_model_is_refused(model: IntegerModel) -> None:
    with pytest.raises(IntvitError, match="compiled from another model"):
        gather(model, [], runner=tiny.integer_model("paper"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda batch: [], "no images"),
        (lambda batch: [replace(batch, names=("unknown",))], "no label for 1 of 1 images"),
    ],
)
def test_wrong_data_are_refused(
    model: IntegerModel, pixels: NDArray[np.uint8], change: Callable[[Batch], list[Batch]], words: str
) -> None:
    batch = Batch(pixels[:1], ("0.png",), (None,))
    with pytest.raises(IntvitError, match=words):
        gather(model, change(batch), labels={"0.png": 0})


@pytest.mark.parametrize("other", [biased, coarse, gated, mixed, moved, normalized, windowed], ids=lambda m: m.__name__)
def test_every_kind_of_graph(other: ModuleType) -> None:
    """Windows, gates, several outputs, feature maps: every tensor has its row, and the page its data."""
    model: IntegerModel = other.integer_model()
    channels, height, width = model.metadata.input_grid.shape
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)
    found = gather(model, [Batch(pixels, ("a", "b"), (None, None))], amounts=Amounts(tensors=1, effects=1))
    computed = [node.name for node in model.graph.module.graph.nodes if node.op in ("placeholder", "call_function")]
    assert [row.node for row in found.tensors] == computed
    assert found.effects and all(np.isfinite(effect.noise) for effect in found.effects)
    assert len(content(found)["tensors"]) == len(computed)
