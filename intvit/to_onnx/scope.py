"""Where ONNX nodes are written: the graph, or the body of a model-local function.

A function of the dialect is a Python function that writes nodes into the scope that it is given. `Scope.call` runs it
on the graph itself, under the layer's path (inlined, the default), or once on a body of its own, which becomes a
`FunctionProto` of the domain `intvit` that every layer calls (`keep_functions`): the nodes are the same.

A value's name is `path/label`, or `path/7` where it has no label: the seventh of the layer. A node is named as its
first output. A constant is stored once for each content, and a single number is named by its value: layers share it.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import CO_VARARGS
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from intvit.errors import IntvitError

DOMAIN = "intvit"
OPSETS = range(18, 27)
"""From `ReduceMax` with axes as input, to what ONNX Runtime 1.31 runs."""
BATCH = "batch"
RESULT = "y"
"""The name of every function's result."""

Array = NDArray[Any]
Body = Callable[..., str]


@dataclass
class Scope:
    """Nodes and constants so far; `Scope.graph` begins a graph.

    `opset` is the version of the standard operators, `batch` the number of images, or None where that is free.
    """

    opset: int
    batch: int | None
    keep_functions: bool
    functions: dict[str, onnx.FunctionProto]
    in_function: bool = False
    path: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _contents: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _variants: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def graph(cls, opset: int, batch: int | None = None, keep_functions: bool = False) -> "Scope":
        """An empty graph."""
        return cls(opset, batch, keep_functions, {})

    def op(self, kind: str, *inputs: str, label: str = "", **attributes: Any) -> str:
        """Writes a node with one output and returns its name."""
        return self.ops(kind, *inputs, labels=(label,), **attributes)[0]

    def ops(self, kind: str, *inputs: str, labels: Sequence[str], domain: str = "", **attributes: Any) -> list[str]:
        """Writes a node with an output for each label and returns their names."""
        outputs = [self.name(label) for label in labels]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], domain=domain, **attributes))
        return outputs

    def name(self, label: str) -> str:
        """A name that no other value has."""
        wanted = "/".join(part for part in (self.path, label) if part)
        key = wanted if label else f"{wanted}/" if wanted else "t"
        count = self._taken.get(key, 0) + 1
        while (name := f"{key}{count}" if not label else wanted if count == 1 else f"{wanted}_{count}") in self._used:
            count += 1
        self._taken[key] = count
        self._used.add(name)
        return name

    def constant(self, values: ArrayLike, dtype: str, label: str = "") -> str:
        """The name of a constant; one for each content, so a label serves the first that stores it.

        Raises `IntvitError` for an integer that `dtype` does not hold.
        """
        given = np.asarray(values)
        if given.dtype.kind in "iu" and np.dtype(dtype).kind in "iu" and given.size:
            limits = np.iinfo(dtype)
            if given.min() < limits.min or given.max() > limits.max:
                raise IntvitError(f"{self.path}: {label or 'a number'} leaves {dtype}: it cannot be exported to ONNX")
        array = np.ascontiguousarray(values, dtype)
        key = (dtype, np.shape(values), array.tobytes())
        if key not in self._contents:
            self._contents[key] = self._stored(array.reshape(np.shape(values)), label)
        return self._contents[key]

    def int32(self, *values: int) -> str:
        """The name of an int32 number, or of a row of several."""
        return self.constant(values[0] if len(values) == 1 else values, "int32")

    def int64(self, *values: int) -> str:
        """The name of a row of int64 numbers, as shapes and axes are."""
        return self.constant(values, "int64")

    def cast(self, x: str, dtype: str) -> str:
        """Writes a `Cast` to the element type that numpy calls `dtype`: integers wrap."""
        return self.op("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def _stored(self, array: Array, label: str) -> str:
        if array.size == 1:
            label = f"{array.dtype}_{array.item()}".replace("-", "minus_")
            label += "".join(f"_{n}" for n in array.shape)
        if self.in_function:
            return self.op("Constant", label=label, value=numpy_helper.from_array(array))
        path, self.path = self.path, self.path if array.size > 1 else ""
        name = self.name(label or "constant")
        self.path = path
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    @contextmanager
    def at(self, path: str) -> Any:
        """Names written inside begin with `path`."""
        before, self.path = self.path, path
        try:
            yield self
        finally:
            self.path = before

    def call(self, name: str, body: Body, *inputs: str, label: str = "", **fixed: Any) -> str:
        """`body(scope, *inputs, **fixed)` here, or as a call of a function, one for each `fixed`.

        The first is called `name` and others `name_2`, ...; `fixed` is in their documentation.
        """
        if not self.keep_functions or self.in_function:
            return body(self, *inputs, **fixed)
        choices = ", ".join(f"{key}={value}" for key, value in fixed.items())
        variants = self._variants.setdefault(name, {})
        if choices not in variants:
            variants[choices] = f"{name}_{len(variants) + 1}" if variants else name
            self.functions[variants[choices]] = self._function(variants[choices], body, len(inputs), fixed)
            self.functions[variants[choices]].doc_string += f" {choices}" if choices else ""
        return self.ops(variants[choices], *inputs, labels=(label or name,), domain=DOMAIN)[0]

    def _function(self, name: str, body: Body, count: int, fixed: dict[str, Any]) -> onnx.FunctionProto:
        parameters = _parameters(body, count)
        inside = Scope(self.opset, self.batch, False, {}, in_function=True)
        named = RESULT if RESULT not in parameters else f"{RESULT}_result"
        inside._used.update([*parameters, named])
        result = body(inside, *parameters, **fixed)
        for node in inside.nodes:
            node.output[:] = [named if value == result else value for value in node.output]
            node.input[:] = [named if value == result else value for value in node.input]
        summary = (body.__doc__ or "").strip().splitlines()[0]
        opsets = [helper.make_opsetid("", self.opset)]
        function = helper.make_function(DOMAIN, name, parameters, [named], inside.nodes, opsets)
        function.doc_string = summary
        return function

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], name: str
    ) -> onnx.ModelProto:
        """The model with everything that was written; constants that no node reads are left out."""
        read = {value for node in self.nodes for value in node.input}
        constants = [tensor for key, tensor in self.constants.items() if key in read]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.functions:
            opsets.append(helper.make_opsetid(DOMAIN, 1))
        version = max(helper.find_min_ir_version_for(opsets, ignore_unknown=True), 10)
        return helper.make_model(
            graph, opset_imports=opsets, functions=list(self.functions.values()), ir_version=version
        )


def _parameters(body: Body, count: int) -> list[str]:
    """Names for the `count` inputs of a function's body: those behind its own are `<*name>_0`, `<*name>_1`, ..."""
    code = body.__code__
    own = list(code.co_varnames[1 : code.co_argcount][:count])
    if not code.co_flags & CO_VARARGS:
        return own
    name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
    return [*own, *(f"{name}_{i}" for i in range(count - len(own)))]
