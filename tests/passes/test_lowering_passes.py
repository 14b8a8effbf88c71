"""Each lowering pass on a graph of one operation: before, after, the reasons of its skips, how near it is to float."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from intvit import boundary, floatops
from intvit.dialect.biased_attention import MASK
from intvit.errors import IntvitError, UnsupportedOp
from intvit.grids import PRESETS, assign_grids
from intvit.input_grid import InputGrid
from intvit.observers import MinMax
from intvit.passes.base import LoweringPass
from intvit.passes.lower_attention import LowerAttention, integer_bias
from intvit.passes.lower_gelu import LowerGelu
from intvit.passes.lower_layernorm import LowerLayerNorm, fixed_point_shift, scaled_eps
from intvit.passes.lower_linear import LowerLinear, quantized_weights
from intvit.passes.lower_patchify import LowerPatchify
from intvit.passes.lower_residual import LowerResidual
from intvit.passes.lower_tokens import LowerConcatTokens, LowerSelectTokens
from intvit.passes.lowering import Lowering
from intvit.softmax_levels import SoftmaxLevels
from intvit.stages import CalibratedGraph, FloatGraph

TOKENS, CHANNELS, PATCH = 4, 8, 2
GRID = InputGrid((1 / 64,) * 3, (-2.0,) * 3, (3, 4, 4))
IMAGES = torch.randint(0, 256, (16, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Sketch:
    """A canonical graph: an image in 4 patches, embedded to 8 channels, then what a test adds."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.root, self.graph = nn.Module(), fx.Graph()
        self.image = self.graph.placeholder("image")
        self.patches = self.call(floatops.patchify, self.image, PATCH, PATCH, shape=(TOKENS, 12))
        self.tokens = self.linear(self.patches, 12, CHANNELS)

    def call(self, target: Callable[..., Any], *args: Any, shape: tuple[int, int] = (TOKENS, CHANNELS)) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta.update(path=f"layer.{node.name}", shape=shape)
        return node

    def constant(self, tensor: Tensor) -> fx.Node:
        name = f"c{len(list(self.root.buffers()))}"
        self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def linear(self, x: fx.Node, k: int, n: int) -> fx.Node:
        return self.call(
            floatops.linear, x, self.constant(self.normal(n, k) * 0.4), self.constant(self.normal(n)), shape=(TOKENS, n)
        )

    def norm(self, x: fx.Node, eps: float = 1e-6) -> fx.Node:
        return self.call(
            floatops.layer_norm, x, self.constant(self.normal(CHANNELS)), self.constant(self.normal(CHANNELS)), eps
        )

    def biased(
        self, qkv: list[fx.Node], heads: int, windows: int, kinds: tuple[int, ...], mask: float = 0.0
    ) -> fx.Node:
        """An attention of 2 heads; `heads`: how many the bias has. `mask` is added for some keys."""
        tokens = TOKENS // windows
        bias = self.normal(max(kinds) + 1, heads, tokens, tokens)
        bias[..., 0] += mask
        return self.call(floatops.attention, *qkv, 2, 0.5, windows, self.constant(bias), kinds)

    def calibrated(self, *outputs: fx.Node, preset: str = "default") -> CalibratedGraph:
        self.graph.output(outputs)
        shapes = tuple(tuple(node.meta["shape"]) for node in outputs)
        source = FloatGraph.of(self.root, self.graph, (3, 4, 4), shapes)
        from intvit.calibrate import calibrate

        return calibrate(source, [IMAGES.numpy()], GRID, PRESETS[preset])


def sites() -> dict[str, tuple[LoweringPass, Callable[[Sketch], fx.Node], dict[str, list[str]]]]:
    """Pass, the operation it lowers, and the integer operations that each preset gets."""
    both = lambda *names: {"default": list(names), "paper": list(names)}  # noqa: E731
    qkv = lambda s: [s.linear(s.tokens, CHANNELS, CHANNELS) for _ in range(3)]  # noqa: E731
    return {
        "patchify": (LowerPatchify(), lambda s: s.tokens, both("patchify")),
        "linear": (LowerLinear(), lambda s: s.linear(s.norm(s.tokens), CHANNELS, 5), both("linear", "linear")),
        "norm": (
            LowerLayerNorm(),
            lambda s: s.linear(s.norm(s.tokens), CHANNELS, CHANNELS),
            {"default": ["layernorm"], "paper": ["layernorm_published", "requantize"]},
        ),
        "norm as output": (
            LowerLayerNorm(),
            lambda s: s.norm(s.tokens),
            {"default": ["layernorm"], "paper": ["layernorm_published", "requantize"]},
        ),
        "gelu": (
            LowerGelu(),
            lambda s: s.linear(s.call(floatops.gelu, s.tokens), CHANNELS, CHANNELS),
            {"default": ["gelu"], "paper": ["gelu_published"]},
        ),
        "attention": (
            LowerAttention(),
            lambda s: s.linear(s.call(floatops.attention, *qkv(s), 2, 0.5), CHANNELS, CHANNELS),
            {"default": ["attention"], "paper": ["attention_published"]},
        ),
        "attention in windows": (
            LowerAttention(),
            lambda s: s.linear(s.call(floatops.attention, *qkv(s), 2, (0.5, 0.3), 2), CHANNELS, CHANNELS),
            {"default": ["attention"]},
        ),
        "biased attention": (
            LowerAttention(),
            lambda s: s.linear(s.biased(qkv(s), 2, 2, (1, 0)), CHANNELS, CHANNELS),
            {"default": ["biased_attention"]},
        ),
        "attention with a mask": (
            LowerAttention(),
            lambda s: s.linear(s.biased(qkv(s), 1, 1, (0,), mask=-100.0), CHANNELS, CHANNELS),
            {"default": ["biased_attention"]},
        ),
        "residual": (
            LowerResidual(),
            lambda s: s.norm(s.call(floatops.add, s.tokens, s.linear(s.norm(s.tokens), CHANNELS, CHANNELS))),
            both("add"),
        ),
        "constant arm": (
            LowerResidual(),
            lambda s: s.norm(s.call(floatops.add, s.tokens, s.constant(s.normal(TOKENS, CHANNELS)))),
            both("add"),
        ),
        "constant first arm": (
            LowerResidual(),
            lambda s: s.norm(s.call(floatops.add, s.constant(s.normal(TOKENS, CHANNELS)), s.tokens)),
            both("add"),
        ),
        "concat": (
            LowerConcatTokens(),
            lambda s: s.call(floatops.concat_tokens, s.constant(s.normal(2, CHANNELS)), s.tokens, shape=(6, CHANNELS)),
            both("concat_tokens"),
        ),
        "select": (
            LowerSelectTokens(),
            lambda s: s.call(floatops.select_tokens, s.norm(s.tokens), 1, 3, shape=(2, CHANNELS)),
            both("select_tokens"),
        ),
    }


def integer_names(graph: Lowering) -> list[str]:
    return [
        str(n.target).split(".")[1] for n in graph.graph.nodes if "intvit." in str(n.target) and n.op == "call_function"
    ]


def noise(graph: Lowering, lowered_image: bool) -> float:
    image = torch.from_numpy(GRID.normalized(IMAGES.numpy()))
    with torch.no_grad():
        exact = graph.calibrated.source.module(image)
        got = graph.run(IMAGES if lowered_image else image)
    return max(float((a - b).norm() / a.norm()) for a, b in zip(exact, got, strict=True))


def cases() -> list[tuple[str, str]]:
    return [(name, preset) for name, (*_, expected) in sites().items() for preset in sorted(expected)]


@pytest.mark.parametrize(("name", "preset"), cases())
def test_before_and_after(name: str, preset: str) -> None:
    step, build, expected = sites()[name]
    sketch = Sketch()
    graph = Lowering(sketch.calibrated(build(sketch), preset=preset))
    assert integer_names(graph) == []
    before = len(graph.find(type(step).target))
    result = step.apply(graph)
    assert result.rewritten == before and not result.skips
    assert not graph.find(type(step).target)
    assert integer_names(graph) == expected[preset]
    assert len(graph.find(boundary.dequantize)) == before
    assert noise(graph, isinstance(step, LowerPatchify)) < {"default": 0.02, "paper": 0.08}[preset]
    after = str(graph.graph)
    assert not step.apply(graph).changed and str(graph.graph) == after


@pytest.mark.parametrize("name", sites())
def test_the_integer_operation_keeps_the_path(name: str) -> None:
    step, build, _ = sites()[name]
    sketch = Sketch()
    graph = Lowering(sketch.calibrated(build(sketch)))
    paths = {n.meta["path"] for n in graph.find(type(step).target)}
    step.apply(graph)
    assert {
        n.meta["path"] for n in graph.graph.nodes if "intvit." in str(n.target) and n.op == "call_function"
    } == paths


def calibrated_by_hand(sketch: Sketch, output: fx.Node) -> CalibratedGraph:
    """Grids without a run, for graphs that no pass can lower."""
    sketch.graph.output((output,))
    source = FloatGraph.of(sketch.root, sketch.graph, (3, 4, 4), ((TOKENS, CHANNELS),))
    observers = {}
    for node in source.module.graph.nodes:
        if node.op == "call_function":
            observers[node.name] = MinMax(node.meta["shape"][1])
            observers[node.name].update(torch.randn(9, node.meta["shape"][1]))
    return assign_grids(source, observers, GRID, PRESETS["default"])


@pytest.mark.parametrize("windows", [1, 2])
def test_the_published_preset_has_no_windows_and_no_bias(windows: int) -> None:
    sketch = Sketch()
    qkv = [sketch.linear(sketch.tokens, CHANNELS, CHANNELS) for _ in range(3)]
    plain = sketch.call(floatops.attention, *qkv, 2, 0.5)
    calibrated = sketch.calibrated(sketch.linear(plain, CHANNELS, CHANNELS), preset="paper")
    graph = Lowering(calibrated)
    (attention,) = graph.find(floatops.attention)
    attention.args = (*attention.args, windows)
    if windows == 1:
        with graph.graph.inserting_before(attention):
            attention.args = (*attention.args, graph.constant(torch.zeros(1, 1, 4, 4)), (0,))
    (skip,) = LowerAttention().apply(graph).skips
    assert "no form with a bias, a mask or windows" in skip.reason


@pytest.mark.parametrize("biased", [False, True])
def test_the_levels_of_an_attention_are_its_last_arguments(biased: bool) -> None:
    sketch = Sketch()
    qkv = [sketch.linear(sketch.tokens, CHANNELS, CHANNELS) for _ in range(3)]
    node = sketch.biased(qkv, 2, 2, (1, 0)) if biased else sketch.call(floatops.attention, *qkv, 2, 0.5, 2)
    plain = sketch.calibrated(sketch.linear(node, CHANNELS, CHANNELS))
    last = {}
    for levels, calibrated in ((0, plain), (16, plain.with_softmax_levels(node, SoftmaxLevels(128, 16)))):
        graph = Lowering(calibrated)
        assert LowerAttention().apply(graph).rewritten == 1
        (found,) = (n for n in graph.graph.nodes if "intvit." in str(n.target) and n.op == "call_function")
        last[levels] = [a for a in found.args if not isinstance(a, fx.Node)]
    assert last[16] == [*last[0], 128, 16]


def test_the_published_preset_has_no_levels() -> None:
    sketch = Sketch()
    qkv = [sketch.linear(sketch.tokens, CHANNELS, CHANNELS) for _ in range(3)]
    node = sketch.call(floatops.attention, *qkv, 2, 0.5)
    calibrated = sketch.calibrated(sketch.linear(node, CHANNELS, CHANNELS), preset="paper")
    graph = Lowering(calibrated.with_softmax_levels(node, SoftmaxLevels(128, 16)))
    (skip,) = LowerAttention().apply(graph).skips
    assert "no form with logarithmic weights" in skip.reason


def test_biases_are_integers_in_log2_units() -> None:
    inf = float("inf")
    rows = [[0.0, 1.0, -100.0, -49.0], [-100.0, -99.0, -1e4, -inf], [90.0, -2.0, 30.0, 45.0], [-inf, -1e5, -inf, -inf]]
    unit = 256 * 1.4426950408889634
    assert integer_bias(torch.tensor([[rows]])[0]).tolist()[0] == [
        [0, round(unit), MASK, round(-49 * unit)],
        [MASK + 1, MASK + 1, MASK, MASK],
        [-MASK - 1, round(-2 * unit), round(30 * unit), round(45 * unit)],
        [MASK] * 4,
    ]


def test_layer_norm_with_a_computed_weight_is_skipped() -> None:
    sketch = Sketch()
    node = sketch.norm(sketch.tokens)
    calibrated = calibrated_by_hand(sketch, node)
    graph = Lowering(calibrated)
    (norm,) = graph.find(floatops.layer_norm)
    norm.args = (norm.args[0], norm.args[0], *norm.args[2:])
    (skip,) = LowerLayerNorm().apply(graph).skips
    assert (skip.node, skip.reason) == (norm.name, "its weight or bias is not constant")


def test_linear_with_computed_weights_is_skipped() -> None:
    sketch = Sketch()
    graph = Lowering(calibrated_by_hand(sketch, sketch.tokens))
    (linear,) = graph.find(floatops.linear)
    linear.args = (linear.args[0], linear.args[0], linear.args[2])
    (skip,) = LowerLinear().apply(graph).skips
    assert (skip.node, skip.reason) == (linear.name, "its weights are not constant")


def test_patches_of_something_else_than_the_image_are_skipped() -> None:
    sketch = Sketch()
    graph = Lowering(calibrated_by_hand(sketch, sketch.tokens))
    (patchify,) = graph.find(floatops.patchify)
    patchify.args = (next(iter(patchify.users)), *patchify.args[1:])
    assert LowerPatchify().match(patchify, graph).reason == "its input is not the image"


def test_computed_first_tokens_are_skipped() -> None:
    sketch = Sketch()
    node = sketch.call(
        floatops.concat_tokens, sketch.constant(sketch.normal(1, CHANNELS)), sketch.tokens, shape=(TOKENS + 1, CHANNELS)
    )
    graph = Lowering(calibrated_by_hand(sketch, node))
    (concat,) = graph.find(floatops.concat_tokens)
    concat.args = (concat.args[1], concat.args[1])
    (skip,) = LowerConcatTokens().apply(graph).skips
    assert skip.reason == "its first tokens are not constant"


def test_a_reason_reaches_the_user() -> None:
    from intvit.passes.pipeline import PASSES, lower

    class Refusing(LowerLinear):
        def match(self, node: fx.Node, graph: Lowering) -> Any:
            from intvit.passes.base import Skip

            return Skip(node.name, "of a whim")

    sketch = Sketch()
    calibrated = sketch.calibrated(sketch.norm(sketch.tokens))
    passes = [Refusing() if isinstance(step, LowerLinear) else step for step in PASSES]
    with pytest.raises(UnsupportedOp, match=r"layer\.linear: linear linear: of a whim"):
        lower(calibrated, passes)


def test_a_range_that_no_dyadic_number_bridges_names_the_layer() -> None:
    from intvit.grid import Grid, Role
    from intvit.passes.pipeline import lower

    sketch = Sketch()
    node = sketch.call(floatops.add, sketch.tokens, sketch.tokens)
    calibrated = sketch.calibrated(sketch.norm(node))
    tiny = Grid.symmetric(torch.tensor([1e-12]), "int16")
    add = next(n for n in calibrated.source.module.graph.nodes if n.target is floatops.add)
    with pytest.raises(IntvitError, match=r"layer\.add: ratio .* too large"):
        lower(calibrated.with_grid(add, Role.WIDE, tiny))


def test_bias_correction_keeps_the_mean_of_the_output() -> None:
    from intvit.grid import Grid

    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 50, generator=random), torch.randn(6, generator=random)
    x = torch.randn(1000, 50, generator=random) + 2
    grid = Grid.affine(x.min(0).values, x.max(0).values, "int8")
    scale = (weight.double() * grid.scale).abs().amax(1) / 127
    w, c = quantized_weights(weight, bias, grid, scale, x.double().mean(0))
    got = (grid.quantize(x).double() @ w.double().T + c) * scale
    exact = x.double() @ weight.double().T + bias
    assert ((got - exact).mean(0).abs() <= 0.01).all()


def test_a_bias_beyond_32_bits_is_left_for_the_proof() -> None:
    from intvit.dialect import OPERATIONS
    from intvit.grid import Grid
    from intvit.ranges import Operand

    grid = Grid.symmetric(torch.ones(1), "int8")
    w, c = quantized_weights(torch.ones(2, 3), torch.tensor([1e9, -1e9]), grid, torch.full((2,), 1e-3).double(), None)
    assert c.tolist() == [2**31 - 1, -(2**31)]
    assert OPERATIONS["linear"].ranges(Operand(-128, 127, (1, 1, 3)), w, c).overflowing()


@pytest.mark.parametrize(
    ("m", "c", "shift"), [(1.0, 0.0, 14), (0.9, 0.0, 15), (1e-6, 0.0, 30), (1.0, 1e6, 9), (32767.0, 0.0, 0)]
)
def test_fixed_point_shift_is_the_largest_that_fits(m: float, c: float, shift: int) -> None:
    found = fixed_point_shift(torch.tensor([m]), torch.tensor([c]))
    assert found == shift
    assert m * 2**found <= 2**15 - 1 and c * 2**found <= 2**29


def test_fixed_point_shift_refuses_what_does_not_fit() -> None:
    with pytest.raises(IntvitError, match="too large"):
        fixed_point_shift(torch.tensor([1e6]), torch.zeros(1))


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("channels", [1, 192, 4096])
def test_scaled_eps_is_exact_to_30_bits_or_as_large_as_can_be(eps: float, scale: float, channels: int) -> None:
    from intvit.dialect.layernorm import MAX_EPS

    min_shift, integer = scaled_eps(eps, scale, channels)
    exact = eps * channels / scale**2 / 4**min_shift
    assert -15 <= min_shift <= 16 and 0 <= integer <= MAX_EPS
    assert integer == MAX_EPS or abs(integer - exact) <= 0.5
