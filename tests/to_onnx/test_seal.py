"""The digest of an exported model: every change of its content is found, where its constants lie is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import intvit
from intvit.errors import IntvitError, VerifyError

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'intvit[onnx]'")

from intvit.to_onnx import file as onnx_file  # noqa: E402
from intvit.to_onnx.external_data import SMALL  # noqa: E402
from intvit.to_onnx.seal import SEAL, check_unchanged, content_digest  # noqa: E402
from intvit.verify.no_float_onnx import read_model  # noqa: E402


def exported(keep_functions: bool = False) -> Any:
    """The tiny model."""
    return intvit.export(tiny.integer_model(), keep_functions=keep_functions).proto


def _rename(proto: Any) -> None:
    proto.graph.initializer[0].name += "_"


def _retype(proto: Any) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8)
    tensor.data_type = onnx.TensorProto.UINT8


def _reshape(proto: Any) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
    tensor.dims.reverse()


def _swap(proto: Any) -> None:
    first, second, *_ = proto.graph.node
    keep = onnx.NodeProto()
    keep.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(keep)


def _flip(proto: Any) -> None:
    tensor = proto.graph.initializer[-1]
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def _scale(proto: Any) -> None:
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "metadata")
    entry.value = entry.value.replace("1", "2", 1)


def _label(proto: Any) -> None:
    proto.metadata_props.add(key="labels of another", value="[]")


def _function(proto: Any) -> None:
    del proto.functions[0].node[-1]


def _opset(proto: Any) -> None:
    proto.opset_import[0].version += 1


def _output(proto: Any) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT16


@pytest.mark.parametrize(
    "change", [_rename, _retype, _reshape, _swap, _flip, _scale, _label, _function, _opset, _output]
)
def test_every_change_is_found(change: Callable[[Any], None]) -> None:
    proto = exported(keep_functions=change is _function)
    check_unchanged(proto, Path("m.onnx"))
    change(proto)
    with pytest.raises(VerifyError, match=r"^m\.onnx was changed after it was exported"):
        check_unchanged(proto, Path("m.onnx"))


def test_it_is_the_same_each_time() -> None:
    first, second = exported(), exported()
    assert content_digest(first) == content_digest(second)
    assert [entry.value for entry in first.metadata_props if entry.key == SEAL] == [content_digest(second)]


def test_a_file_without_one() -> None:
    proto = exported()
    (entry,) = (entry for entry in proto.metadata_props if entry.key == SEAL)
    proto.metadata_props.remove(entry)
    with pytest.raises(VerifyError, match="has no digest of its content"):
        check_unchanged(proto, Path("m.onnx"))


def test_constants_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", SMALL)
    path, data = intvit.export(tiny.integer_model()).save(tmp_path / "m.onnx")
    check_unchanged(read_model(path), path)
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with pytest.raises(VerifyError, match="was changed"):
        check_unchanged(read_model(path), path)
    data.unlink()
    with pytest.raises(IntvitError, match="cannot be read from its file beside the model"):
        check_unchanged(read_model(path), path)
