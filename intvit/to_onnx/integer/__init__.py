"""The profile `integer`: an integer graph as standard ONNX operators on integer tensors, equal to it in every bit."""

from intvit.integer_model import IntegerModel
from intvit.to_onnx.boundary import pixels, results
from intvit.to_onnx.integer.rules import RULES
from intvit.to_onnx.integer.writer import Writer
from intvit.to_onnx.scope import Scope
from intvit.verify.overflow import analyse, fake_values


def write_integer(
    model: IntegerModel, scope: Scope, image: str = "uint8", output: str = "int32", portable: bool = False
) -> list[str]:
    """Writes the graph of `model` between its input and its outputs, whose names it returns.

    `portable` writes second factors of products as uint8: exact on x86 CPUs without VNNI too, and slower elsewhere.
    """
    grid, metadata = model.graph.input_grid, model.metadata
    ranges = {proved.node: proved.ranges.result for proved in analyse(model.graph)}
    writer = Writer(model.graph.module, fake_values(model.graph), scope, portable, ranges)
    integers = writer.write(pixels(scope, image, grid), RULES)
    return results(scope, integers, output, metadata.output_scales, metadata.output_shapes)
