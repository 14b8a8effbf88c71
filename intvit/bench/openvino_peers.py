"""OpenVINO as a peer: float32, bfloat16, and int8 by NNCF's post-training quantization for transformers.

Each by the faster way into OpenVINO, as measured on DeiT-Tiny: floats from the torch module, which keeps attention one
operation (25.5 ms instead of 27.6), int8 from the ONNX graph, where the products of attention are quantized too (9.8
instead of 10.7). What int8 leaves in float runs at the precision that OpenVINO chooses: bfloat16 where the CPU has it.
OpenVINO chooses by the CPU alone, so where oneDNN is limited to instructions without bfloat16 float32 is chosen for it:
it would emulate (53 ms instead of 12).
"""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from intvit.bench.onnx_peers import OnnxPeers
from intvit.bench.packages import import_package, silenced
from intvit.errors import IntvitError

LEVELS_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA."""


class OpenVinoPeers:
    """Inference requests on one module."""

    def __init__(self, module: nn.Module, calibration: NDArray[np.float32], onnx: OnnxPeers) -> None:
        """`calibration`: normalized images `[N, C, H, W]`; `onnx` has the exported graph."""
        self._module, self._calibration, self._onnx = module, calibration, onnx
        self._models: dict[str, Any] = {}
        self._core: Any = None

    def make(self, precision: str, images: NDArray[np.float32], threads: int) -> Callable[[], object]:
        """`f32`, `bf16` or `int8` on `[batch, C, H, W]`; raises `IntvitError` where it cannot run."""
        return self._call(f"openvino-{precision}", precision, lambda: self._model(precision), images, threads)

    def run_file(self, name: str, path: Path, images: NDArray[Any], threads: int) -> Callable[[], object]:
        """A quantized ONNX model of any maker, called `name`, on images that it takes; it runs as `int8` does."""
        return self._call(name, "int8", lambda: self._core.read_model(path), images, threads)

    def save(self, path: Path) -> None:
        """Writes the int8 model to `path` (`*.xml`) and its weights beside it: by default floats become float16."""
        import_package("openvino", "openvino-int8").save_model(self._model("int8"), path)

    def _call(
        self, peer: str, precision: str, make: Callable[[], Any], images: NDArray[Any], threads: int
    ) -> Callable[[], object]:
        """A call of the model that `make` gives, its shape fixed to that of the images."""
        openvino = import_package("openvino", peer)
        self._core = self._core or openvino.Core()
        limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in LEVELS_WITHOUT_BF16
        capable = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and (limited or not capable):
            raise IntvitError(f"{peer} cannot run here: OpenVINO computes bfloat16 only where the CPU does")
        properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision != "int8" or limited:
            properties["INFERENCE_PRECISION_HINT"] = "f32" if precision == "int8" else precision
        try:
            model = make().clone()
            model.reshape(list(images.shape))
            request = self._core.compile_model(model, "CPU", properties).create_infer_request()
            request.infer([images], share_inputs=True, share_outputs=True)
        except IntvitError:
            raise
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise IntvitError(f"{peer} cannot run this model ({reason})") from error
        return lambda: request.infer([images], share_inputs=True, share_outputs=True)

    def _model(self, precision: str) -> Any:
        """The model with a free batch dimension, made once; both floats are one."""
        kind = "int8" if precision == "int8" else "float"
        if kind not in self._models:
            make = {"float": self._convert, "int8": self._quantize}[kind]
            with warnings.catch_warnings(), silenced():
                warnings.simplefilter("ignore")
                self._models[kind] = make()
        return self._models[kind]

    def _convert(self) -> Any:
        openvino = import_package("openvino", "openvino")
        example = torch.from_numpy(self._calibration[:1])
        with torch.inference_mode():
            return openvino.convert_model(self._module, example_input=example, input=[-1, *example.shape[1:]])

    def _quantize(self) -> Any:
        nncf = import_package("nncf", "openvino-int8")
        openvino = import_package("openvino", "openvino-int8")
        nncf.set_log_level(logging.ERROR)
        images = [image[None] for image in self._calibration]
        return nncf.quantize(
            openvino.convert_model(str(self._onnx.file("f32"))),
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
        )
