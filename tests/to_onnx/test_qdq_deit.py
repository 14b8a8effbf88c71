"""DeiT-Tiny as `qdq` in the runtimes: nearer to float than their own quantizers come, on a part of the images.

Over 1200 images: `intvit/to_onnx/qdq/__init__.py`. Needs the folder in `INTVIT_DATA`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import intvit
from intvit.data import Source
from intvit.evaluation import cosines
from intvit.models import resolve
from intvit.preprocess import Preprocessing

pytest.importorskip("timm")
pytest.importorskip("onnx")

PROTOCOL = Preprocessing(size=(224, 224), resize=256)
CALIBRATE, SCORE, BATCH = 32, 48, 16
SIZE = 1.07
"""Of the file, to its int8 weights: scales and biases, tables and labels are 6 % in this small model."""


@pytest.fixture(scope="module")
def images(data_folder: Path) -> NDArray[np.uint8]:
    batches = Source(data_folder / "imagenet_val1300", PROTOCOL).batches(BATCH, CALIBRATE + SCORE)
    return np.concatenate([batch.values for batch in batches])


@pytest.fixture(scope="module")
def deit(data_folder: Path) -> torch.nn.Module:
    return resolve("timm:deit_tiny_patch16_224", data_folder / "deit_tiny_patch16_224.safetensors").module


@pytest.fixture(scope="module")
def path(deit: torch.nn.Module, images: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from intvit.to_onnx.file import export_onnx

    model = intvit.quantize(deit, PROTOCOL.normalize(images[:CALIBRATE]), preprocessing=PROTOCOL)
    path = tmp_path_factory.mktemp("qdq") / "deit.onnx"
    export_onnx(model, profile="qdq").save(path)
    weights = sum(buffer.numel() for buffer in model.graph.module.buffers() if buffer.dtype == torch.int8)
    assert path.stat().st_size <= SIZE * weights
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_is_near_float(runtime: str, path: Path, deit: torch.nn.Module, images: NDArray[np.uint8]) -> None:
    """One image of 48 may differ by chance, and one more."""
    package = pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        session = package.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        batches = [session.run(None, {"image": part})[0] for part in parts(images)]
    else:
        compiled = package.Core().compile_model(str(path), "CPU")
        batches = [compiled([part])[0] for part in parts(images)]
    with torch.inference_mode():
        exact = deit(torch.from_numpy(PROTOCOL.normalize(images[CALIBRATE:]))).numpy()
    got = np.concatenate(batches)
    assert (got.argmax(1) == exact.argmax(1)).mean() >= 0.95
    assert cosines(got, exact).mean() >= 0.99


def parts(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The images that are scored, in batches."""
    return np.split(images[CALIBRATE:], SCORE // BATCH)
