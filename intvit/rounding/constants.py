"""New weights for a linear layer of a float graph."""

from torch import Tensor, fx


def give_constants(module: fx.GraphModule, layer: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """`layer` reads these, `[N, K]` and `[N]`, under its own name; what else read the old ones keeps them."""
    with module.graph.inserting_before(layer):
        constants = []
        for kind, value in (("weight", weight), ("bias", bias)):
            module.register_buffer(f"{layer.name}_{kind}", value)
            constants.append(module.graph.get_attr(f"{layer.name}_{kind}"))
    layer.args = (layer.args[0], *constants)
