"""Top-1, top-5, agreement and cosine of an integer model with their confidence intervals, from its images' results.

Shares have Wilson's interval; what compares the two models on the same images has the paired bootstrap's, and top-1 an
exact McNemar test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intvit.report.comparison import TOP, Guess, ImageResult
from intvit.report.statistics import Interval, bootstrap, mcnemar, wilson


@dataclass(frozen=True)
class Paired:
    """Top-1 or top-5 of both models on the same images; wins are images that only the integer model gets right."""

    difference: Interval
    wins: int
    losses: int
    p_value: float


@dataclass(frozen=True)
class Accuracy:
    """Shares between 0 and 1, None where labels or a float model are missing."""

    images: int
    top1: Interval | None = None
    top5: Interval | None = None
    float_top1: Interval | None = None
    float_top5: Interval | None = None
    paired_top1: Paired | None = None
    paired_top5: Paired | None = None
    agreement: Interval | None = None
    cosine: Interval | None = None


def accuracy(results: Sequence[ImageResult]) -> Accuracy:
    """Of at least one image, all of them with the same facts known."""
    ours = [[_hits(r.ours, r.label, depth) for r in results] for depth in (1, TOP)]
    exact = [[_hits(r.exact, r.label, depth) for r in results] for depth in (1, TOP)]
    return Accuracy(
        images=len(results),
        top1=_share(ours[0]),
        top5=_share(ours[1]),
        float_top1=_share(exact[0]),
        float_top5=_share(exact[1]),
        paired_top1=_paired(ours[0], exact[0]),
        paired_top5=_paired(ours[1], exact[1]),
        agreement=_share([r.agrees for r in results]),
        cosine=None if None in (cosines := [r.cosine for r in results]) else bootstrap(np.array(cosines, np.float64)),
    )


def _hits(guess: Guess | None, label: int | None, depth: int) -> bool | None:
    """Whether the label is among the first `depth` classes; None where one of them is not known."""
    return None if guess is None or label is None else label in guess.ranked[:depth]


def _share(hits: Sequence[bool | None]) -> Interval | None:
    """None where one of them is not known."""
    return None if None in hits else wilson(sum(map(bool, hits)), len(hits))


def _paired(ours: Sequence[bool | None], exact: Sequence[bool | None]) -> Paired | None:
    """None where one of them is not known."""
    if None in ours or None in exact:
        return None
    differences = np.array(ours, np.int64) - np.array(exact, np.int64)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return Paired(bootstrap(differences), wins, losses, mcnemar(wins, losses))
