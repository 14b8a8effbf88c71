"""Each image's predictions, beside its label and the float model's: what every figure about accuracy is made of."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from intvit.evaluation import Array, check_exact, classes_by_rank, cosines, softmax

TOP = 5


@dataclass(frozen=True)
class Guess:
    """The likeliest classes of an image, best first, and the probability of the first by softmax."""

    ranked: tuple[int, ...]
    probability: float

    @property
    def first(self) -> int:
        """The predicted class."""
        return self.ranked[0]


@dataclass(frozen=True)
class ImageResult:
    """One image. What is not known is None: the label, the float model's guess and cosine, a guess of a feature map."""

    name: str
    label: int | None = None
    ours: Guess | None = None
    exact: Guess | None = None
    cosine: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether both models predict the same class."""
        return None if self.ours is None or self.exact is None else self.ours.first == self.exact.first


def compared(names: Iterable[str], outputs: Array, labels: Array | None, exact: Array | None) -> list[ImageResult]:
    """A result per image of a batch: outputs `[N, ...]`, classes `[N]`, the float model's outputs of the same shape.

    Raises `IntvitError` where the two models have outputs of different shapes, and for NaN and inf.
    """
    if exact is not None:
        check_exact(exact, outputs)
    names = list(names)
    nothing = [None] * len(names)
    rows = zip(
        names,
        nothing if labels is None else labels.tolist(),
        _guesses(outputs),
        nothing if exact is None else _guesses(exact),
        nothing if exact is None else cosines(outputs, exact).tolist(),
        strict=True,
    )
    return [ImageResult(*row) for row in rows]


def _guesses(outputs: Array) -> list[Guess] | list[None]:
    """A guess per image, ties to the smaller class; None for feature maps."""
    if outputs.ndim != 2:
        return [None] * len(outputs)
    ranked = classes_by_rank(outputs)[:, :TOP]
    likeliest = np.take_along_axis(softmax(outputs), ranked[:, :1], 1)[:, 0]
    return [Guess(tuple(row), p) for row, p in zip(ranked.tolist(), likeliest.tolist(), strict=True)]
