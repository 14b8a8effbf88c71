"""DeiT-Tiny in ONNX Runtime gives the reference's logits, bit for bit. Needs the folder in `INTVIT_DATA`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import session
from numpy.typing import NDArray

import intvit
from intvit.data import Source
from intvit.models import resolve
from intvit.preprocess import Preprocessing

pytest.importorskip("timm")

PROTOCOL = Preprocessing(size=(224, 224), resize=256)
CALIBRATE, SCORE = 16, 30


@pytest.fixture(scope="module")
def images(data_folder: Path) -> NDArray[np.uint8]:
    batches = Source(data_folder / "imagenet_val1300", PROTOCOL).batches(16, CALIBRATE + SCORE)
    return np.concatenate([batch.values for batch in batches])


@pytest.fixture(scope="module")
def model(data_folder: Path, images: NDArray[np.uint8]) -> intvit.IntegerModel:
    deit = resolve("timm:deit_tiny_patch16_224", data_folder / "deit_tiny_patch16_224.safetensors").module
    return intvit.quantize(deit, PROTOCOL.normalize(images[:CALIBRATE]), preprocessing=PROTOCOL)


@pytest.fixture(scope="module")
def exported(model: intvit.IntegerModel) -> onnx.ModelProto:
    return intvit.export(model).proto


def test_the_logits_are_the_reference(
    model: intvit.IntegerModel, exported: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    runtime = session(exported)
    pixels = images[CALIBRATE:]
    (wanted,) = model.integers(pixels)
    (together,) = runtime.run(None, {"image": pixels})
    alone = [runtime.run(None, {"image": pixels[i : i + 1]})[0] for i in range(SCORE)]
    assert np.array_equal(together, wanted)
    assert np.array_equal(np.concatenate(alone), wanted)
