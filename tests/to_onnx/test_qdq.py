"""The profile `qdq` is near the integer model in the runtimes, which fuse its pairs, whatever the model and the export.

Needs `onnx` and `onnxruntime`; what OpenVINO makes of it is tested where `openvino` is installed.
"""

from pathlib import Path
from typing import Any

import biased
import gated
import mixed
import moved
import normalized
import numpy as np
import pytest
import tiny
import torch
import windowed
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

import intvit
from intvit.dialect import OPERATIONS
from intvit.errors import IntvitError
from intvit.fusion import name_of
from intvit.integer_model import IntegerModel
from intvit.stages import IntGraph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from intvit.to_onnx.file import export_onnx  # noqa: E402
from intvit.to_onnx.qdq.layers import REFUSED, Layers  # noqa: E402
from intvit.to_onnx.scope import Scope  # noqa: E402

IMAGES = 6


class Variants(nn.Module):
    """A row of constant tokens, LayerScale, channels and a head that are 0, and outputs of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 16, 24) * 0.2)
        self.tokens = nn.Parameter(torch.randn(1, 3, 24))
        self.before, self.norm1, self.norm2, self.after = (nn.LayerNorm(24) for _ in range(4))
        self.q, self.k, self.v, self.proj = (nn.Linear(24, 24, bias=bias) for bias in (True, False, True, True))
        self.fc1, self.fc2, self.head = nn.Linear(24, 40), nn.Linear(40, 24), nn.Linear(24, 5)
        self.scale1, self.scale2 = (nn.Parameter(torch.rand(24) + 0.2) for _ in range(2))
        with torch.no_grad():  # what multiplies a channel by 0
            self.scale1[3], self.k.weight[:6], self.fc1.weight[5], self.fc1.bias[5], self.head.weight[2] = 0, 0, 0, 0, 0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        x = self.before(torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1))
        y = self.norm1(x)
        heads = (p(y).unflatten(-1, (4, 6)).transpose(1, 2) for p in (self.q, self.k, self.v))
        x = x + self.scale1 * self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        x = x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))
        y = self.after(x)
        return self.head(y[:, 0]), x, y, y[:, 0]


@pytest.fixture(scope="module")
def variants() -> IntegerModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Variants().eval()
    return intvit.quantize(module, tiny.GRID.normalized(tiny.pixels(100)))


@pytest.fixture(
    scope="module",
    params=["default", "paper", "variants", "moved", "gated", "mixed", "windowed", "biased", "normalized"],
)
def model(request: pytest.FixtureRequest) -> IntegerModel:
    if request.param == "variants":
        found: IntegerModel = request.getfixturevalue("variants")
        return found
    others = {
        "moved": moved,
        "gated": gated,
        "mixed": mixed,
        "windowed": windowed,
        "biased": biased,
        "normalized": normalized,
    }
    if request.param in others:
        return others[request.param].integer_model()
    return tiny.integer_model(request.param)


def images_for(model: IntegerModel, image: str = "uint8") -> NDArray[Any]:
    if image == "uint8" and model.metadata.input_grid.takes_pixels:
        return tiny.pixels(IMAGES, seed=7)
    return tiny.GRID.normalized(tiny.pixels(IMAGES, seed=7))


def session(proto: Any, **options: Any) -> Any:
    """ONNX Runtime's; `options` are attributes of its `SessionOptions`."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = 1, 3
    for name, value in options.items():
        setattr(chosen, name, value)
    return onnxruntime.InferenceSession(proto.SerializeToString(), chosen, providers=["CPUExecutionProvider"])


def run(proto: Any, images: NDArray[Any]) -> list[NDArray[np.float32]]:
    found: list[NDArray[np.float32]] = session(proto).run(None, {"image": images})
    return found


def exact_outputs(model: IntegerModel, images: NDArray[Any]) -> list[NDArray[np.float32]]:
    outputs = model(images)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def require_near(got: list[NDArray[np.float32]], want: list[NDArray[np.float32]], distance: float = 0.03) -> None:
    """Relative, of all images together: the small models are within 0.02 of their integers, `paper` being the worst."""
    assert len(got) == len(want)
    for y, exact in zip(got, want, strict=True):
        assert y.shape == exact.shape and y.dtype == np.float32
        assert np.linalg.norm(y - exact) <= distance * np.linalg.norm(exact)


@pytest.mark.parametrize("image", ["uint8", "float32"])
def test_is_near_the_integers(model: IntegerModel, image: str) -> None:
    if image == "uint8" and not model.metadata.input_grid.takes_pixels:
        pytest.skip("quantized with float images")
    images = images_for(model, image)
    proto = export_onnx(model, profile="qdq", image=image).proto
    require_near(run(proto, images), exact_outputs(model, images))


@pytest.mark.parametrize("batch", [1, 2])
def test_of_a_fixed_batch_is_the_same(batch: int) -> None:
    model = tiny.integer_model()
    images = images_for(model)
    free, fixed = (export_onnx(model, profile="qdq", batch=size).proto for size in (None, batch))
    expected = run(free, images[:batch])
    np.testing.assert_allclose(run(fixed, images[:batch])[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [18, 19, 20, 23, 26])
def test_in_every_opset_is_the_same(opset: int) -> None:
    model = tiny.integer_model()
    proto, usual = (export_onnx(model, profile="qdq", opset=number).proto for number in (opset, 21))
    assert [entry.version for entry in proto.opset_import] == [opset]
    images = images_for(model)
    np.testing.assert_allclose(run(proto, images)[0], run(usual, images)[0], rtol=1e-3, atol=1e-3)


def test_float_images_are_rounded_to_pixels() -> None:
    model = tiny.integer_model()
    pixels = tiny.pixels(3)
    between = tiny.GRID.normalized(pixels) + 0.4 * tiny.GRID.scale[0]
    floats = export_onnx(model, profile="qdq", image="float32").proto
    got, expected = run(floats, between), run(export_onnx(model, profile="qdq").proto, pixels)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4, atol=1e-4)


def test_openvino_is_near_the_integers(model: IntegerModel) -> None:
    openvino = pytest.importorskip("openvino")
    image = "uint8" if model.metadata.input_grid.takes_pixels else "float32"
    images = images_for(model, image)
    proto = export_onnx(model, profile="qdq", image=image).proto
    core = openvino.Core()
    properties = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", properties)
    require_near(list(compiled([images]).values()), exact_outputs(model, images))


def test_pairs_are_symmetric_int8_with_one_reader(model: IntegerModel) -> None:
    """As TensorRT takes them, and as ONNX Runtime makes uint8 of them on x86."""
    graph = export_onnx(model, profile="qdq", image="float32").proto.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: [n for n in graph.node if name in n.input] for node in graph.node for name in node.output}
    products = [n for n in graph.node if n.op_type in ("MatMul", "Conv") and len(readers[n.output[0]]) == 1]
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    for quantizer in quantizers:
        (pair,) = readers[quantizer.output[0]]
        (product,) = readers[pair.output[0]]
        assert pair.op_type == "DequantizeLinear" and product in products and pair.input[1:] == quantizer.input[1:]
        scale, zero_point = (constants[name] for name in quantizer.input[1:])
        assert scale.shape == () and scale > 0
        assert zero_point.dtype == np.int8 and zero_point == 0
        (weights,) = (n for n in graph.node if n.output[0] == product.input[1])
        assert weights.op_type == "DequantizeLinear" and constants[weights.input[0]].dtype == np.int8


def test_stores_each_weight_once_as_int8() -> None:
    model = tiny.integer_model()
    expected = sum(n.numel() for n in model.graph.module.buffers() if n.dtype == torch.int8)
    tensors = export_onnx(model, profile="qdq").proto.graph.initializer
    assert sum(int(np.prod(t.dims)) for t in tensors if t.data_type == onnx.TensorProto.INT8 and t.dims) == expected
    assert all(len(t.dims) < 2 or t.data_type != onnx.TensorProto.FLOAT for t in tensors)


@pytest.mark.parametrize("batch", [None, 1])
def test_onnx_runtime_fuses_all_pairs(batch: int | None, tmp_path: Path) -> None:
    """No pair is left: every product of the dialect is an integer one, and GELU and LayerNorm are one operator each."""
    model = tiny.integer_model()
    path = tmp_path / "optimized.onnx"
    session(export_onnx(model, profile="qdq", batch=batch).proto, optimized_model_filepath=str(path))
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    nodes = [node for node in model.graph.module.graph.nodes if node.op == "call_function"]
    operations = [name_of(node) for node in nodes]
    read = {node.args[0] for node in nodes if name_of(node) == "linear"}
    assert kinds.count("MatMulIntegerToFloat") == len(read) < operations.count("linear")
    assert not {"DequantizeLinear", "MatMulInteger", "Gemm"} & set(kinds)
    assert kinds.count("MatMul") + kinds.count("FusedMatMul") == 2 * operations.count("attention")
    assert sum("Gelu" in kind for kind in kinds) == operations.count("gelu")
    assert sum("LayerNormalization" in kind for kind in kinds) == operations.count("layernorm")  # one with its sum


def test_names_are_paths() -> None:
    graph = export_onnx(tiny.integer_model(), profile="qdq").proto.graph
    names = [name for node in graph.node for name in node.output]
    assert len(set(names)) == len(names)
    assert "blocks.0.norm1/normalized" in names and "blocks.1.fc1/product" in names
    assert [output.name for output in graph.output] == ["logits"]


def test_every_operation_has_a_float_form() -> None:
    assert set(Layers(tiny.integer_model().graph, Scope.graph(21), "uint8").rules) == set(OPERATIONS) - set(REFUSED)


def test_another_operation_is_refused() -> None:
    graph = fx.Graph()
    graph.output((graph.call_function(torch.neg, (graph.placeholder("image"),)),))
    broken = IntGraph.of(fx.GraphModule(nn.Module(), graph), tiny.GRID, (1.0,), ((32, 32, 3),))
    with pytest.raises(IntvitError, match="neg is not an operation"):
        Layers(broken, Scope.graph(21), "uint8").write()
