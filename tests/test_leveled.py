"""Attention with logarithmic weights in float arithmetic, and the steps that suit a softmax."""

import pytest
import torch

from intvit import floatops
from intvit.leveled import UNITS, at_levels, distances, leveled_attention
from intvit.softmax_distances import SoftmaxDistances
from intvit.softmax_levels import SoftmaxLevels

GENERATOR = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(2, 12, 8, generator=GENERATOR) for _ in range(3))
BIAS = torch.randn(2, 2, 6, 6, generator=GENERATOR)
FORMS = [(2, 0.5), (2, (0.5, 0.7)), (2, 0.5, 2), (2, 0.5, 2, BIAS, (1, 0))]


@pytest.mark.parametrize("form", FORMS)
def test_fine_levels_are_exact_attention(form: tuple[object, ...]) -> None:
    exact = floatops.attention(Q, K, V, *form)  # type: ignore[arg-type]
    found = leveled_attention(SoftmaxLevels(1, 1 << 20), Q, K, V, *form)  # type: ignore[arg-type]
    assert torch.allclose(found, exact, atol=1e-2)
    assert not torch.equal(found, exact)


def test_a_masked_key_has_no_weight() -> None:
    bias = torch.zeros(1, 1, 12, 12)
    bias[..., 5:] = -torch.inf
    found = leveled_attention(SoftmaxLevels(64, 16), Q, K, V, 2, 0.5, 1, bias, (0,))
    assert torch.allclose(found, leveled_attention(SoftmaxLevels(64, 16), Q, K[:, :5], V[:, :5], 2, 0.5), atol=1e-6)


def test_weights_are_the_codes_of_a_logarithm() -> None:
    below = torch.linspace(0, 3000, 1001)
    found = at_levels(below, SoftmaxLevels(128, 16))
    assert len(found.unique()) == 16 and found[0] == 1 and found[-1] == 0
    kept = found > 0
    assert float((torch.log2(found[kept]) * UNITS + below[kept]).abs().max()) <= 64


def test_the_gradient_is_that_of_exact_weights() -> None:
    gradients = []
    for attention in (floatops.attention, lambda *x: leveled_attention(SoftmaxLevels(1, 1 << 20), *x)):
        q = Q.clone().requires_grad_()
        attention(q, K, V, 2, 0.5).square().sum().backward()
        gradients.append(q.grad)
    assert torch.allclose(*gradients, atol=0.05)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_best_step_is_no_worse_than_others(sharpness: float) -> None:
    below = distances(Q, K, 2, sharpness)
    observer = SoftmaxDistances()
    for row in below.split(1):
        observer.update(row)
    exact = torch.exp2(below / -UNITS)
    share = exact.sum(-1, keepdim=True)

    def error(levels: SoftmaxLevels) -> float:
        return float(((at_levels(below, levels) - exact) / share).square().sum())

    best = observer.best(16)
    assert all(error(best) <= 1.05 * error(SoftmaxLevels(step, 16)) for step in (16, 32, 64, 128, 256, 512))


def test_sharper_rows_have_larger_steps() -> None:
    found = []
    for sharpness in (0.2, 5.0):
        observer = SoftmaxDistances()
        observer.update(distances(Q, K, 2, sharpness))
        found.append(observer.best(16).step)
    assert found[0] < found[1]
