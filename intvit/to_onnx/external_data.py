"""Constants in a second file beside the model: a protobuf message ends at 2 GB.

The file is named after its content, `m.onnx.<digits of its SHA-256>.data`, so that a new one never takes the place of
one that a model still refers to. Constants begin at multiples of a page and can be mapped into memory.
"""

import hashlib
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import TensorProto

SMALL = 1024
"""Bytes up to which a constant stays in the model, as does any single row of numbers: shape inference reads these."""
PAGE = 4096
DIGITS = 16
Proto = TypeVar("Proto", onnx.ModelProto, onnx.GraphProto)


def with_external_data(proto: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """The model with its large constants in the file `location`; nothing large is copied."""
    model = _copied(proto, "graph")
    model.graph.CopyFrom(_copied(proto.graph, "initializer"))
    places = {name: (offset, len(content)) for name, offset, content in _placed(proto)}
    for tensor in proto.graph.initializer:
        if tensor.name not in places:
            model.graph.initializer.append(tensor)
            continue
        offset, length = places[tensor.name]
        stored = model.graph.initializer.add(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            stored.external_data.add(key=key, value=value)
    return model


def _copied(source: Proto, skipped: str) -> Proto:
    """A message without one of its fields."""
    copy = type(source)()
    for descriptor, value in source.ListFields():
        if descriptor.name == skipped:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(copy, descriptor.name).MergeFrom(value)
        else:
            setattr(copy, descriptor.name, value)
    return copy


def _placed(proto: onnx.ModelProto) -> Iterator[tuple[str, int, bytes]]:
    """Name, offset in the data file and bytes of every constant that goes there."""
    offset = 0
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > SMALL and len(tensor.dims) > 1:
            yield tensor.name, offset, tensor.raw_data
            offset = -(-(offset + len(tensor.raw_data)) // PAGE) * PAGE


def write_data(proto: onnx.ModelProto, path: Path) -> None:
    """Writes the data file."""
    with path.open("wb") as stream:
        for _, offset, content in _placed(proto):
            stream.write(bytes(offset - stream.tell()))
            stream.write(content)


def data_name(file: str, proto: onnx.ModelProto) -> str:
    """The name of the data file of a model, which goes to a file of that name."""
    total = hashlib.sha256()
    for _, offset, content in _placed(proto):
        total.update(f"{offset} {len(content)} ".encode())
        total.update(content)
    return f"{file}.{total.hexdigest()[:DIGITS]}.data"


def remove_old_data(path: Path, keep: Container[Path]) -> None:
    """Removes data files of models that were at `path` before."""
    ours = re.compile(re.escape(path.name) + rf"\.[0-9a-f]{{{DIGITS}}}\.data")
    for file in path.parent.iterdir():
        if ours.fullmatch(file.name) and file not in keep:
            file.unlink(missing_ok=True)
