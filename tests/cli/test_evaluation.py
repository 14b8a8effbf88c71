"""Accuracy, agreement and cosine, on numbers that can be counted by hand."""

import numpy as np
import pytest

from intvit.data import Batch
from intvit.errors import IntvitError
from intvit.evaluation import Evaluation, Tally, cosines, evaluate, softmax

LOGITS = np.array([[3, 2, 1, 0, -1, -2, -3], [0, 0, 0, 0, 0, 0, 9], [1, 1, 0, 0, 0, 0, 0]], np.float32)


def test_top1_and_top5_with_ties_to_the_smaller_class() -> None:
    tally = Tally()
    tally.add(LOGITS[:2], np.array([0, 4]))
    tally.add(LOGITS[2:], np.array([1]))
    assert tally.result() == Evaluation(3, top1=pytest.approx(100 / 3), top5=pytest.approx(200 / 3))


def test_agreement_and_cosine() -> None:
    tally = Tally()
    tally.add(LOGITS, np.array([0, 6, 0]), LOGITS[:, ::-1])
    result = tally.result()
    assert (result.top1, result.float_top1) == (100, 0)
    assert result.agreement == 0
    assert result.cosine == pytest.approx(cosines(LOGITS, LOGITS[:, ::-1]).mean())


def test_features_have_a_cosine_and_no_agreement() -> None:
    tally = Tally()
    features = np.ones((2, 3, 4), np.float32)
    tally.add(features, None, 2 * features)
    assert tally.result() == Evaluation(2, cosine=pytest.approx(1))
    with pytest.raises(IntvitError, match=r"\[3, 4\], not one score per class"):
        tally.add(features, np.zeros(2, int))


def test_cosine_of_zeros() -> None:
    a, b = np.array([[0, 0], [0, 0], [3, 4.0]]), np.array([[0, 0], [1, 0], [-3, -4.0]])
    np.testing.assert_allclose(cosines(a, b), [1, 0, -1])


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0])), [0.5, 0.5])


def batch(*names: str) -> Batch:
    return Batch(np.zeros((len(names), 2, 2, 3), np.uint8), names, (None,) * len(names))


def test_evaluate_refuses_what_cannot_be_compared() -> None:
    def model(values: np.ndarray) -> np.ndarray:
        return LOGITS[: len(values)]

    with pytest.raises(IntvitError, match=r"labels.csv: no label for 1 of 2 images \(b.png\)"):
        evaluate(model, [batch("a.png", "b.png")], {"a.png": 0}, labels_file="labels.csv")
    with pytest.raises(IntvitError, match="class 7, but the model has the classes 0 to 6"):
        evaluate(model, [batch("a.png")], {"a.png": 7})
    with pytest.raises(IntvitError, match="quantized from"):
        Tally().add(LOGITS, None, LOGITS[:, :3])
    with pytest.raises(IntvitError, match="float model's output holds NaN or inf"):
        Tally().add(LOGITS, None, np.full_like(LOGITS, np.nan))
    with pytest.raises(IntvitError, match="no images"):
        evaluate(model, [])


def test_evaluate_tells_its_progress() -> None:
    seen: list[int] = []
    evaluate(
        lambda v: (LOGITS[: len(v)],), [batch("a"), batch("b", "c")], {"a": 0, "b": 1, "c": 2}, progress=seen.append
    )
    assert seen == [1, 3]
