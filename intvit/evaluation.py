"""How good an integer model is: accuracy against labels, agreement and cosine against float logits. numpy only.

Batches stream through; what is kept does not grow with the number of images. Ties go to the smaller class.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.data import Batch
from intvit.errors import IntvitError
from intvit.images import labels_for

Array = NDArray[Any]
Reference = Callable[[NDArray[np.float32]], Array]
"""A float model: normalized images `[N, C, H, W]` to its first output."""


@dataclass(frozen=True)
class Evaluation:
    """Percentages over `images`, and the mean cosine of the outputs; None where labels or a float model are missing."""

    images: int
    top1: float | None = None
    top5: float | None = None
    float_top1: float | None = None
    float_top5: float | None = None
    agreement: float | None = None
    cosine: float | None = None


def evaluate(
    model: Callable[[Array], Any],
    batches: Iterable[Batch],
    labels: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    *,
    labels_file: str | Path = "labels",
    progress: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Runs `model` on every batch, and `reference` on the same pixels; `progress` is told the images done so far.

    Raises `IntvitError` for an image without a label, and for a label that the model has no class for.
    """
    tally = Tally()
    for batch in batches:
        outputs = first(model(batch.values))
        truth = None
        if labels is not None:
            truth = np.asarray(labels_for(batch.names, labels, labels_file))
            check_labels(truth, outputs, labels_file)
        tally.add(outputs, truth, None if reference is None else reference(batch.normalized()))
        progress(tally.images)
    return tally.result()


class Tally:
    """Running sums of what `Evaluation` reports."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: dict[str, float] = {}

    def add(self, outputs: Array, labels: Array | None = None, exact: Array | None = None) -> None:
        """A batch: outputs `[N, ...]`, the class of each image, the float model's outputs."""
        if exact is not None:
            check_exact(exact, outputs)
        self.images += len(outputs)
        if labels is not None:
            ranked = classes_by_rank(outputs)
            self._count(top1=ranked[:, 0] == labels, top5=(ranked[:, :5] == labels[:, None]).any(1))
        if labels is not None and exact is not None:
            ranked = classes_by_rank(exact)
            self._count(float_top1=ranked[:, 0] == labels, float_top5=(ranked[:, :5] == labels[:, None]).any(1))
        if exact is not None:
            self._count(cosine=cosines(outputs, exact))
            if outputs.ndim == 2:
                self._count(agreement=outputs.argmax(1) == exact.argmax(1))

    def _count(self, **values: Array) -> None:
        for name, each in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(each.sum())

    def result(self) -> Evaluation:
        """The means so far."""
        if not self.images:
            raise IntvitError("there are no images to evaluate")
        means = {name: total / self.images for name, total in self._sums.items()}
        return Evaluation(self.images, **{name: m if name == "cosine" else 100 * m for name, m in means.items()})


def first(outputs: Any) -> Array:
    """The first output of a model: its logits where it is a classifier."""
    result: Array = outputs[0] if isinstance(outputs, tuple) else outputs
    return result


def scores(outputs: Any) -> Array:
    """The first output, which must be one score per class."""
    result = first(outputs)
    if result.ndim != 2:
        raise IntvitError(f"the model's output is {list(result.shape[1:])}, not one score per class: it has no classes")
    return result


def check_labels(labels: Array, outputs: Array, source: str | Path = "labels") -> None:
    """Raises `IntvitError` where a label is beyond the model's classes, or it has none."""
    classes = scores(outputs).shape[1]
    if labels.max(initial=0) >= classes:
        raise IntvitError(f"{source}: class {labels.max()}, but the model has the classes 0 to {classes - 1}")


def check_exact(exact: Array, outputs: Array) -> None:
    """Raises `IntvitError` where the float model's outputs have another shape, and for NaN and inf in them."""
    if exact.shape != outputs.shape:
        raise IntvitError(
            f"the float model's output is {list(exact.shape[1:])}, the integer model's {list(outputs.shape[1:])}: "
            "compare it with the model that it was quantized from"
        )
    if not np.isfinite(exact).all():
        raise IntvitError("the float model's output holds NaN or inf: check its weights and the images")


def classes_by_rank(outputs: Array) -> Array:
    """The classes of every image, likeliest first."""
    ranked: Array = np.argsort(-scores(outputs), axis=1, kind="stable")
    return ranked


def cosines(a: Array, b: Array) -> NDArray[np.float64]:
    """The cosine of every pair of rows; 0 where one of them is all zero, 1 where both are."""
    left, right = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    dots = (left * right).sum(1)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(1) & ~right.any(1)
    result: NDArray[np.float64] = np.where(both_zero, 1.0, dots / np.where(norms == 0, 1.0, norms))
    return result


def softmax(logits: Array) -> NDArray[np.float64]:
    """Probabilities of logits along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return result
