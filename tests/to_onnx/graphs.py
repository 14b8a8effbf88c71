"""Small integer graphs as ONNX: operations of the dialect on any operands, in ONNX Runtime and by reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import fx, nn

from intvit.dialect import OPERATIONS
from intvit.fusion import name_of
from intvit.ranges import Operand, Range
from intvit.to_onnx.integer.rules import RULES
from intvit.to_onnx.integer.writer import LIMITS, Writer
from intvit.to_onnx.scope import BATCH, Scope

Array = NDArray[Any]
RAISED = {"uint8": (0, "uint8"), "int8": (128, "uint8"), "int16": (1 << 15, "int32"), "int32": (0, "int32")}
"""How a writer keeps a value: by how much it is raised, and as what."""


class Graph:
    """An integer graph that is built call by call; operands come in batches."""

    def __init__(self) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()
        self.feeds: dict[fx.Node, Array] = {}

    def operand(self, x: Array) -> fx.Node:
        """A value that is given at run time."""
        node = self.graph.placeholder(f"x{len(self.feeds)}")
        self.feeds[node] = x
        return node

    def call(self, operation: str, *arguments: Any) -> fx.Node:
        """An operation of the dialect; arrays are constants."""
        return self.graph.call_function(OPERATIONS[operation].call, tuple(self._argument(a) for a in arguments))

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._argument(a) for a in argument]
        if not isinstance(argument, np.ndarray):
            return argument
        name = f"c{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, torch.from_numpy(argument))
        return self.graph.get_attr(name)

    def check(self, *results: fx.Node, **choices: Any) -> onnx.ModelProto:
        """Asserts that ONNX Runtime gives the reference's results; returns the model."""
        model, inputs, wanted = self.written(*results, **choices)
        for y, expected in zip(session(model).run(None, inputs), wanted, strict=True):
            assert y.dtype == expected.dtype
            assert np.array_equal(y, expected)
        return model

    def written(self, *results: fx.Node, **choices: Any) -> tuple[onnx.ModelProto, dict[str, Array], list[Array]]:
        """The model, its inputs, and the reference's results."""
        self.graph.output(results)
        module = fx.GraphModule(self.root, self.graph)
        proved = ranges(module, self.feeds)
        wanted = [y.numpy() for y in module(*(torch.from_numpy(x) for x in self.feeds.values()))]
        return written(module, self.feeds, proved, **choices), raised(self.feeds), wanted


def ranges(module: fx.GraphModule, feeds: dict[fx.Node, Array]) -> dict[str, Range]:
    """The proof of every node, whose operands are anything of their types; an overflow is the test's fault."""
    known: dict[fx.Node, Operand] = {}

    def of(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [of(a) for a in argument]
        if not isinstance(argument, fx.Node):
            return argument
        return module.get_buffer(str(argument.target)) if argument.op == "get_attr" else known[argument]

    values = dict(zip(feeds, feeds.values(), strict=True))
    shapes = fx.Interpreter(module)
    shapes.run(*(torch.from_numpy(x[:1]) for x in feeds.values()), enable_io_processing=False)
    for node in module.graph.nodes:
        if node in values:
            x = values[node]
            low, high = (0, 255) if x.dtype == np.uint8 else LIMITS[str(x.dtype)]
            if x.dtype == np.int32:
                low, high = int(x.min()), int(x.max())
            known[node] = Operand(low, high, (1, *x.shape[1:]))
        elif node.op == "call_function":
            found = OPERATIONS[name_of(node)].ranges(*(of(a) for a in node.args))
            assert not found.overflowing(), f"{name_of(node)}: {found.overflowing()}"
            known[node] = Operand(found.result.low, found.result.high, _shape(module, node, feeds))
    return {node.name: Range(found.low, found.high) for node, found in known.items()}


def values_of(module: fx.GraphModule, feeds: dict[fx.Node, Array]) -> dict[str, torch.Tensor]:
    """Every node's value for the first of the batch."""
    seen: dict[str, torch.Tensor] = {}

    class Seeing(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor):
                seen[n.name] = value
            return value

    Seeing(module).run(*(torch.from_numpy(x[:1]) for x in feeds.values()))
    return seen


def _shape(module: fx.GraphModule, node: fx.Node, feeds: dict[fx.Node, Array]) -> tuple[int, ...]:
    return tuple(values_of(module, feeds)[node.name].shape)


def written(
    module: fx.GraphModule,
    feeds: dict[fx.Node, Array],
    proved: dict[str, Range],
    portable: bool = False,
    keep_functions: bool = False,
    opset: int = 21,
) -> onnx.ModelProto:
    """The model, whose inputs are in the form in which a writer keeps values."""
    scope = Scope.graph(opset, keep_functions=keep_functions)
    writer = Writer(module, values_of(module, feeds), scope, portable, proved)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            writer.written[node] = node.name
        elif node.op == "call_function" and node not in writer.written:
            writer.write_node(node, RULES)
    (results,) = module.graph.output_node().args
    assert isinstance(results, Sequence)
    names = [scope.op("Identity", writer.plain(node), label=f"y{i}") for i, node in enumerate(results)]
    inputs = [_info(node.name, RAISED[str(x.dtype)][1], x.ndim) for node, x in feeds.items()]
    dtypes = [writer.dtypes[node.name] for node in results]
    outputs = [_info(name, dtype, 3) for name, dtype in zip(names, dtypes, strict=True)]
    model = scope.model(inputs, outputs, "test")
    onnx.checker.check_model(model, full_check=True)
    return model


def _info(name: str, dtype: str, dimensions: int) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, element, [BATCH, *(f"{name}_{i}" for i in range(1, dimensions))])


def session(model: onnx.ModelProto) -> Any:
    """A model in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def raised(feeds: dict[fx.Node, Array]) -> dict[str, Array]:
    """Operands in the form in which a writer keeps values."""
    forms = {node.name: RAISED[str(x.dtype)] for node, x in feeds.items()}
    return {
        node.name: (x.astype(np.int64) + forms[node.name][0]).astype(forms[node.name][1]) for node, x in feeds.items()
    }


# operands

SEEDS = st.integers(0, 2**32 - 1)
PATTERNS = ("random", "lowest", "highest", "zero", "outlier", "halves", "small")


def filled(random: np.random.Generator, shape: tuple[int, ...], dtype: str, pattern: str) -> Array:
    """Integers of a type, rows of one kind."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = random.integers(low, high, shape, endpoint=True, dtype=dtype)
    if pattern in ("lowest", "highest", "zero"):
        x[...] = {"lowest": low, "highest": high, "zero": 0}[pattern]
    elif pattern == "outlier":
        x[...], x[..., -1] = low, high
    elif pattern == "halves":
        x[..., ::2], x[..., 1::2] = low, high
    elif pattern == "small":
        x = random.integers(-2, 3, shape, dtype=dtype)
    return x


def row(values: Sequence[int] | Array | int) -> Array:
    """Numbers for the channels, or one."""
    return np.atleast_1d(np.asarray(values, np.int32))


@st.composite
def dyadics(
    draw: st.DrawFn, channels: int, most: int = 32767, pre: int = 15, negative: bool = True
) -> tuple[Array, Array]:
    """Multipliers and pre-shifts, for each channel or for all; the ends of both are drawn often."""
    random = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(("rows", "rows", "numbers", "ends")))
    count = 1 if kind == "numbers" else channels
    low = -most if negative else 0
    m, p = random.integers(low, most + 1, count), random.integers(0, pre + 1, count)
    if kind == "ends":
        m[:], p[:] = draw(st.sampled_from((low, most, 1, 0))), draw(st.sampled_from((0, 1, pre)))
        m[-1] = most
    return m.astype(np.int32), p.astype(np.int32)
