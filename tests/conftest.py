"""What several tests need: torchvision beside a CPU torch, no network, the measuring data, generated photographs."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest runs a process per core; read when torch is first imported
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")  # waiting threads leave the cores to other tests

from intvit.libraries import prepare_imports

prepare_imports()


def _importable(name: str, file: str) -> None:
    """Makes `tests/<file>` importable as `name`: a path to `tests` would also offer the bare name `kernels`."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / file)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_importable("tiny", "tiny.py")
_importable("moved", "moved.py")
_importable("windowed", "windowed.py")
_importable("gated", "gated.py")
_importable("normalized", "normalized.py")
_importable("mixed", "mixed.py")
_importable("biased", "biased.py")
_importable("logarithmic", "logarithmic.py")
_importable("coarse", "coarse.py")
_importable("spelled", "spelled.py")
_importable("families", "families.py")
_importable("sites", "passes/sites.py")
_importable("emulation", "emulation/__init__.py")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with DeiT-Tiny and 1300 images, which is not part of the project."""
    folder = os.environ.get("INTVIT_DATA")
    if not folder:
        pytest.skip("INTVIT_DATA is not set (the folder with deit_tiny_patch16_224.safetensors and imagenet_val1300/)")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


Photograph = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def photograph() -> Photograph:
    """`photograph(height, width, seed=0, mode="RGB")`, a generated picture."""
    return _photograph


def _photograph(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Something like a photograph: smooth colours, hard edges and a little noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, np.int32).copy()
    pixels[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 256, 3)
    pixels += random.integers(-12, 13, pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(random.integers(0, 256, (height, width), np.uint8)))
    return image.convert(mode)
