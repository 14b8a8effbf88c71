"""ONNX Runtime as a peer: float32, and int8 as Q/DQ nodes around matrix products and convolutions.

The graph has a free batch dimension that each session fixes, so that the runtime optimizes for one shape. Calibration
is min-max, weights are int8 per channel, activations uint8: with int8 activations its integer product is slow.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from intvit.bench.packages import import_package, silenced
from intvit.errors import IntvitError

OPSET = 17
"""The first with LayerNormalization, and as fast as 20 (with Gelu): the runtime fuses both itself."""
ERRORS_ONLY = 3
INPUT, BATCH = "image", "batch"


class OnnxPeers:
    """Sessions on one module; its files live as long as this object."""

    def __init__(self, module: nn.Module, calibration: NDArray[np.float32]) -> None:
        """`calibration`: normalized images `[N, C, H, W]`."""
        self._module, self._calibration = module, calibration
        self._folder = tempfile.TemporaryDirectory(prefix="intvit-onnx-")
        self._files: dict[str, Path] = {}

    def make(self, precision: str, images: NDArray[np.float32], threads: int) -> Callable[[], object]:
        """`f32` or `int8` on `[batch, C, H, W]`; raises `IntvitError` where it cannot run."""
        runtime = import_package("onnxruntime", f"onnx-{precision}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = ERRORS_ONLY
        options.add_free_dimension_override_by_name(BATCH, len(images))
        try:
            file = str(self.file(precision))
            session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            call = _bound(session, images)
            call()
        except IntvitError:
            raise
        except Exception as error:  # the runtime's own exceptions have no common base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IntvitError(f"onnx-{precision} cannot run this model ({reason})") from error
        return call

    def file(self, precision: str) -> Path:
        """The exported graph, made once."""
        if precision not in self._files:
            import_package("onnx", f"onnx-{precision}")
            make = {"f32": self._export, "int8": self._quantize}[precision]
            with warnings.catch_warnings(), silenced():
                warnings.simplefilter("ignore")
                self._files[precision] = make(Path(self._folder.name) / f"{precision}.onnx")
        return self._files[precision]

    def _export(self, path: Path) -> Path:
        torch.onnx.export(
            self._module,
            (torch.from_numpy(self._calibration[:1]),),
            str(path),
            input_names=[INPUT],
            dynamic_axes={INPUT: {0: BATCH}},
            opset_version=OPSET,
            dynamo=False,  # the other exporter needs one more package
        )
        return path

    def _quantize(self, path: Path) -> Path:
        quantization = import_package("onnxruntime.quantization", "onnx-int8")
        shapes = import_package("onnxruntime.quantization.shape_inference", "onnx-int8")
        prepared = path.with_name("prepared.onnx")
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the quantizer logs on the root logger
        try:
            # symbolic inference stops at reshapes whose rank it cannot tell, and its shapes are not needed
            shapes.quant_pre_process(str(self.file("f32")), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(path),
                _Images(self._calibration),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        finally:
            root.setLevel(level)
        return path


class _Images:
    """Calibration images one at a time, as the quantizer asks for them."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}


def _bound(session: Any, images: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: session.run(None, {INPUT: images})
