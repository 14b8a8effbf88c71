"""How every integer model is called, whatever runs it: images in, float32 or raw integers out. numpy only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.errors import IntvitError
from intvit.metadata import Metadata

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One kernel of a run: what it computes, its multiply-adds, and the time it took."""

    name: str
    path: str
    multiply_adds: int
    seconds: float


class Model(ABC):
    """An integer model: `IntegerModel` runs the reference, `CompiledModel` a TVM module, with the same integers."""

    metadata: Metadata

    def integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        """The integer outputs of uint8 images `[batch, H, W, C]`; raises `IntvitError` for an empty batch."""
        require_images(pixels)
        return self._integers(pixels)

    @abstractmethod
    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        """The integer outputs of at least one image."""

    def __call__(self, images: Any, *, raw: bool = False) -> Any:
        """Runs a batch of images: normalized float32 `[batch, C, H, W]` or raw uint8 `[batch, H, W, C]`.

        Takes numpy arrays and whatever has `__array__` or `__dlpack__` (torch tensors). Returns float32 (the integers
        times their one scale), the integers with `raw=True`; a tuple where the model has several outputs. Raises
        `IntvitError` for any other shape or dtype, and for an empty batch.
        """
        pixels = self.metadata.input_grid.pixels(as_array(images))
        outputs = self.integers(pixels)
        if not raw:
            scales = self.metadata.output_scales
            outputs = tuple((q * s).astype(np.float32) for q, s in zip(outputs, scales, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs


def require_images(pixels: NDArray[np.uint8]) -> None:
    """Raises `IntvitError` for a batch without images."""
    if not len(pixels):
        raise IntvitError("the batch is empty: give at least one image")


def as_array(images: Any) -> Array:
    """A numpy array of a tensor of any library, without a copy where that can be."""
    if isinstance(images, np.ndarray):
        return images
    if hasattr(images, "detach"):
        images = images.detach().cpu()
    if hasattr(images, "__array__"):
        return np.asarray(images)
    if hasattr(images, "__dlpack__"):
        return np.from_dlpack(images)
    raise IntvitError(f"images must be an array or a tensor, not {type(images).__name__}")
