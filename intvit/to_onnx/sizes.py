"""Names for sizes that depend on a free batch, `batch_x_197`, where ONNX's shape inference knows of none.

A `Reshape` to rows gives a size that inference cannot tell, and makes up a new symbol for; an operator on two of them
makes up a third. ONNX Runtime then takes seconds to load a model (the time grows with the square of their number).
With the outputs of all `Reshape`s described in `value_info`, inference carries these names through the graph.
"""

import onnx
from onnx import helper, shape_inference

from intvit.to_onnx.external_data import with_external_data

FIRST, SECOND = 7, 11
"""Two batches: a size that they show to be a multiple of the batch is one."""
Shape = list[int]


def name_sizes(model: onnx.ModelProto, batch: str) -> None:
    """Describes, in place, the results of every `Reshape` in the graph whose sizes are multiples of `batch`."""
    light = with_external_data(model, "data")
    first, second = (_shapes(light, size) for size in (FIRST, SECOND))
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type != "Reshape" or name not in first:
            continue
        kind, sides = first[name]
        named = [_named(*pair, batch) for pair in zip(sides, second[name][1], strict=True)]
        if named != sides and None not in named:
            model.graph.value_info.append(helper.make_tensor_value_info(name, kind, named))


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, tuple[int, Shape]]:
    """Element type and shape, by name, of every intermediate for so many images."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    kinds = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
    return {name: (kind.elem_type, [side.dim_value for side in kind.shape.dim]) for name, kind in kinds.items()}


def _named(first: int, second: int, batch: str) -> int | str | None:
    """A size by its values for the two batches; None where it is neither constant nor a multiple of the batch."""
    if first == second:
        return first or None
    factor = first // FIRST
    if (first, second) != (factor * FIRST, factor * SECOND):
        return None
    return batch if factor == 1 else f"{batch}_x_{factor}"
