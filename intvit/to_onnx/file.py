"""An integer model as an ONNX model: graph by profile, boundary as chosen, metadata, checks, and the file.

A model over 2 GB is two files (`external_data.py`). The second is put in place before `m.onnx`, which alone refers to
it, so that `m.onnx` is the new model or the one before and never half of each. Data of the one before are then removed.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference

from intvit._version import __version__
from intvit.errors import IntvitError, VerifyError
from intvit.files import write_atomically
from intvit.integer_model import IntegerModel
from intvit.nodes import outputs as outputs_of
from intvit.stages import IntGraph
from intvit.to_onnx.boundary import IMAGE
from intvit.to_onnx.external_data import data_name, remove_old_data, with_external_data, write_data
from intvit.to_onnx.integer import write_integer
from intvit.to_onnx.qdq import write_qdq
from intvit.to_onnx.scope import BATCH, OPSETS, Scope
from intvit.to_onnx.seal import seal
from intvit.to_onnx.sizes import name_sizes
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_onnx import prove_no_float_onnx
from intvit.verify.overflow import fake_values, prove_no_overflow

INTEGER, QDQ = "integer", "qdq"
OPSET = 21
TYPES = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}
LIMIT = 2**31 - 2**26
"""Bytes of weights in one file, which leaves room for the graph."""


@dataclass(frozen=True)
class OnnxFile:
    """A model that is ready to be saved; `operators` is how many it computes with, its functions inlined."""

    proto: onnx.ModelProto
    operators: int

    @property
    def weight_bytes(self) -> int:
        """Of all constants."""
        return sum(len(tensor.raw_data) for tensor in self.proto.graph.initializer)

    @property
    def bit_exact(self) -> bool:
        """Whether its integers are those of the reference."""
        return any(entry.key == "bit_exact" and entry.value == "true" for entry in self.proto.metadata_props)

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Writes `*.onnx`, and a data file where the weights are over `LIMIT`, whole or not at all.

        Returns what it wrote, which passed ONNX's full check. Raises `IntvitError` for another suffix, and where
        the path cannot be written.
        """
        if Path(path).suffix != ".onnx":
            raise IntvitError(f"{path}: the name of an exported model must end in .onnx")
        target = Path(os.path.realpath(path))  # a link stays a link, and the data lie beside the file
        if self.weight_bytes <= LIMIT:
            with write_atomically(target) as temporary:
                temporary.write_bytes(self.proto.SerializeToString())
                _check_file(temporary)
            files: tuple[Path, ...] = (target,)
        else:
            files = (target, self._save_split(target))
        remove_old_data(target, files)
        return files

    def _save_split(self, path: Path) -> Path:
        """Both files; returns that of the data."""
        name = data_name(path.name, self.proto)
        data = path.with_name(name)
        before = data.exists()
        try:
            with write_atomically(path) as temporary:
                temporary.write_bytes(with_external_data(self.proto, name).SerializeToString())
                written = temporary.with_name(name)
                write_data(self.proto, written)
                _check_file(temporary)
                with write_atomically(data) as temporary_data:
                    written.replace(temporary_data)
        except BaseException:
            if not before:
                data.unlink(missing_ok=True)
            raise
        return data


def export_onnx(
    model: IntegerModel,
    *,
    profile: str = INTEGER,
    keep_functions: bool = False,
    opset: int = OPSET,
    batch: int | None = None,
    image: str = "uint8",
    output: str | None = None,
    portable: bool = False,
) -> OnnxFile:
    """The ONNX model of an integer model: profile `integer` with the same integers, or `qdq`, which is not bit-exact.

    Its input `image` is uint8 `[batch, H, W, C]` or normalized float32 `[batch, C, H, W]`, for any batch or for `batch`
    images. Its outputs are integers of the reference's types (`int32`, the default of `integer`: int32 for logits,
    int16 for a tower's activations) or float32 (of `qdq`). `keep_functions` leaves every operation of the dialect a
    local function; `portable` writes products that ONNX Runtime computes exactly on x86 CPUs without VNNI too, slower
    elsewhere. Raises `IntvitError` for a choice that there is not, `VerifyError` where a proof fails.
    """
    check_choices(profile, keep_functions, opset, batch, image, output, portable)
    if not isinstance(model, IntegerModel):
        raise IntvitError(f"only an integer model can be exported, not {type(model).__name__}: make one with quantize")
    output = output or ("int32" if profile == INTEGER else "float32")
    prove_no_float(model.graph)
    prove_no_overflow(model.graph)
    scope = Scope.graph(opset, batch, keep_functions)
    if profile == INTEGER:
        names = write_integer(model, scope, image, output, portable)
    else:
        names = write_qdq(model, scope, image)
    channels, height, width = model.graph.input_grid.shape
    sides = (height, width, channels) if image == "uint8" else (channels, height, width)
    free = batch or BATCH
    dtypes = [output] * len(names) if output == "float32" else output_dtypes(model.graph)
    inputs = [helper.make_tensor_value_info(IMAGE, TYPES[image], [free, *sides])]
    outputs = [
        helper.make_tensor_value_info(name, TYPES[dtype], [free, *shape])
        for name, dtype, shape in zip(names, dtypes, model.metadata.output_shapes, strict=True)
    ]
    proto = scope.model(inputs, outputs, model.metadata.name)
    proto.producer_name, proto.producer_version = "intvit", __version__
    helper.set_model_props(proto, properties(model, profile))
    if batch is None:
        name_sizes(proto, BATCH)
    seal(proto)
    without_weights = with_external_data(proto, "data")
    operators = prove_no_float_onnx(without_weights) if profile == INTEGER else _check_shapes(without_weights)
    return OnnxFile(proto, operators)


def properties(model: IntegerModel, profile: str) -> dict[str, str]:
    """What travels in `metadata_props`; the labels once, and layers not at all, to stay small."""
    metadata = model.metadata
    small = replace(metadata, labels=None, layers=())
    preprocessing = None if metadata.preprocessing is None else metadata.preprocessing.to_dict()
    return {
        "name": metadata.name,
        "profile": profile,
        "bit_exact": "true" if profile == INTEGER else "false",
        "digest": model.digest,
        "intvit_version": __version__,
        "labels": json.dumps(metadata.labels),
        "preprocessing": json.dumps(preprocessing),
        "metadata": small.to_json(),
    }


def output_dtypes(graph: IntGraph) -> list[str]:
    """The types of the reference's outputs: int32 of a linear, which logits are, else int16."""
    values = fake_values(graph)
    return [str(values[node.name].dtype).removeprefix("torch.") for node in outputs_of(graph.module.graph)]


def check_choices(
    profile: str,
    keep_functions: bool,
    opset: int,
    batch: int | None,
    image: str,
    output: str | None,
    portable: bool,
) -> None:
    """Raises `IntvitError` where `export_onnx` has no such choice."""
    for said, value, choices in (
        ("profile", profile, (INTEGER, QDQ)),
        ("input type", image, ("uint8", "float32")),
        ("output type", output, (None, "int32", "float32")),
    ):
        if value not in choices:
            raise IntvitError(f"there is no {said} {value!r}: choose {' or '.join(filter(None, choices))}")
    if profile == QDQ and output == "int32":
        raise IntvitError("the profile qdq gives floats: its output type cannot be int32")
    for chosen, option in ((keep_functions, "keep_functions (--keep-functions)"), (portable, "portable (--portable)")):
        if profile == QDQ and chosen:
            raise IntvitError(f"{option} is for the profile integer: leave it out with qdq")
    if batch is not None and not (_is_whole(batch) and batch >= 1):
        raise IntvitError(f"a batch of {batch} is none: give a whole number, at least 1, or leave it free")
    if not (_is_whole(opset) and opset in OPSETS):
        raise IntvitError(
            f"opset {opset} is not supported: choose one from {OPSETS[0]} to {OPSETS[-1]}, or {OPSET} by leaving it out"
        )


def _is_whole(value: object) -> bool:
    """Whether it is an `int` that is meant as a number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check_shapes(proto: onnx.ModelProto) -> int:
    """All types and shapes are consistent; the number of operators. Raises `VerifyError`: the exporter is at fault."""
    try:
        shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # of the C++ library, which raises several kinds
        raise VerifyError(f"ONNX's shape inference refuses the model: {_first_line(error)}") from error
    return sum(node.op_type != "Constant" for node in proto.graph.node)


def _check_file(path: Path) -> None:
    """ONNX's full check, with shape inference. Raises `VerifyError`: the fault is the exporter's."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise VerifyError(f"ONNX's check refuses the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
