"""Training: the loss, the recipe, and that it gives back what coarse weights lost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray

from intvit.data import Source
from intvit.demo.images import held_out
from intvit.demo.model import PREPROCESSING, digits
from intvit.errors import IntvitError
from intvit.finetune import Epoch, Recipe, finetune, flip
from intvit.finetune.examples import Examples
from intvit.finetune.train import Training, loss_of
from intvit.grid import Role
from intvit.passes.pipeline import lower
from intvit.quantization import quantize
from intvit.stages import CalibratedGraph, FloatGraph

LEVELS = 1.5
"""Steps on each side of 0 that the coarse weights have: two bits."""


def coarse(calibrated: CalibratedGraph) -> CalibratedGraph:
    """With weights of a few levels only."""
    grids = {
        (name, role): replace(grid, scale=grid.scale * (127 / LEVELS)) if role is Role.ACCUMULATOR else grid
        for (name, role), grid in calibrated.grids.items()
    }
    return replace(calibrated, grids=grids)


def examples(count: int = 24, labels: Sequence[int] | None = None, **options: Any) -> Examples:
    return Examples(Source(list(tiny.pixels(count)), shape=tiny.SHAPE), tiny.GRID, labels, **options)


def test_training_gives_back_what_coarse_weights_lost() -> None:
    pixels, _ = held_out()
    train, test = slice(0, 128), slice(128, None)
    images, epochs = list(pixels[train]), []

    def trained(calibrated: CalibratedGraph, teacher: FloatGraph, source: Source) -> CalibratedGraph:
        wanted = Examples(source, calibrated.input_grid)
        recipe = Recipe(epochs=3, batch=16, learning_rate=1e-3)
        return Training(coarse(calibrated), teacher, wanted, recipe).run(epoch_done=epochs.append)

    model, options = digits(), {"preprocessing": PREPROCESSING, "calib": 100}
    with torch.inference_mode():
        exact = model(torch.from_numpy(PREPROCESSING.normalize(pixels[test]))).argmax(1).numpy()
    before = quantize(model, images, refine=lambda calibrated, *_: coarse(calibrated), **options)
    after = quantize(model, images, refine=trained, **options)
    agreement = [float((m(pixels[test]).argmax(1) == exact).mean()) for m in (before, after)]
    assert agreement[0] < 0.7
    assert agreement[1] > 0.8
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert epochs[2].loss < epochs[0].loss / 1.3


def test_the_model_that_comes_back_is_the_one_that_was_trained() -> None:
    told: list[tuple[str, int]] = []
    losses: list[Epoch] = []
    model = finetune(
        tiny.small(),
        [image for image in tiny.GRID.normalized(tiny.pixels(12))],
        np.arange(12) % 10,
        recipe=Recipe(epochs=2, batch=5, learning_rate=1e-2, distill=0.3),
        class_names=[f"kind {i}" for i in range(10)],
        progress=lambda stage, done: told.append((stage, done)),
        epoch_done=losses.append,
    )
    assert model.metadata.labels == tuple(f"kind {i}" for i in range(10))
    assert [done for stage, done in told if stage == "finetune"] == [5, 10, 12, 17, 22, 24]
    assert [stage for stage, _ in told][-1] == "lower"
    assert losses[1].loss < losses[0].loss
    assert model(tiny.GRID.normalized(tiny.pixels(3))).shape == (3, 10)


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    def trained(seed: int) -> list[NDArray[np.float32]]:
        training = Training(
            tiny.calibrated(), tiny.captured(), examples(), Recipe(1, 10, learning_rate=1e-3, seed=seed)
        )
        return [buffer.numpy() for buffer in training.run().source.module.buffers()]

    first, again, other = trained(0), trained(0), trained(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_loss_is_a_mean_over_the_batch_however_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> tuple[float, list[torch.Tensor]]:
        training = Training(tiny.calibrated(), tiny.captured(), examples(9), Recipe())
        loss = training.backward(torch.arange(9), 1)
        return loss, [p.grad for p in training.student.parameters.values() if p.grad is not None]

    loss, whole = gradients()
    monkeypatch.setattr("intvit.finetune.train.AT_ONCE", 4)
    other, parts = gradients()
    assert other == pytest.approx(loss, rel=1e-5)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_loss() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    teacher = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 2])
    logs = logits.log_softmax(-1)
    soft = -(teacher.softmax(-1) * logs).sum()
    hard = -sum(0.9 * logs[i, label] + 0.1 * logs[i].mean() for i, label in enumerate(labels))
    assert float(loss_of(logits, teacher, None, 1.0, 0.1)) == pytest.approx(float(soft), rel=1e-6)
    assert float(loss_of(logits, teacher, labels, 0.25, 0.1)) == pytest.approx(
        float(0.25 * soft + 0.75 * hard), rel=1e-6
    )


def test_the_rate_falls_to_nothing_and_only_weights_decay() -> None:
    training = Training(tiny.calibrated(), tiny.captured(), examples(8), Recipe(2, 4, learning_rate=1e-3))
    first, second = training.optimizer.param_groups
    assert (first["weight_decay"], len(first["params"])) == (1e-4, 14)
    assert (second["weight_decay"], len(second["params"])) == (0.0, 26)
    training.run()
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_distillation_without_labels_and_a_mixture_with_them() -> None:
    assert Recipe().share(labelled=False) == 1
    assert Recipe().share(labelled=True) == 0.5
    assert Recipe(distill=0).share(labelled=True) == 0
    with pytest.raises(IntvitError, match="needs labels"):
        Recipe(distill=0.5).share(labelled=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"distill": 1.5},
        {"smoothing": 1.0},
        {"seed": -1},
    ],
)
def test_impossible_recipes(wrong: dict[str, Any]) -> None:
    with pytest.raises(IntvitError):
        Recipe(**wrong)


def test_labels_of_every_form() -> None:
    images = [(torch.from_numpy(image), i) for i, image in enumerate(tiny.GRID.normalized(tiny.pixels(3)))]
    own = Examples(Source(images), tiny.GRID)
    assert own.labels is not None and own.labels.tolist() == [0, 1, 2]
    assert examples(3).labels is None
    given = examples(3, [4, 5, 6])
    assert given.labels is not None and given.labels.tolist() == [4, 5, 6]
    np.testing.assert_array_equal(given.pixels([2, 0], 1), tiny.pixels(3)[[2, 0]])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, 2], "2.*3 images"),
        ([0.5, 1.0, 2.0], "float64"),
        ({"a.png": 1}, "no label for 3 of 3"),
        ([0, 1, 10], "class 10.*0 to 9"),
        ([0, 1, -1], "count from 0"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, words: str) -> None:
    with pytest.raises(IntvitError, match=words):
        Training(tiny.calibrated(), tiny.captured(), examples(3, labels), Recipe())


def test_data_that_can_be_read_once_only() -> None:
    with pytest.raises(IntvitError, match="many times"):
        Examples(Source(iter(tiny.pixels(3)), shape=tiny.SHAPE), tiny.GRID)


def test_a_model_without_classes_is_refused() -> None:
    graph = tiny.captured()
    features = FloatGraph(graph.module, graph.input_shape, ((5, 2),))
    with pytest.raises(IntvitError, match="not one score per class"):
        Training(tiny.calibrated(), features, examples(3), Recipe())


def test_weights_that_explode_are_the_learning_rates_fault() -> None:
    training = Training(tiny.calibrated(), tiny.captured(), examples(8), Recipe(2, 8, learning_rate=0.9))
    with torch.no_grad():
        for parameter in training.student.parameters.values():
            parameter.mul_(1e6)
    with pytest.raises(IntvitError, match="lower the learning rate"):
        training.run()
    assert lower(tiny.calibrated())  # where it started is untouched


def test_images_change_alike_for_every_process() -> None:
    changing = examples(6, augment=flip, seed=3)
    once, again = changing.pixels(range(6), 1), changing.pixels([5, 2], 1)
    np.testing.assert_array_equal(once[[5, 2]], again)
    mirrored = [not np.array_equal(image, plain) for image, plain in zip(once, tiny.pixels(6), strict=True)]
    assert any(mirrored) and not all(mirrored)
    where = mirrored.index(True)
    np.testing.assert_array_equal(once[where], tiny.pixels(6)[where][:, ::-1])
    with pytest.raises(IntvitError, match="augment"):
        examples(2, augment=lambda image, random: image[:5]).pixels([0], 1)
