"""Modules for this machine's GPU against the reference, bit for bit. Each runs in a process of its own.

Other tests put an emulated driver into theirs.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from vits import MODELS, integer_model

import intvit
from intvit.cuda.toolkit import find_compiler
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel
from intvit.models import resolve
from intvit.preprocess import Preprocessing

pytestmark = pytest.mark.gpu

PREPROCESSING = Preprocessing(size=(224, 224), resize=256)
BATCHES = (1, 3, 50)
FIND = """
import ctypes
count = ctypes.c_int()
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError:
    raise SystemExit("no NVIDIA driver: libcuda.so.1 is missing")
if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
    raise SystemExit("the NVIDIA driver finds no GPU")
"""
ON_HOST = """
import sys
import numpy as np
from intvit.cuda.compilation import write_cuda_module
from intvit.cuda.runtime import CudaModel
from intvit.integer_model import IntegerModel
from pathlib import Path

folder = Path(sys.argv[1])
write_cuda_module(IntegerModel.load(folder / "model.intvit"), folder / "model.so", "cuda")
model = CudaModel.load(folder / "model.so")
images = np.load(folder / "images.npz")
found = {}
for turn in range(3):
    for name in images:
        outputs = model(images[name], raw=True)
        for i, y in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
            found[f"{name} {turn} {i}"] = y
np.savez(folder / "found.npz", **found)
"""
ON_GPU = """
import sys
import numpy as np
import torch
from intvit.cuda.compilation import write_cuda_module
from intvit.cuda.runtime import CudaModel
from intvit.integer_model import IntegerModel
from pathlib import Path

folder = Path(sys.argv[1])
write_cuda_module(IntegerModel.load(folder / "model.intvit"), folder / "model.so", "cuda")
model = CudaModel.load(folder / "model.so")
images = np.load(folder / "images.npz")
found = {}
for turn in range(3):
    with torch.cuda.stream(torch.cuda.Stream() if turn else torch.cuda.current_stream()):
        for name in images:
            outputs = model(torch.from_numpy(images[name]).cuda(), raw=True)
            for i, y in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
                assert y.is_cuda
                found[f"{name} {turn} {i}"] = y.cpu().numpy()
np.savez(folder / "found.npz", **found)
"""


@pytest.fixture(scope="module")
def gpu() -> None:
    """Skips where there is none, or nothing to compile for it with."""
    done = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    try:
        find_compiler()
    except IntvitError as error:
        pytest.skip(str(error))


def deit() -> IntegerModel:
    """DeiT-Tiny's shapes in two blocks, with random weights."""
    pytest.importorskip("timm")
    images = PREPROCESSING.normalize(np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8))
    module = resolve("timm:deit_tiny_patch16_224", "random", depth=2).module
    return intvit.quantize(module, images, calib=4, preprocessing=PREPROCESSING)


MADE: dict[str, Callable[[], IntegerModel]] = {
    **{name: lambda name=name: integer_model(name) for name in MODELS},
    "deit": deit,
}


def pixels(model: IntegerModel, count: int) -> NDArray[np.uint8]:
    channels, height, width = model.metadata.input_grid.shape
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("code", [ON_HOST, ON_GPU], ids=["arrays", "tensors"])
@pytest.mark.parametrize("name", MADE)
def test_the_integers_of_the_reference(name: str, code: str, tmp_path: Path) -> None:
    """Again and again, with batches whose plans differ, from the host's memory and from the GPU's."""
    if code is ON_GPU and not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    model = MADE[name]()
    images = {str(batch): pixels(model, batch) for batch in BATCHES}
    model.save(tmp_path / "model.intvit")
    np.savez(tmp_path / "images.npz", **images)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    wanted = {batch: model.integers(x) for batch, x in images.items()}
    assert len(found) == 3 * sum(map(len, wanted.values()))
    for key in found:
        batch, _, index = key.split()
        np.testing.assert_array_equal(found[key], wanted[batch][int(index)], err_msg=key)
