"""The peers by name, all made of one float module: what a user of that module would run instead of ours."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from intvit.bench.onnx_peers import OnnxPeers
from intvit.bench.openvino_peers import OpenVinoPeers
from intvit.bench.torch_peers import TorchPeers

CALIBRATION_IMAGES = 4


class Peers:
    """Makes calls on one float module, in eval mode; int8 peers are calibrated once, on a few images."""

    def __init__(self, module: nn.Module, calibration: NDArray[np.float32]) -> None:
        """`calibration`: normalized images `[N, C, H, W]`."""
        onnx = OnnxPeers(module, calibration[:CALIBRATION_IMAGES])
        self._makers: dict[str, TorchPeers | OnnxPeers | OpenVinoPeers] = {
            "torch": TorchPeers(module),
            "onnx": onnx,
            "openvino": OpenVinoPeers(module, calibration[:CALIBRATION_IMAGES], onnx),
        }

    def make(self, name: str, images: NDArray[np.float32], threads: int) -> Callable[[], object]:
        """The call of peer `name` on images `[batch, C, H, W]`; raises `IntvitError` where it cannot run, with why."""
        library, _, form = name.partition("-")
        return self._makers[library].make(form, images, threads)
