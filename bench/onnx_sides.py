"""Who takes part where ONNX models are compared: what the runtimes make of a float model themselves, and our exports.

A side is a call on images that lie in memory, as it takes them: ours raw pixels, the others normalized floats. Every
side is made for one batch size: ours is exported for it, the others have their free dimension fixed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

import intvit
from intvit.bench.names import PEERS
from intvit.bench.onnx_peers import OnnxPeers
from intvit.bench.openvino_peers import OpenVinoPeers
from intvit.onnx_model import OnnxModel
from intvit.preprocess import Preprocessing

FLOAT, INT8, OPENVINO = "onnx-f32", "onnx-int8", "openvino-int8"
INTEGER, PORTABLE, QDQ, QDQ_OPENVINO = "integer", "integer-portable", "qdq", "qdq-openvino"
EXPORTS: dict[str, dict[str, Any]] = {
    INTEGER: {"profile": "integer"},
    PORTABLE: {"profile": "integer", "portable": True},
    QDQ: {"profile": "qdq"},
}
BIT_EXACT = (INTEGER, PORTABLE)
SIDES = {
    **{name: PEERS[name] for name in (FLOAT, INT8)},
    INTEGER: "`integer` in ONNX Runtime",
    PORTABLE: "`integer --portable` in ONNX Runtime",
    QDQ: "`qdq` in ONNX Runtime",
    OPENVINO: PEERS[OPENVINO],
    QDQ_OPENVINO: "`qdq` in OpenVINO",
}
PAIRS = ((INTEGER, FLOAT), (PORTABLE, FLOAT), (INTEGER, INT8), (QDQ, INT8), (QDQ_OPENVINO, OPENVINO))
"""Ours, and what it is set against."""

Call = Callable[[], Any]
"""Returns the outputs; the first holds the logits `[batch, classes]`."""


@dataclass(frozen=True)
class Images:
    """A batch of images, twice: uint8 `[B, H, W, C]`, and normalized float32 `[B, C, H, W]`."""

    pixels: NDArray[np.uint8]
    normalized: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> "Images":
        return cls(pixels, preprocessing.normalize(pixels))

    def fill(self, pixels: NDArray[np.uint8], normalized: NDArray[np.float32]) -> None:
        """Puts up to B images first, where every call on these finds them."""
        self.pixels[: len(pixels)], self.normalized[: len(pixels)] = pixels, normalized


@dataclass(frozen=True)
class Export:
    """One of our models as a file, and the seconds that exporting, checking and writing took."""

    path: Path
    operators: int
    seconds: float


class Sides:
    """All sides of one float module; exports lie in `folder`, and each is made once."""

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        calibration: NDArray[np.uint8],
        model: intvit.IntegerModel,
        folder: Path,
        threads: int,
    ) -> None:
        """`calibration`: images `[N, H, W, C]` for the runtimes' own quantizers; `model` is ours."""
        images = preprocessing.normalize(calibration)
        self.onnx, self.preprocessing, self.threads = OnnxPeers(module, images), preprocessing, threads
        self._openvino = OpenVinoPeers(module, images, self.onnx)
        self._model, self._folder = model, folder
        self._exports: dict[tuple[str, int | None], Export] = {}

    def export(self, name: str, batch: int | None = None) -> Export:
        """One of `EXPORTS` for so many images; for any number by default, as a user exports."""
        if (name, batch) not in self._exports:
            path = self._folder / f"{name}-{batch or 'any'}.onnx"
            start = time.perf_counter()
            made = intvit.export(self._model, batch=batch, **EXPORTS[name])
            made.save(path)
            self._exports[name, batch] = Export(path, made.operators, time.perf_counter() - start)
        return self._exports[name, batch]

    def load(self, name: str, batch: int | None = None) -> OnnxModel:
        """One of `EXPORTS` in ONNX Runtime."""
        return OnnxModel.load(self.export(name, batch).path, self.threads)

    def calls(self, images: Images) -> tuple[dict[str, Call], dict[str, str]]:
        """A call of each side on these images, and why others cannot run."""
        calls, skipped = {}, {}
        for name in SIDES:
            try:
                calls[name] = self._call(name, images)
            except intvit.IntvitError as error:
                skipped[name] = str(error)
        return calls, skipped

    def _call(self, name: str, images: Images) -> Call:
        if name in EXPORTS:
            model = self.load(name, len(images.pixels))
            if model.bit_exact:
                return lambda: model.integers(images.pixels)
            return lambda: (model(images.pixels),)
        if name == QDQ_OPENVINO:
            path = self.export(QDQ, len(images.pixels)).path
            return self._openvino.run_file(name, path, images.pixels, self.threads)
        peers = self._openvino if name == OPENVINO else self.onnx
        return peers.make(name.rpartition("-")[2], images.normalized, self.threads)
