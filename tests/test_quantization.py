"""`intvit.quantize` from Python: every kind of data, names, labels, and what is refused before any work is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit.errors import IntvitError
from intvit.preprocess import Preprocessing

PREPROCESSING = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
FLOATS = PREPROCESSING.normalize(tiny.pixels(6))


def saved(folder: Path) -> Path:
    np.save(folder / "images.npy", FLOATS)
    return folder / "images.npy"


def zipped(folder: Path) -> Path:
    np.savez(folder / "images.npz", images=FLOATS)
    return folder / "images.npz"


DATA: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: FLOATS,
    "tensor": lambda folder: torch.from_numpy(FLOATS),
    "list": lambda folder: list(FLOATS),
    "npy": saved,
    "npz": zipped,
    "loader": lambda folder: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(FLOATS)), 4),
    "function": lambda folder: lambda: iter(FLOATS),
}


@pytest.fixture(scope="module")
def expected() -> str:
    return intvit.quantize(tiny.vit(), FLOATS, calib=6, preprocessing=PREPROCESSING).digest


@pytest.mark.parametrize("kind", DATA)
def test_the_kind_of_the_data_changes_nothing(kind: str, tmp_path: Path, expected: str) -> None:
    model = intvit.quantize(tiny.vit(), DATA[kind](tmp_path), calib=6, preprocessing=PREPROCESSING)
    assert model.digest == expected


@pytest.mark.parametrize("kind", [kind for kind in DATA if kind != "function"])
def test_arrays_tell_their_shape(kind: str, tmp_path: Path) -> None:
    model = intvit.quantize(tiny.vit(), DATA[kind](tmp_path), calib=6)
    assert model.metadata.input_grid.shape == (3, 32, 32)


def test_memory_of_the_name_and_labels() -> None:
    model = intvit.quantize(tiny.vit(), FLOATS, calib=6, name="mine", labels=list("abcdefghij"))
    assert model.metadata.name == "mine" and model.metadata.labels == tuple("abcdefghij")
    assert intvit.quantize(tiny.vit(), FLOATS, calib=6).metadata.name == "TinyViT"


def test_the_same_where_the_caller_wants_no_gradients() -> None:
    model, expected = tiny.vit(), intvit.quantize(tiny.vit(), FLOATS, calib=6).digest
    with torch.inference_mode():
        assert intvit.quantize(model, FLOATS, calib=6).digest == expected
    with torch.no_grad():
        assert intvit.quantize(model, FLOATS, calib=6).digest == expected


def test_a_module_may_hold_its_own_preprocessing() -> None:
    module = tiny.vit()
    module.preprocessing = PREPROCESSING  # type: ignore[assignment]
    model = intvit.quantize(module, FLOATS, calib=6)
    assert model.metadata.preprocessing == PREPROCESSING and model.metadata.input_grid.takes_pixels


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "labels": (lambda folder: FLOATS, {"labels": ["one"]}, "1 class names, but the model has 10 classes"),
    "preset": (lambda folder: FLOATS, {"preset": "papr"}, "unknown preset 'papr': choose default, accurate or paper"),
    "observer": (lambda folder: FLOATS, {"observer": "max"}, "unknown observer 'max'"),
    "whole codebook": (lambda folder: FLOATS, {"codebook": "tangent"}, "fewer than 8 bits: give bits such as W4A4"),
    "codebook": (lambda folder: FLOATS, {"codebook": "log"}, "unknown codebook 'log': choose kmeans or tangent"),
    "nothing": (lambda folder: [], {}, "it gave no images"),
    "raw pixels": (lambda folder: tiny.pixels(2), {}, "raw uint8 images need a preprocessing"),
    "nan": (lambda folder: np.full_like(FLOATS, np.nan), {}, "NaN or inf"),
    "no file": (lambda folder: folder / "none.npy", {}, "none.npy: no such file"),
    "empty folder": (lambda folder: folder, {"preprocessing": PREPROCESSING}, "the folder is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_line(case: str, tmp_path: Path) -> None:
    data, options, message = REFUSED[case]
    with pytest.raises(IntvitError, match=message) as caught:
        intvit.quantize(tiny.vit(), data(tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_named() -> None:
    module = tiny.vit()
    with torch.no_grad():
        module.blocks[1].fc1.weight[3, 2] = torch.nan
    with pytest.raises(IntvitError, match=r"blocks\.1\.fc1\.weight"):
        intvit.quantize(module, FLOATS)
