"""Small models need few steps."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from intvit.rounding import model


@pytest.fixture(autouse=True, scope="package")
def few_steps() -> Iterator[None]:
    """Trains the roundings of a block for 30 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "RECIPE", replace(model.RECIPE, steps=30))
        yield
