"""The integer model as a file: `*.intvit`, a safetensors container with the graph as JSON in its header. No pickle.

    __metadata__.graph      [{"name", "op": "intvit::linear", "args": [{"node": ...} | {"tensor": ...} | number |
    text | list of these]}] __metadata__.outputs    names of the output nodes
    __metadata__.metadata   `Metadata` as JSON
    __metadata__.digest     SHA-256 over all of these and every tensor's name, dtype, shape and bytes

A file loads bit for bit as it was saved, or not at all: any changed byte changes the digest or breaks the container.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx

from intvit.dialect import OPERATIONS, operation_of
from intvit.errors import IntvitError
from intvit.files import write_atomically
from intvit.metadata import Metadata
from intvit.stages import IntGraph

FORMAT = "1"


def save(graph: IntGraph, metadata: Metadata, path: Path) -> None:
    """Writes `path`, whole or not at all."""
    tensors = {name: _alone(tensor) for name, tensor in graph.module.named_buffers()}
    header = _header(graph.module.graph, metadata)
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
    if header.get("format") != FORMAT:
        raise IntvitError(f"{path}: format {header.get('format')} needs another version of intvit")
    if digest(header, tensors) != header["digest"]:
        raise IntvitError(f"{path}: damaged, its digest does not fit its content: copy or make it again")
    metadata = Metadata.from_json(header["metadata"])
    module = _module(json.loads(header["graph"]), json.loads(header["outputs"]), tensors)
    graph = IntGraph.of(module, metadata.input_grid, metadata.output_scales, metadata.output_shapes)
    return graph, metadata


def stored_digest(graph: IntGraph, metadata: Metadata) -> str:
    """The digest that a file of this model has."""
    return digest(_header(graph.module.graph, metadata), dict(graph.module.named_buffers()))


def _header(graph: fx.Graph, metadata: Metadata) -> dict[str, str]:
    nodes, outputs = _encoded(graph)
    return {
        "format": FORMAT,
        "graph": json.dumps(nodes),
        "outputs": json.dumps(outputs),
        "metadata": metadata.to_json(),
    }


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
