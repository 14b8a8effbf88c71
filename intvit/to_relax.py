"""From an integer graph to a Relax module: one `call_tir` per kernel, a symbolic batch, constants packed.

    main(image: uint8 [batch, H, W, C]) -> (int [batch·tokens, channels], ...)
    metadata() -> the model's metadata as JSON

Every tensor between is `[batch · tokens, channels]`: tokens of all images in a row, so that a kernel sees rows only.
"""

import json

import numpy as np
import tvm
from torch import fx
from tvm import relax, tirx

from intvit.integer_model import IntegerModel
from intvit.kernels.isa import Isa
from intvit.legalize import Constant, Legalizer
from intvit.nodes import outputs
from intvit.verify.overflow import fake_values


def to_relax(model: IntegerModel, isa: Isa, target: str) -> tvm.IRModule:
    """The Relax module of a model for one instruction set; `target` is its name, for the metadata."""
    shapes = {name: tuple(value.shape) for name, value in fake_values(model.graph).items()}
    legalizer = Legalizer(model.graph.module, shapes, isa)
    builder = relax.BlockBuilder()
    batch = tirx.Var("batch", "int64")
    channels, height, width = model.metadata.input_grid.shape
    image = relax.Var("image", relax.TensorType((batch, height, width, channels), "uint8"))
    with builder.function("main", [image]):
        with builder.dataflow():
            outputs = _Emitter(builder, legalizer, batch, image, model.graph.module.graph).run()
            result = builder.emit_output(relax.Tuple(outputs))
        builder.emit_func_output(result)
    with builder.function("metadata", []):
        builder.emit_func_output(tvm.ir.StringImm(described(model, target)))
    return builder.get()


def described(model: IntegerModel, target: str) -> str:
    """The JSON that a module carries."""
    return json.dumps({"metadata": model.metadata.to_json(), "digest": model.digest, "target": target})


class _Emitter:
    """Emits the kernels of a graph in order."""

    def __init__(
        self, builder: relax.BlockBuilder, legalizer: Legalizer, batch: tirx.Var, image: relax.Var, graph: fx.Graph
    ) -> None:
        self.builder, self.legalizer, self.batch, self.graph = builder, legalizer, batch, graph
        self.values: dict[fx.Node, relax.Expr] = {graph.find_nodes(op="placeholder")[0]: image}
        self.functions: dict[tirx.PrimFunc, tvm.ir.GlobalVar] = {}

    def run(self) -> list[relax.Expr]:
        for group in self.legalizer.groups():
            call = self.legalizer.call(group)
            function = self._function(call.function)
            arguments = [self._argument(a) for a in call.arguments]
            rows = self.batch * self.legalizer.shapes[group.result.name][1]
            kind = relax.TensorType((rows, call.columns), call.dtype)
            self.values[group.result] = self.builder.emit(relax.call_tir(function, arguments, out_ty=kind))
        return [self.values[node] for node in outputs(self.graph)]

    def _function(self, function: tirx.PrimFunc) -> tvm.ir.GlobalVar:
        if function not in self.functions:
            name = f"intvit_{function.attrs['global_symbol']}"
            self.functions[function] = self.builder.add_func(function.without_attr("global_symbol"), name)
        return self.functions[function]

    def _argument(self, argument: fx.Node | Constant) -> relax.Expr:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        return relax.const(np.ascontiguousarray(argument))
