"""Reading .npy and .npz files one item at a time: a .npy is mapped, a .npz is read as a stream.

numpy loads an array of a .npz whole. An array of 10,000 images is 6 GB, so the member is read here item by item, which
also works when it is compressed.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from intvit.errors import IntvitError

_NAMES = ("pixel_values", "images", "image", "x", "inputs", "input", "data", "arr_0")


def array_items(path: str | Path, skip: int = 0, stop: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """The items [skip:stop] of the first axis; an array of three axes is one item."""
    path = Path(path)
    if not path.is_file():
        raise IntvitError(f"{path}: no such file; check the path of the data")
    try:
        yield from _npz_items(path, skip, stop) if path.suffix == ".npz" else _npy_items(path, skip, stop)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise IntvitError(f"{path}: not a readable array file ({reason}); save it again with numpy.save") from error


def _npy_items(path: Path, skip: int, stop: int | None) -> Iterator[npt.NDArray[Any]]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    items = array[None] if array.ndim == 3 else array
    if items.ndim != 4:
        raise _wrong_shape(path, array.shape)
    for index in range(*slice(skip, stop).indices(len(items))):
        yield np.array(items[index])


def _npz_items(path: Path, skip: int, stop: int | None) -> Iterator[npt.NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        chosen = next((name for name in _NAMES if name in members), None)
        chosen = next(iter(members)) if chosen is None and len(members) == 1 else chosen
        if chosen is None:
            found = ", ".join(members) or "none"
            raise IntvitError(f"{path}: cannot tell which array holds the images (arrays: {found}); name it 'images'")
        with archive.open(members[chosen]) as stream:
            version = npy.read_magic(stream)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, column_major, dtype = header(stream)
            if dtype.hasobject:
                raise IntvitError(f"{path}: array {chosen} holds Python objects; save a numeric array")
            shape = (1, *shape) if len(shape) == 3 else shape
            if len(shape) != 4:
                raise _wrong_shape(path, shape)
            if column_major and shape[0] != 1:
                raise IntvitError(f"{path}: array {chosen} is column-major; save numpy.ascontiguousarray(images)")
            size = dtype.itemsize * int(np.prod(shape[1:]))
            for index in range(min(shape[0], shape[0] if stop is None else stop)):
                content = stream.read(size)
                if len(content) < size:
                    raise EOFError(f"it ends in item {index} of {shape[0]}")
                if index >= skip:
                    item = np.frombuffer(content, dtype)
                    yield item.reshape(shape[1:], order="F" if column_major else "C")


def _wrong_shape(path: Path, shape: tuple[int, ...]) -> IntvitError:
    return IntvitError(f"{path}: shape {list(shape)}; images are float32 [N, C, H, W] or uint8 [N, H, W, C]")
