"""Training images by number, with their classes: read from their files when they are wanted, or kept as pixels."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.data import Source
from intvit.errors import IntvitError
from intvit.evaluation import check_labels
from intvit.images import labels_for
from intvit.input_grid import InputGrid

Pixels = NDArray[np.uint8]
Augment = Callable[[Pixels, np.random.Generator], Pixels]
"""Pixels `[H, W, C]` to others of that shape."""
Labels = Mapping[str, int] | Sequence[int] | NDArray[Any]
"""The class of each image, by its name or in their order."""


def flip(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """The image, or as often its mirror image."""
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


class Examples:
    """`len` images of a source; `labels` int64, or None."""

    def __init__(
        self,
        source: Source,
        grid: InputGrid,
        labels: Labels | None = None,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        """Raises `IntvitError` for data that cannot be read twice, and for images without a class."""
        if not source.repeatable:
            raise IntvitError(f"{source.name}: its images are wanted many times; give a list, a folder or a function")
        self._source, self._grid, self._augment, self._seed = source, grid, augment, seed
        self._kept: list[Pixels] = []
        if source.files is not None:
            names, own = _names(source, source.files), []
        else:
            items = list(source.items())
            self._kept = [self._pixels(item.values) for item in items]
            names = [item.name for item in items]
            own = [item.label for item in items if item.label is not None]
        self._count = len(names)
        self.labels = _classes(names, own, labels)

    def __len__(self) -> int:
        return self._count

    def require_classes(self, classes: int) -> None:
        """Raises `IntvitError` for a class that the model does not have."""
        if self.labels is not None:
            if self.labels.min() < 0:
                raise IntvitError(f"labels: class {self.labels.min()}, classes count from 0")
            check_labels(self.labels, np.empty((1, classes)))

    def pixels(self, indices: Sequence[int], epoch: int) -> Pixels:
        """uint8 `[N, H, W, C]`; an image is changed in the same way whichever process reads it."""
        return np.stack([self._changed(self._image(index), epoch, index) for index in indices])

    def _image(self, index: int) -> Pixels:
        if self._kept:
            return self._kept[index]
        return self._pixels(next(self._source.items(1, index)).values)

    def _pixels(self, values: NDArray[Any]) -> Pixels:
        pixels: Pixels = self._grid.pixels(values[None])[0]
        return pixels

    def _changed(self, image: Pixels, epoch: int, index: int) -> Pixels:
        if self._augment is None:
            return image
        changed = self._augment(image, np.random.default_rng((self._seed, epoch, index)))
        if changed.shape != image.shape or changed.dtype != np.uint8:
            raise IntvitError(f"augment: gave {changed.dtype} {list(changed.shape)} for uint8 {list(image.shape)}")
        return changed


def _names(source: Source, files: list[Path]) -> list[str]:
    """As the items of the source are called."""
    root = Path(source.name)
    return [file.relative_to(root).as_posix() if root.is_dir() else str(file) for file in files]


def _classes(names: list[str], own: list[int], labels: Labels | None) -> NDArray[np.int64] | None:
    """Of every image: those that are given, else those that come with all of the images."""
    if isinstance(labels, Mapping):
        return np.asarray(labels_for(names, labels), np.int64)
    if labels is None:
        return np.asarray(own, np.int64) if own and len(own) == len(names) else None
    found = np.asarray(labels)
    if found.shape != (len(names),) or not np.issubdtype(found.dtype, np.integer):
        raise IntvitError(f"labels: {found.dtype} {list(found.shape)} for {len(names)} images; give each one integer")
    return found.astype(np.int64)
