"""Moments against torch's covariance, with weights as with rows that are there several times."""

import pytest
import torch

from intvit.rounding import statistics
from intvit.rounding.statistics import moments
from intvit.rounding.target import RIDGE, target

X = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)) + 3
Y = torch.randn(300, 4, generator=torch.Generator().manual_seed(1)) - X[:, :4]


def test_against_the_covariance() -> None:
    found = moments(X, Y)
    covariance = torch.cov(torch.cat([X, Y], 1).T.double(), correction=0)
    assert torch.allclose(found.xx, covariance[:7, :7], atol=1e-5)
    assert torch.allclose(found.yx, covariance[7:, :7], atol=1e-5)
    assert torch.allclose(found.x_mean, X.double().mean(0)) and torch.allclose(found.y_mean, Y.double().mean(0))


def test_a_weight_is_a_number_of_rows() -> None:
    weight = torch.arange(300) % 3
    found, repeated = moments(X, Y, weight), moments(X.repeat_interleave(weight, 0), Y.repeat_interleave(weight, 0))
    for name in ("xx", "yx", "x_mean", "y_mean"):
        assert torch.allclose(getattr(found, name), getattr(repeated, name), atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = moments(X, Y)
    monkeypatch.setattr(statistics, "CHUNK", 17)
    assert torch.allclose(moments(X, Y).xx, whole.xx, atol=1e-5)


def test_the_target_undoes_what_happened_to_the_input() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    mixing = torch.eye(7) + 0.1 * torch.randn(7, 7, generator=torch.Generator().manual_seed(3))
    changed = X @ mixing.T + 1
    found = moments(changed, X @ weight.T)
    assert torch.allclose(target(weight, found, 1e-9) @ mixing, weight, atol=1e-3)
    assert torch.allclose(target(weight, found, 1e9), weight, atol=1e-3)


def test_a_layer_whose_input_is_as_it_was_keeps_its_weights() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(target(weight, moments(X, X @ weight.T + 2), RIDGE), weight, atol=1e-4)
