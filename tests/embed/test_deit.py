"""The logits of DeiT-Tiny from C programs for other processors. Needs the folder in `INTVIT_DATA`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import intvit
from intvit.data import Source
from intvit.models import resolve
from intvit.preprocess import Preprocessing

PROTOCOL = Preprocessing(size=(224, 224), resize=256)
CALIBRATE, RUN = 8, 2

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def images(data_folder: Path) -> NDArray[np.uint8]:
    source = Source(data_folder / "imagenet_val1300", PROTOCOL)
    return next(iter(source.batches(CALIBRATE + RUN, CALIBRATE + RUN))).values


@pytest.fixture(scope="module")
def model(data_folder: Path, images: NDArray[np.uint8]) -> intvit.IntegerModel:
    deit = resolve("timm:deit_tiny_patch16_224", data_folder / "deit_tiny_patch16_224.safetensors").module
    return intvit.quantize(deit, PROTOCOL.normalize(images[:CALIBRATE]), preprocessing=PROTOCOL)


@pytest.mark.parametrize("target", ["aarch64", "aarch64-dotprod", "riscv64"])
def test_the_logits_are_those_of_the_reference(
    target: str, machine: Callable[[str], Any], model: intvit.IntegerModel, images: NDArray[np.uint8]
) -> None:
    pixels = images[CALIBRATE:]
    status, printed, written = machine(target).outputs(model, pixels, ".o")
    assert status == 0, printed
    np.testing.assert_array_equal(np.fromfile(written, np.int32).reshape(RUN, -1), model(pixels, raw=True))
