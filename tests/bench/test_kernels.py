"""A profile added up by kernel and layer."""

import pytest

from intvit.bench.kernels import by_kernel
from intvit.model import Step


def test_layers_that_differ_in_numbers_are_one() -> None:
    steps = [
        Step("product", "blocks.0.mlp.fc1", 100, 0.25),
        Step("layernorm", "blocks.0.norm1", 0, 0.5),
        Step("product", "blocks.11.mlp.fc1", 100, 0.75),
        Step("product", "head", 10, 0.5),
    ]
    found = by_kernel(steps)
    assert [(k.name, k.layer, k.calls, k.multiply_adds, k.seconds, k.share) for k in found] == [
        ("product", "blocks.*.mlp.fc1", 2, 200, 1.0, 0.5),
        ("layernorm", "blocks.*.norm1", 1, 0, 0.5, 0.25),
        ("product", "head", 1, 10, 0.5, 0.25),
    ]
    assert [k.rate for k in found] == [200, 0, 20]


def test_digits_within_a_name_stay() -> None:
    assert by_kernel([Step("product", "layers.3.fc12", 1, 1.0)])[0].layer == "layers.*.fc12"


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_kernels_too_fast_to_be_timed(seconds: float) -> None:
    (found,) = by_kernel([Step("select_tokens", "", 5, seconds)])
    assert found.rate == (5 / seconds if seconds else 0)


def test_nothing() -> None:
    assert by_kernel([]) == []
