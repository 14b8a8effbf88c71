"""`patchify` against a convolution's own reading of the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.operation import OPERATIONS
from intvit.dialect.patchify import patchify
from intvit.ranges import Operand


@settings(max_examples=30, deadline=None)
@given(*[st.integers(1, 4)] * 5, st.integers(1, 3))
def test_rows_are_patches_of_centred_pixels(batch: int, down: int, across: int, h: int, w: int, channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (batch, down * h, across * w, channels), dtype=torch.uint8, generator=random)
    y = patchify(image, h, w)
    assert y.shape == (batch, down * across, h * w * channels)
    for token in range(down * across):
        top, left = token // across * h, token % across * w
        patch = image[:, top : top + h, left : left + w].reshape(batch, -1)
        assert torch.equal(y[:, token].to(torch.int32), patch.to(torch.int32) - 128)


def test_both_ends_of_a_pixel() -> None:
    assert patchify(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1), 1, 1).flatten().tolist() == [-128, 127]
    result = OPERATIONS["patchify"].ranges(Operand(0, 255, (1, 2, 2, 3)), 2, 2).result
    assert (result.low, result.high) == (-128, 127)


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 4, 5, 3), (4, 4, 3)])
def test_refuses_what_is_not_whole_patches(shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"whole number|must be"):
        OPERATIONS["patchify"].check(torch.zeros(shape, dtype=torch.uint8), 2, 2)
