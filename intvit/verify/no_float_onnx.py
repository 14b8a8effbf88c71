"""The proof that an ONNX model computes in integers between its boundary tensors, with standard operators alone.

Local functions are inlined and types inferred; then every tensor of the graph and of the graphs inside its nodes is
integer or boolean, by a type that is known. Constants and the tensors and numbers in attributes count too. An operator
must be one of `INTEGER_OPERATORS`: one that takes and gives integers may still compute in floating point (`Pow`).

Two places may be float, and these are all:

    input     a float32 image, and the nodes from it to the one uint8 tensor that holds the pixels. Each is one of
              `TO_PIXELS` (elementwise, or a change of layout) on the image, all its other operands being constants.
    output    for each float32 output its final scale: `Mul(Cast(q), s)` or `DequantizeLinear(q, s)` of integers `q`
              that the integer part gives, `s` one constant number, and at most a `Reshape` of it

No other node may read a tensor of these two places, except the pixels.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, shape_inference

from intvit.errors import IntvitError, VerifyError

INTEGERS = frozenset(
    {
        *(TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.UINT32),
        *(TensorProto.INT32, TensorProto.UINT64, TensorProto.INT64, TensorProto.BOOL),
        *(TensorProto.UINT4, TensorProto.INT4),
    }
)
INTEGER_OPERATORS = frozenset(
    {
        *("Abs", "Add", "Clip", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Sign", "Sub"),
        *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "And", "Not", "Or", "Xor"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where"),
        *("ConvInteger", "CumSum", "MatMul", "MatMulInteger"),
        *("ArgMax", "ArgMin", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "Identity", "Range", "Shape", "Size"),
        *(
            "Concat",
            "Expand",
            "Flatten",
            "Pad",
            "Reshape",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        ),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "If", "Loop"),
    }
)
"""Those whose definition on integers is integer arithmetic."""
TO_PIXELS = frozenset(
    {
        *("Add", "Cast", "Clip", "Div", "Floor", "Max", "Min", "Mul", "QuantizeLinear", "Round", "Sub"),
        *("Identity", "Reshape", "Transpose"),
    }
)
STANDARD = ("", "ai.onnx")
SHOWN = 5


def prove_no_float_onnx(model: onnx.ModelProto | str | Path) -> int:
    """Proves it of a model, or of the model in a file, whose external data need not be there.

    Returns the number of operators between the boundary tensors. Raises `VerifyError` with the nodes and tensors that
    are float, of unknown type or not standard, `IntvitError` for a file that holds no ONNX model.
    """
    proto = model if isinstance(model, onnx.ModelProto) else read_model(Path(model))
    graph = _inferred(proto).graph
    types = _types(graph, {})
    boundary = _Boundary(graph, types)
    inside = [node for node in graph.node if id(node) not in boundary.nodes]
    faults = [
        *boundary.faults,
        *_tensors_at_fault(graph, types, boundary.tensors),
        *_nodes_at_fault(inside, types, boundary.tensors),
    ]
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        shown = "\n  ".join(faults[:SHOWN] + more)
        raise VerifyError(f"{len(faults)} places of the ONNX model are or may be float:\n  {shown}")
    return sum(not _is(node, "Constant") for node in inside)


def read_model(path: Path) -> onnx.ModelProto:
    """The model in a file, without its external data; raises `IntvitError`."""
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, which differs between its implementations
        raise IntvitError(f"{path}: damaged or not an ONNX model") from error


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions, and with the types that can be told; `VerifyError` where they contradict."""
    try:
        inlined = inliner.inline_local_functions(model)
        inferred = shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # of the C++ library, which raises several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VerifyError(f"the types of the ONNX model cannot be inferred: {reason}") from error
    if inferred.functions:
        names = ", ".join(function.name for function in inferred.functions)
        raise VerifyError(f"the ONNX model keeps functions that cannot be inlined: {names}")
    return inferred


def _types(graph: onnx.GraphProto, outer: Mapping[str, int]) -> dict[str, int]:
    """Element type by the name of every tensor whose type is known; 0 where it is no tensor."""
    types = dict(outer)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {sparse.values.name: sparse.values.data_type for sparse in graph.sparse_initializer}
    return types


class _Boundary:
    """The nodes (by `id`) and tensors that may be float, and what is wrong with them.

    Only these nodes may read these tensors.
    """

    def __init__(self, graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
        self.nodes: set[int] = set()
        self.tensors: set[str] = set()
        self.faults: list[str] = []
        self._types = types
        self._constants = _constants(graph)
        self._producers = {name: node for node in graph.node for name in node.output}
        images = [value.name for value in graph.input if types[value.name] == TensorProto.FLOAT]
        if len(images) > 1:
            self.faults.append(f"{len(images)} inputs are float: {', '.join(images)}")
        elif images:
            self._enter(graph, images[0])
        for value in graph.output:
            if types[value.name] == TensorProto.FLOAT:
                self._leave(value.name)
            elif value.name in self.tensors:
                self.faults.append(f"{value.name}: an output that is made of the float image alone")

    def _enter(self, graph: onnx.GraphProto, image: str) -> None:
        """From the image forward, to the first uint8 tensor."""
        self.tensors.add(image)
        pixels = []
        for node in graph.node:
            others = [name for name in node.input if name and name not in self.tensors]
            one = sum(name in self.tensors for name in node.input) == 1
            if not one or not _is(node, *TO_PIXELS) or not all(name in self._constants for name in others):
                continue
            self._allow(node)
            if self._types.get(node.output[0]) == TensorProto.UINT8:
                self.tensors.discard(node.output[0])
                pixels.append(node.output[0])
        if len(pixels) != 1:
            self.faults.append(f"{image}: leads to {len(pixels)} uint8 tensors of pixels, not to one")

    def _leave(self, output: str) -> None:
        """From a float output backward, to the integers that it is a multiple of."""
        nodes = self._scaling(output)
        integers = nodes[-1].input[0] if nodes else ""
        if integers in self.tensors or self._types.get(integers) not in INTEGERS:
            self.faults.append(f"{output}: is float and not the product of an integer tensor and one number")
            return
        for node in nodes:
            self._allow(node)

    def _scaling(self, output: str) -> list[onnx.NodeProto]:
        """The nodes from a float output back to its cast from integers; none where they do anything else."""
        nodes: list[onnx.NodeProto] = []
        node = self._producers.get(output)
        if _is(node, "Reshape") and node.input[1] in self._constants:
            nodes.append(node)
            node = self._producers.get(node.input[0])
        if not _is(node, "Mul", "DequantizeLinear"):
            return []
        nodes.append(node)
        scales = [self._constants[name] for name in node.input if name in self._constants and self._float(name)]
        if scales != [1]:
            return []
        if _is(node, "Mul"):
            (factor,) = (name for name in node.input if name not in self._constants)
            cast = self._producers.get(factor)
            return [*nodes, cast] if _is(cast, "Cast") else []
        return nodes

    def _allow(self, node: onnx.NodeProto) -> None:
        """The node, what it gives, and its float constants, with the nodes that hold them."""
        self.nodes.add(id(node))
        self.tensors.update(node.output)
        for name in node.input:
            if name in self._constants and self._float(name):
                self.tensors.add(name)
                if name in self._producers:
                    self.nodes.add(id(self._producers[name]))

    def _float(self, name: str) -> bool:
        return self._types.get(name) in (TensorProto.FLOAT, TensorProto.DOUBLE)


def _is(node: onnx.NodeProto | None, *kinds: str) -> TypeGuard[onnx.NodeProto]:
    """A standard operator, one of these."""
    return node is not None and node.domain in STANDARD and node.op_type in kinds


def _constants(graph: onnx.GraphProto) -> dict[str, int]:
    """How many numbers each constant has, by name."""
    sizes = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if _is(node, "Constant") and node.attribute:
            value = helper.get_attribute_value(node.attribute[0])
            sizes[node.output[0]] = prod(value.dims) if isinstance(value, TensorProto) else np.size(value)
    return sizes


def _tensors_at_fault(graph: onnx.GraphProto, types: Mapping[str, int], allowed: Container[str]) -> Iterator[str]:
    """Inputs, outputs, constants and intermediates of one graph that are no integers."""
    producers = {name: node for node in graph.node for name in node.output if name}
    stored = [tensor.name for tensor in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    described = [value.name for value in (*graph.input, *graph.value_info, *graph.output)]
    for name in dict.fromkeys([*described, *stored, *producers]):
        if name not in allowed and types.get(name) not in INTEGERS:
            yield f"{_where(producers.get(name))}gives {name}: {_called(types.get(name))}"


def _nodes_at_fault(
    nodes: Iterable[onnx.NodeProto], types: Mapping[str, int], forbidden: Container[str]
) -> Iterator[str]:
    """Operators that may compute in floating point, what they read, and what their attributes and inner graphs hold."""
    for node in nodes:
        if node.domain not in STANDARD:
            yield f"{_where(node)}is of the domain {node.domain}, no standard operator"
        elif node.op_type not in INTEGER_OPERATORS:
            yield f"{_where(node)}is no operator of integer arithmetic"
        yield from (
            f"{_where(node)}reads {name}, which belongs to the boundary" for name in node.input if name in forbidden
        )
        for attribute in node.attribute:
            yield from (f"{_where(node)}{fault}" for fault in _attribute_at_fault(attribute))
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                known = _types(inner, types)
                yield from _tensors_at_fault(inner, known, ())
                yield from _nodes_at_fault(inner.node, known, forbidden)


def _attribute_at_fault(attribute: onnx.AttributeProto) -> Iterator[str]:
    kinds = onnx.AttributeProto
    tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]
    for tensor in (*tensors, *(each.values for each in sparse)):
        if tensor.data_type not in INTEGERS:
            yield f"holds a constant: {_called(tensor.data_type)}"
    if attribute.type in (kinds.FLOAT, kinds.FLOATS):
        yield f"has the number {attribute.name} = {helper.get_attribute_value(attribute)}"


def _where(node: onnx.NodeProto | None) -> str:
    return "" if node is None else f"{node.name or (node.output[0] if node.output else '')} ({node.op_type}) "


def _called(kind: int | None) -> str:
    return str(TensorProto.DataType.Name(kind)).lower() if kind else "of unknown type"
