"""Images or tensors for calibration and evaluation, one batch at a time: memory does not grow with their number.

A source is a folder of images, an array file, an iterable of tensors, a DataLoader, or a function that returns one of
them. Images come out as the uint8 [N, H, W, C] that the integer model takes, with `normalized` making the float model's
input of them; tensors come out as float32 [N, C, H, W]. torch is not needed: its tensors are known by their methods.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from intvit.arrays import array_items
from intvit.errors import IntvitError
from intvit.images import image_files
from intvit.items import Item, as_item_values, check_item, flat_items, required
from intvit.preprocess import Preprocessing

_log = logging.getLogger("intvit")


@dataclass(frozen=True)
class Batch:
    """Consecutive items: uint8 [N, H, W, C] or float32 [N, C, H, W], with their names and labels."""

    values: npt.NDArray[Any]
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    preprocessing: Preprocessing | None = None

    def normalized(self) -> npt.NDArray[np.float32]:
        """The float model's input."""
        if self.values.dtype != np.uint8:
            return self.values
        if self.preprocessing is None:
            raise IntvitError("data: uint8 images become the float model's input by a preprocessing; pass one")
        return self.preprocessing.normalize(self.values)


class Source:
    """Data read in batches, more than once unless it is a one-time iterator (`repeatable` says)."""

    def __init__(
        self, data: Any, preprocessing: Preprocessing | None = None, shape: tuple[int, int, int] | None = None
    ) -> None:
        """`shape` is the (C, H, W) of the model's input; by default that of the preprocessing, or of the first item."""
        if shape is None and preprocessing is not None:
            shape = (preprocessing.channels, *preprocessing.size)
        self.preprocessing, self.shape = preprocessing, shape
        self.files = _files(data)
        self.name = str(data) if isinstance(data, (str, Path)) else f"data ({type(data).__name__})"
        self.repeatable = not isinstance(data, Iterator)
        self._open = _opener(data, self.files, preprocessing)

    @property
    def count(self) -> int | None:
        """The number of images where it is known without reading them (image files)."""
        return None if self.files is None else len(self.files)

    def items(self, count: int | None = None, skip: int = 0) -> Iterator[Item]:
        """Up to `count` checked items after the first `skip`; none is an error, fewer than asked a warning."""
        shape, dtype, given = self.shape, None, 0
        for item in self._open(skip, None if count is None else skip + count):
            shape, dtype = check_item(item, shape, dtype)
            given += 1
            yield item
        if given == 0:
            reason = f"nothing is left after skipping {skip}" if skip else "it gave no images"
            advice = "give more images" if self.repeatable else "an iterator gives its items once, pass a function"
            raise IntvitError(f"{self.name}: {reason}; {advice}")
        if count is not None and given < count:
            _log.warning("%s: %d images asked for, %d found; going on with these", self.name, count, given)

    def batches(self, batch: int = 1, count: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """The items in groups of `batch`, the last one perhaps smaller."""
        if batch < 1 or skip < 0 or (count is not None and count < 1):
            raise IntvitError(f"batch={batch}, count={count}, skip={skip}: batch and count start at 1, skip at 0")
        items = self.items(count, skip)
        while group := list(itertools.islice(items, batch)):
            values = np.stack([item.values for item in group])
            names, labels = tuple(item.name for item in group), tuple(item.label for item in group)
            yield Batch(values, names, labels, self.preprocessing)


def batches(
    data: Any, preprocessing: Preprocessing | None, count: int | None = None, batch: int = 1, skip: int = 0
) -> Iterator[npt.NDArray[np.float32]]:
    """Only the float model's inputs, float32 [N, C, H, W]."""
    source = data if isinstance(data, Source) else Source(data, preprocessing)
    return (group.normalized() for group in source.batches(batch, count, skip))


Opener = Callable[[int, int | None], Iterable[Item]]


def _files(data: Any) -> list[Path] | None:
    """The image files of a folder, of one path or of a list of paths; None for everything else."""
    if isinstance(data, (str, Path)):
        if Path(data).suffix not in (".npy", ".npz") or Path(data).is_dir():
            return image_files(data)
        if not Path(data).is_file():
            raise IntvitError(f"{data}: no such file; check the path of the data")
        return None
    if isinstance(data, (list, tuple)) and data and all(isinstance(entry, (str, Path)) for entry in data):
        return [Path(entry) for entry in data]
    return None


def _opener(data: Any, files: list[Path] | None, preprocessing: Preprocessing | None) -> Opener:
    """What iterates over the items [skip:stop] of the data, from its beginning each time where it can."""
    if files is not None:
        root = Path(data) if isinstance(data, (str, Path)) and Path(data).is_dir() else None
        loader = required(preprocessing)

        def read(file: Path) -> Item:
            return Item(str(file) if root is None else file.relative_to(root).as_posix(), loader.load(file))

        return lambda skip, stop: map(read, files[skip:stop])
    if isinstance(data, (str, Path)):
        path = Path(data)

        def read_arrays(skip: int, stop: int | None) -> Iterator[Item]:
            for index, array in enumerate(array_items(path, skip, stop), skip):
                yield Item(f"{path}[{index}]", as_item_values(array, f"{path}[{index}]"))

        return read_arrays
    if hasattr(data, "__array__") or isinstance(data, (Mapping, Image.Image)):
        data = [data]
    if isinstance(data, Iterable):
        return lambda skip, stop: itertools.islice(flat_items(data, preprocessing), skip, stop)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a torch Dataset
        entries = range(len(data))
        return lambda skip, stop: itertools.islice(
            flat_items(map(data.__getitem__, entries), preprocessing), skip, stop
        )
    if callable(data):

        def call(skip: int, stop: int | None) -> Iterable[Item]:
            returned = data()
            return _opener(returned, _files(returned), preprocessing)(skip, stop)

        return call
    forms = "a folder of images, a .npy or .npz file, an iterable of tensors, a DataLoader, or a function returning one"
    raise IntvitError(f"data: cannot read images from {type(data).__name__}; give {forms}")
