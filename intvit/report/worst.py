"""The images on which an integer model is worst, as small pictures.

Against a float model: those with another predicted class first, then by the cosine of the logits, lowest first. With
labels alone: those that are wrong, the surest first. Without either there is no worst image.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intvit.preprocess import Preprocessing
from intvit.report.comparison import ImageResult

SIDE = 160
"""Of a picture on the page, at most, in pixels."""


@dataclass(frozen=True)
class Picture:
    """An image's result and its pixels as the model sees them."""

    result: ImageResult
    pixels: NDArray[np.uint8]


class Worst:
    """Keeps the worst `count` images of those that are shown to it, one batch after the other."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[tuple[float, float], Picture]] = []

    def add(self, results: Iterable[ImageResult], pixels: NDArray[np.uint8]) -> None:
        """A batch: the results and the images `[N, H, W, C]`, of which copies are kept."""
        for result, image in zip(results, pixels, strict=True):
            badness = rank(result)
            if badness is not None:
                self._kept.append((badness, Picture(result, image.copy())))
        self._kept.sort(key=lambda entry: entry[0])
        del self._kept[self._count :]

    def pictures(self) -> tuple[Picture, ...]:
        """The worst first."""
        return tuple(picture for _, picture in self._kept)


def rank(result: ImageResult) -> tuple[float, float] | None:
    """Sorts the worst first; None for an image with which nothing is known to be wrong."""
    if result.cosine is not None:
        return (1.0 if result.agrees is None else float(result.agrees), result.cosine)
    if result.label is not None and result.ours is not None and result.ours.first != result.label:
        return (0.0, -result.ours.probability)
    return None


def jpeg(pixels: NDArray[np.uint8], preprocessing: Preprocessing | None, side: int = SIDE) -> str:
    """A `data:` address of the picture `[H, W, C]` (1, 3 or any other number of channels), at most `side` wide."""
    from PIL import Image

    if preprocessing is not None and preprocessing.order == "bgr":
        pixels = pixels[..., ::-1]
    shown = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
