"""`patchify`: a uint8 image to one row of centred pixels per patch; a patch embedding is then a `linear`.

    uint8 [B, H, W, C]  ->  int8 [B, (H/ph)·(W/pw), ph·pw·C]      value = pixel - 128, row order (y, x, channel)

Mean, deviation and the offset 128 fold into the weights and bias of the `linear` that follows, so that the raw image
enters the first product without any rounding.
"""

import torch
from torch import Tensor

from intvit.dialect.operation import operation, require, require_dtype
from intvit.ranges import Operand, Ranges


def _check(image: Tensor, height: int, width: int) -> Tensor:
    require_dtype("image", image, torch.uint8)
    require(image.ndim == 4, "image must be [batch, height, width, channels]")
    batch, h, w, channels = image.shape
    require(h % height == 0 and w % width == 0, f"image {h}x{w} is not a whole number of {height}x{width} patches")
    return image.new_empty(batch, (h // height) * (w // width), height * width * channels, dtype=torch.int8)


def _ranges(image: Operand, height: int, width: int) -> Ranges:
    return Ranges(image - 128, {"pixel": image - 128})


@operation(check=_check, ranges=_ranges)
def patchify(image: Tensor, height: int, width: int) -> Tensor:
    """Patches of `height` x `width` pixels, row by row."""
    batch, h, w, channels = image.shape
    grid = image.to(torch.int32).reshape(batch, h // height, height, w // width, width, channels)
    return (grid.transpose(2, 3).reshape(batch, -1, height * width * channels) - 128).to(torch.int8)
