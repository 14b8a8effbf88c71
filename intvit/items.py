"""Single images out of whatever a user's loader yields, checked: the inside of `intvit.data`.

An entry may be a tensor, a batch, a (tensor, label) pair, a mapping with `pixel_values`, an open image or a path. What
comes out is one `Item` for each image, named so that an error can say which one it was.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from intvit.errors import IntvitError
from intvit.preprocess import Preprocessing

_TENSOR_KEYS = ("pixel_values", "images", "image", "inputs", "input", "x")
_LABEL_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Item:
    """One image: uint8 [H, W, C] from a picture, or float32 [C, H, W] from a tensor."""

    name: str
    values: npt.NDArray[Any]
    label: int | None = None


def flat_items(entries: Iterable[Any], preprocessing: Preprocessing | None) -> Iterator[Item]:
    """Items of single tensors, batches, (tensor, label) pairs, mappings, open images and paths."""
    number = itertools.count()
    for entry in entries:
        values, labels = _split(entry)
        if isinstance(values, (str, Path)):
            yield Item(f"{values}", required(preprocessing).load(values), next(iter(_integers(labels)), None))
            next(number)
            continue
        if isinstance(values, Image.Image):
            name = f"item {next(number)}"
            yield Item(name, required(preprocessing).transform(values, name), next(iter(_integers(labels)), None))
            continue
        array = _as_array(values)
        if array.ndim not in (3, 4):
            expected = "[C, H, W] or [N, C, H, W] (uint8: [H, W, C] or [N, H, W, C])"
            raise IntvitError(f"data: item {next(number)} has shape {list(array.shape)}; expected {expected}")
        group = array if array.ndim == 4 else array[None]
        classes = _integers(labels)
        for index, single in enumerate(group):
            name = f"item {next(number)}"
            yield Item(name, as_item_values(single, name), classes[index] if len(classes) == len(group) else None)


def _split(entry: Any) -> tuple[Any, Any]:
    """The tensor of an entry, and its label if there is one."""
    if isinstance(entry, Mapping):
        key = next((key for key in _TENSOR_KEYS if key in entry), None)
        if key is None:
            raise IntvitError(
                f"data: a mapping with the keys {', '.join(map(str, entry))}; name the tensor 'pixel_values'"
            )
        return entry[key], next((entry[key] for key in _LABEL_KEYS if key in entry), None)
    if isinstance(entry, (list, tuple)):
        if not entry:
            raise IntvitError("data: an empty tuple where a tensor or (tensor, label) is expected")
        return entry[0], entry[1] if len(entry) > 1 else None
    return entry, None


def _as_array(values: Any) -> npt.NDArray[Any]:
    """A numpy array of a numpy or torch tensor, on whatever device and of whatever float type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    if not hasattr(values, "__array__"):
        raise IntvitError(f"data: an item is a {type(values).__name__}; expected a tensor, an array or (tensor, label)")
    return np.asarray(values)


def as_item_values(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """uint8 as it is, any float as float32; other integers are a mistake."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        advice = "give normalized float32 [C, H, W] or raw uint8 [H, W, C]"
        raise IntvitError(f"{name}: dtype {array.dtype}; {advice}")
    return np.asarray(array, np.float32)


def _integers(labels: Any) -> list[int]:
    """Class indices as a list; anything else than integers is no label."""
    if labels is None:
        return []
    array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    return [int(value) for value in array.reshape(-1)] if array.dtype.kind in "iu" and array.ndim < 2 else []


def check_item(
    item: Item, shape: tuple[int, int, int] | None, dtype: np.dtype[Any] | None
) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Refuse another shape or kind than expected, NaN and infinity; return what the next item has to be."""
    got = item.values.shape if item.values.dtype != np.uint8 else (item.values.shape[-1], *item.values.shape[:-1])
    if shape is None and got[0] in (1, 3):
        shape = got[0], got[1], got[2]
    if shape is None or got != shape:
        raw = item.values.dtype == np.uint8
        want = "channels " + ("last" if raw else "first")
        if shape is not None:
            want = str([*shape[1:], shape[0]] if raw else list(shape))
        raise IntvitError(
            f"{item.name}: {item.values.dtype} of shape {list(item.values.shape)}, expected {want}; "
            "float tensors are [C, H, W], uint8 images [H, W, C]"
        )
    if dtype is not None and dtype != item.values.dtype:
        raise IntvitError(f"{item.name}: {item.values.dtype} after {dtype}; give one kind of data")
    if item.values.dtype != np.uint8 and not np.isfinite(item.values).all():
        raise IntvitError(f"{item.name}: holds NaN or infinity; remove it or mend what made it")
    return shape, item.values.dtype


def required(preprocessing: Preprocessing | None) -> Preprocessing:
    """The preprocessing, without which pictures cannot become input."""
    if preprocessing is None:
        raise IntvitError(
            "data: these are images, and the model's preprocessing is not known; pass one (resize, mean, std)"
        )
    return preprocessing
