"""The boundary from a normalized float image to the uint8 pixels that an integer model reads. numpy only.

A pixel `p` stands for the normalized value `scale · p + offset` of its channel. Where images come from files that is
`scale = 1 / (255 std)`, `offset = -mean / std`: the integers are the pixels themselves and nothing is rounded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.errors import IntvitError
from intvit.preprocess import Preprocessing


@dataclass(frozen=True)
class InputGrid:
    """Per-channel scale and offset of pixels, and the image's `[channels, height, width]`.

    `takes_pixels` tells whether its integers are the pixels of 8-bit images, so that raw images may be given.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    shape: tuple[int, int, int]
    takes_pixels: bool = True

    @classmethod
    def of_pixels(cls, preprocessing: Preprocessing, shape: tuple[int, int, int]) -> "InputGrid":
        """Of 8-bit images, `(pixel · rescale - mean) / std`."""
        pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
        return cls(tuple(preprocessing.rescale / std for _, std in pairs), tuple(-m / std for m, std in pairs), shape)

    @classmethod
    def of_range(cls, low: float, high: float, shape: tuple[int, int, int]) -> "InputGrid":
        """Of float images between `low` and `high` that do not come from pixels."""
        step = max(high - low, 1e-12) / 255
        return cls((step,) * shape[0], (low,) * shape[0], shape, takes_pixels=False)

    def holds(self, images: NDArray[np.float32], tolerance: float = 0.02) -> bool:
        """Whether normalized images lie on this grid: they came from 8-bit pixels."""
        exact = self._pixels(images)
        nearest = np.clip(np.rint(exact), 0, 255)
        return bool(np.abs(exact - nearest).max(initial=0) <= tolerance)

    def _pixels(self, images: NDArray[Any]) -> NDArray[np.float64]:
        scale = np.asarray(self.scale).reshape(-1, 1, 1)
        offset = np.asarray(self.offset).reshape(-1, 1, 1)
        pixels: NDArray[np.float64] = (images - offset) / scale
        return pixels

    def pixels(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        """uint8 `[N, H, W, C]` of raw pixels in that layout, or of normalized floats `[N, C, H, W]`.

        Raises `IntvitError` for any other dtype or shape, and for NaN or inf.
        """
        self.require(str(images.dtype), images.shape)
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images)
        require_finite(np.isfinite(images).all())
        nearest = np.clip(np.rint(self._pixels(images)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(nearest.transpose(0, 2, 3, 1))

    def require(self, dtype: str, shape: tuple[int, ...]) -> None:
        """Raises `IntvitError` for images that are not what `pixels` takes, of any array library."""
        channels, height, width = self.shape
        if dtype == "uint8" and not self.takes_pixels:
            raise IntvitError("this model was calibrated on float arrays, not on 8-bit images: give float32 images")
        if dtype not in ("uint8", "float32"):
            raise IntvitError(f"images must be float32 (normalized) or uint8 (raw), not {dtype}: cast them first")
        wanted = (height, width, channels) if dtype == "uint8" else (channels, height, width)
        if len(shape) != 4 or shape[1:] != wanted:
            raise IntvitError(f"{dtype} images must be [batch, {', '.join(map(str, wanted))}], not {list(shape)}")

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The float images `[N, C, H, W]` that `pixels` `[N, H, W, C]` stand for."""
        real = pixels * np.asarray(self.scale) + np.asarray(self.offset)
        return np.ascontiguousarray(real.transpose(0, 3, 1, 2).astype(np.float32))


def require_finite(finite: object) -> None:
    """Raises `IntvitError` unless `finite`, a truth value of any array library, is true."""
    if not finite:
        raise IntvitError("images hold NaN or inf: check the preprocessing")
