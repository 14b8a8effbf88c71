"""The integer model as a file: `*.intvit`, a safetensors container with the graph as JSON in its header. No pickle.

    __metadata__.graph      [{"name", "op": "intvit::linear", "args": [{"node": ...} | {"tensor": ...} | number |
    text | list of these]}] __metadata__.outputs    names of the output nodes
    __metadata__.metadata   `Metadata` as JSON
    __metadata__.nibbles    {name: shape} of the weights that are stored as 4-bit integers, two to a byte
    __metadata__.digest     SHA-256 over all of these and every tensor's name, dtype, shape and bytes

A linear layer's int8 weights take half of their bytes if all fit 4 bits: neighbours share one, the first in its low
half (`intvit.nibbles`). Files without such weights have format 1, which older versions read too.

A file loads bit for bit as it was saved, or not at all: any changed byte changes the digest or breaks the container.
"""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx

from intvit import nibbles
from intvit.dialect import OPERATIONS, operation_of
from intvit.errors import IntvitError
from intvit.files import write_atomically
from intvit.metadata import Metadata
from intvit.stages import IntGraph

PLAIN, PACKED = "1", "2"
"""Formats: of files with all tensors as they are, and of those with 4-bit weights."""


def save(graph: IntGraph, metadata: Metadata, path: Path) -> None:
    """Writes `path`, whole or not at all."""
    header, tensors = _content(graph, metadata)
    tensors = {name: _alone(tensor) for name, tensor in tensors.items()}
    header["digest"] = digest(header, tensors)
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor without what it may be a part of: a file holds each tensor's memory once."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def load(path: Path) -> tuple[IntGraph, Metadata]:
    """Reads what `save` wrote. Raises `IntvitError` for a missing, damaged or foreign file."""
    header, tensors = _read(path)
    if "digest" not in header or "graph" not in header:
        raise IntvitError(f"{path}: not an intvit model (no graph in its header): make one with `intvit quantize`")
    if header.get("format") not in (PLAIN, PACKED):
        raise IntvitError(f"{path}: format {header.get('format')} needs another version of intvit")
    if digest(header, tensors) != header["digest"]:
        raise IntvitError(f"{path}: damaged, its digest does not fit its content: copy or make it again")
    metadata = Metadata.from_json(header["metadata"])
    packed = json.loads(header.get("nibbles", "{}"))
    tensors |= {name: _apart(tensors[name], shape) for name, shape in packed.items()}
    module = _module(json.loads(header["graph"]), json.loads(header["outputs"]), tensors)
    graph = IntGraph.of(module, metadata.input_grid, metadata.output_scales, metadata.output_shapes)
    return graph, metadata


def stored_digest(graph: IntGraph, metadata: Metadata) -> str:
    """The digest that a file of this model has."""
    return digest(*_content(graph, metadata))


def _content(graph: IntGraph, metadata: Metadata) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header without its digest, and the tensors as they are stored."""
    tensors = dict(graph.module.named_buffers())
    packed = [name for name in _weights(graph.module.graph) if name in tensors and nibbles.fit(tensors[name].numpy())]
    nodes, outputs = _encoded(graph.module.graph)
    header = {
        "format": PACKED if packed else PLAIN,
        "graph": json.dumps(nodes),
        "outputs": json.dumps(outputs),
        "metadata": metadata.to_json(),
    }
    if packed:
        header["nibbles"] = json.dumps({name: list(tensors[name].shape) for name in packed})
    return header, tensors | {name: _together(tensors[name]) for name in packed}


def _weights(graph: fx.Graph) -> list[str]:
    """The names of the weights of linear layers, each once."""
    linear = OPERATIONS["linear"].call
    return sorted({str(node.args[1].target) for node in graph.find_nodes(op="call_function", target=linear)})


def _together(tensor: Tensor) -> Tensor:
    """Entries in order, two to a byte; behind the last of an odd number there is a zero."""
    flat = np.pad(tensor.numpy().ravel(), (0, tensor.numel() % 2))
    return torch.from_numpy(nibbles.together(flat[::2], flat[1::2]))


def _apart(packed: Tensor, shape: list[int]) -> Tensor:
    """What `_together` was given."""
    flat = np.stack(nibbles.apart(packed.numpy()), 1).ravel()
    return torch.from_numpy(flat[: prod(shape)].reshape(shape))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    try:
        _check_padding(path)
        with safe_open(path, framework="pt") as container:
            return dict(container.metadata() or {}), {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise IntvitError(f"{path}: damaged or not an intvit model ({str(error).splitlines()[0]})") from error


def _check_padding(path: Path) -> None:
    """The header ends in `}` and spaces: other whitespace there is a changed byte that JSON does not see."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > path.stat().st_size or not stream.read(size).rstrip(b" ").endswith(b"}"):
            raise ValueError("its header is cut or padded with other bytes than spaces")


def digest(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the header's entries (without the digest) and the tensors."""
    total = hashlib.sha256()
    for name in sorted(set(header) - {"digest"}):
        total.update(json.dumps([name, header[name]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def _encoded(graph: fx.Graph) -> tuple[list[dict[str, Any]], list[str]]:
    nodes: list[dict[str, Any]] = []
    outputs: list[str] = []
    for node in graph.nodes:
        if node.op == "call_function":
            operation = operation_of(node.target)
            assert operation is not None, f"{node.target} in an integer graph"
            arguments = [_encoded_argument(a) for a in node.args]
            nodes.append(
                {"name": node.name, "op": operation.qualified, "path": node.meta.get("path", ""), "args": arguments}
            )
        elif node.op == "output":
            outputs = [value.name for value in node.args[0]]
    return nodes, outputs


def _encoded_argument(argument: Any) -> Any:
    if isinstance(argument, fx.Node):
        return {"tensor": argument.target} if argument.op == "get_attr" else {"node": argument.name}
    return [_encoded_argument(a) for a in argument] if isinstance(argument, list | tuple) else argument


def _module(nodes: list[dict[str, Any]], outputs: list[str], tensors: dict[str, Tensor]) -> fx.GraphModule:
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        root.register_buffer(name, tensor)
    graph = fx.Graph()
    made: dict[str, fx.Node] = {"image": graph.placeholder("image")}
    operations = {operation.qualified: operation.call for operation in OPERATIONS.values()}
    for entry in nodes:
        if entry["op"] not in operations:
            raise IntvitError(
                f"the model uses {entry['op']}, which this version of intvit does not know: upgrade intvit"
            )
        arguments = tuple(_decoded_argument(a, graph, made) for a in entry["args"])
        node = graph.create_node("call_function", operations[entry["op"]], arguments, name=entry["name"])
        node.meta["path"] = entry["path"]
        made[entry["name"]] = node
    graph.output(tuple(made[name] for name in outputs))
    return fx.GraphModule(root, graph)


def _decoded_argument(argument: Any, graph: fx.Graph, made: dict[str, fx.Node]) -> Any:
    if isinstance(argument, list):
        return [_decoded_argument(a, graph, made) for a in argument]
    if not isinstance(argument, dict):
        return argument
    return graph.get_attr(argument["tensor"]) if "tensor" in argument else made[argument["node"]]
