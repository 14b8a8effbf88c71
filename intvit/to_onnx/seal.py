"""A digest of what an exported model holds, by which `intvit verify` finds a file that was changed afterwards.

It is an entry of `metadata_props`, a SHA-256 of the nodes, functions and constants, the inputs and outputs, the
versions of the operators and all other entries. It is the same wherever the constants are stored, in the model or
beside it. It finds damage and edits; it is no signature, since whoever edits a file can write another digest.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, external_data_helper

from intvit.errors import IntvitError, VerifyError

SEAL = "sha256_of_content"
CONTENT = ("raw_data", "external_data", "data_location")


def seal(proto: onnx.ModelProto) -> None:
    """Adds the digest to a model whose constants are in it."""
    proto.metadata_props.add(key=SEAL, value=content_digest(proto))


def check_unchanged(proto: onnx.ModelProto, path: Path) -> None:
    """Raises `VerifyError` where the model of the file `path` is not as it was exported.

    Raises `IntvitError` where the file of its constants beside it cannot be read.
    """
    said = [entry.value for entry in proto.metadata_props if entry.key == SEAL]
    if not said:
        raise VerifyError(f"{path} has no digest of its content ({SEAL}): export it again")
    if said != [content_digest(proto, path.resolve().parent)]:
        raise VerifyError(f"{path} was changed after it was exported: its content does not fit its digest ({SEAL})")


def content_digest(proto: onnx.ModelProto, folder: Path | None = None) -> str:
    """In hexadecimal; `folder` is where constants lie that are not in the model. Reads one constant at a time."""
    total = hashlib.sha256()
    for part in _parts(proto, folder):
        total.update(f"{len(part)} ".encode())
        total.update(part)
    return total.hexdigest()


def _parts(proto: onnx.ModelProto, folder: Path | None) -> Iterator[bytes]:
    """What is sealed, each kind behind its name."""
    graph = proto.graph
    properties = [entry for entry in proto.metadata_props if entry.key != SEAL]
    for kind, messages in (
        ("opsets", proto.opset_import),
        ("functions", proto.functions),
        ("inputs", graph.input),
        ("outputs", graph.output),
        ("nodes", graph.node),
        ("sparse constants", graph.sparse_initializer),
        ("properties", properties),
    ):
        yield kind.encode()
        for message in messages:
            yield message.SerializeToString(deterministic=True)
    yield b"constants"
    for tensor in graph.initializer:
        stored = _stored(tensor, folder)
        described = TensorProto()
        described.CopyFrom(stored)
        for name in CONTENT:
            described.ClearField(name)
        yield described.SerializeToString(deterministic=True)
        yield stored.raw_data


def _stored(tensor: TensorProto, folder: Path | None) -> TensorProto:
    """The tensor with its bytes, which may be in another file."""
    if folder is None or not external_data_helper.uses_external_data(tensor):
        return tensor
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    try:
        external_data_helper.load_external_data_for_tensor(loaded, str(folder))
    except Exception as error:  # of the C++ library, of the system, or of a damaged entry
        raise IntvitError(f"the constant {tensor.name} cannot be read from its file beside the model") from error
    return loaded
