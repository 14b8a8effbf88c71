"""Images' results and the accuracies made of them, on numbers that can be counted by hand."""

import numpy as np
import pytest

from intvit.errors import IntvitError
from intvit.report.accuracy import accuracy
from intvit.report.comparison import Guess, ImageResult, compared
from intvit.report.statistics import mcnemar, wilson

LOGITS = np.array([[3, 2, 1, 0, -1, -2], [0, 0, 0, 0, 0, 9], [1, 1, 0, 0, 0, 0]], np.float32)


def test_a_result_per_image() -> None:
    first, second, third = compared(["a", "b", "c"], LOGITS, np.array([0, 0, 1]), LOGITS[:, ::-1])
    assert first.ours == Guess((0, 1, 2, 3, 4), pytest.approx(np.exp(3) / np.exp(LOGITS[0]).sum()))
    assert first.exact is not None and first.exact.ranked == (5, 4, 3, 2, 1)
    assert (first.name, first.label, first.agrees) == ("a", 0, False)
    assert second.ours is not None and second.ours.ranked == (5, 0, 1, 2, 3)
    assert third.ours is not None and third.ours.first == 0
    assert third.cosine == pytest.approx(0)


def test_what_is_not_known_is_none() -> None:
    (feature,) = compared(["a"], np.ones((1, 2, 3)), None, None)
    assert feature == ImageResult("a")
    assert feature.agrees is None
    (compared_feature,) = compared(["a"], np.ones((1, 2, 3)), None, np.full((1, 2, 3), 2.0))
    assert compared_feature.cosine == pytest.approx(1)
    assert compared_feature.ours is None


def test_refusals() -> None:
    with pytest.raises(IntvitError, match="quantized from"):
        compared(["a"], LOGITS[:1], None, LOGITS[:1, :3])
    with pytest.raises(IntvitError, match="NaN"):
        compared(["a"], LOGITS[:1], None, LOGITS[:1] * np.nan)


def guess(*ranked: int) -> Guess:
    return Guess(ranked, 0.5)


def test_accuracy_of_both_models() -> None:
    results = [
        ImageResult("both right", 1, guess(1, 2, 3), guess(1, 3, 2), 0.9),
        ImageResult("ours alone", 1, guess(1, 2, 3), guess(4, 3, 2), 0.8),
        ImageResult("float alone", 1, guess(2, 1, 3), guess(1, 3, 2), 0.7),
        ImageResult("both wrong", 1, guess(5, 6, 7), guess(5, 6, 7), 0.6),
    ]
    found = accuracy(results)
    assert (found.images, found.top1, found.float_top1) == (4, wilson(2, 4), wilson(2, 4))
    assert (found.top5, found.float_top5) == (wilson(3, 4), wilson(2, 4))
    assert found.agreement == wilson(2, 4)
    assert found.cosine is not None and found.cosine.value == pytest.approx(0.75)
    one, five = found.paired_top1, found.paired_top5
    assert one is not None and (one.wins, one.losses, one.p_value) == (1, 1, mcnemar(1, 1))
    assert one.difference.value == 0 and one.difference.low < 0 < one.difference.high
    assert five is not None and (five.wins, five.losses) == (1, 0)


def test_accuracy_of_what_is_known() -> None:
    alone = accuracy([ImageResult("a", 1, guess(1)), ImageResult("b", 0, guess(1))])
    assert alone.top1 == wilson(1, 2)
    assert (alone.float_top1, alone.paired_top1, alone.agreement, alone.cosine) == (None,) * 4
    unlabelled = accuracy([ImageResult("a", None, guess(1), guess(1), 1.0)])
    assert (unlabelled.top1, unlabelled.agreement) == (None, wilson(1, 1))
    features = accuracy([ImageResult("a", None, None, None, 0.5)])
    assert features.agreement is None and features.cosine is not None
