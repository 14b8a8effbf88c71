"""The demo's images, written by `train.py`: `calibration.npz`, and `held_out.npz` with its labels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION = Path(__file__).with_name("calibration.npz")
HELD_OUT = Path(__file__).with_name("held_out.npz")


def calibration() -> NDArray[np.uint8]:
    """Training images, uint8 `[100, 16, 16, 1]`."""
    return _arrays(CALIBRATION)["images"]


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images that training never saw, uint8 `[360, 16, 16, 1]`, and the digit that each one shows."""
    arrays = _arrays(HELD_OUT)
    return arrays["images"], arrays["labels"]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)
