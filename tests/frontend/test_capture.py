"""Any spelling of a ViT becomes the same canonical operations, and computes what the model computes."""

import pytest
import timm
import torch
import torchvision
import transformers
from tiny import SHAPE, vit
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from intvit import floatops
from intvit.errors import IntvitError, UnsupportedOp
from intvit.frontend import capture
from intvit.stages import FloatGraph

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
HF = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def randomized(model: nn.Module) -> nn.Module:
    """Random values in every parameter and running statistic, so that nothing hides behind zeros and ones."""
    random = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=random) * 0.3 + tensor.data
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.data = buffer.data.abs() + 0.5
    return model.eval()


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(model(image)) if isinstance(leaf, Tensor)]


def check(model: nn.Module, shape: tuple[int, int, int] = SHAPE, tolerance: float = 1e-4) -> FloatGraph:
    """The canonical graph, equal to the model at batches 1 and 3, of canonical operations only."""
    graph = capture(model, shape)
    assert {n.target for n in graph.module.graph.nodes if n.op == "call_function"} <= set(floatops.OPERATIONS)
    for batch in (1, 3):
        image = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            got, expected = graph(image), outputs(model, image)
        assert len(got) == len(expected)
        for y, want in zip(got, expected, strict=True):
            assert y.shape == want.shape
            assert (y - want).norm() <= tolerance * want.norm()
    return graph


def count(graph: FloatGraph, target: object) -> int:
    return sum(n.target is target for n in graph.module.graph.nodes)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "written-out"])
@pytest.mark.parametrize(("name", "options"), [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"init_values": 0.5, "num_classes": 0}),
    ("vit_tiny_patch16_224", {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1}),
    ("vit_tiny_patch16_224", {"qkv_bias": False, "drop_rate": 0.1, "drop_path_rate": 0.1}),
    ("deit_tiny_distilled_patch16_224", {}),
])  # fmt: skip
def test_timm(name: str, options: dict[str, object], fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.layers.config, "_USE_FUSED_ATTN", 2 if fused else 0)
    graph = check(randomized(timm.create_model(name, **{**SMALL, **options})))
    assert count(graph, floatops.attention) == 2 and count(graph, floatops.gelu) == 2
    assert count(graph, floatops.concat_tokens) == 1
    assert count(graph, floatops.linear) in (13, 14, 15)  # patches, 2 (q, k, v, projection, 2 in the MLP), heads


def test_torchvision() -> None:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    graph = check(randomized(model))
    assert count(graph, floatops.attention) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2"])
def test_transformers(kind: str, attention: str) -> None:
    fields = {**HF, "mlp_ratio": 2} if kind == "Dinov2" else HF
    config = getattr(transformers, f"{kind}Config")(**fields, attn_implementation=attention)
    kind = "Dinov2Model" if kind == "Dinov2" else f"{kind}ForImageClassification"
    graph = check(randomized(getattr(transformers, kind)(config)))
    assert count(graph, floatops.attention) == 2


class Encoder(nn.Module):
    """torch's own encoder layer, over patches behind a batch norm."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 32, 8, 8, bias=False), nn.BatchNorm2d(32)
        self.encoder = nn.TransformerEncoderLayer(32, 2, 64, activation="gelu", **options)  # type: ignore[arg-type]
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.patch(image)).flatten(2).transpose(1, 2)
        return self.head(self.encoder(x))


@pytest.mark.parametrize("norm_first", [True, False])
def test_own_module_with_batch_norm_and_torch_encoder_layer(norm_first: bool) -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    graph = check(randomized(Encoder(batch_first=True, norm_first=norm_first)))
    assert count(graph, floatops.linear) == 1 + 3 + 1 + 2 + 1


def test_the_model_is_left_as_it_was() -> None:
    model = vit().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, SHAPE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_operation_knows_its_module() -> None:
    paths = {n.meta["path"] for n in capture(vit(), SHAPE).module.graph.nodes if n.op == "call_function"}
    assert {"patch", "blocks.0.norm1", "blocks.1.fc2", "norm", "head"} <= paths


def test_an_exported_program() -> None:
    program = torch.export.export(vit(), (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: Dim("batch")},))
    image = torch.randn(3, *SHAPE)
    assert torch.allclose(capture(program)(image)[0], vit()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_exported_program_of_another_batch(batch: int) -> None:
    """A fixed batch gives the graph or a refusal, never another function."""
    program = torch.export.export(vit(), (torch.zeros(batch, *SHAPE),))
    image = torch.randn(3, *SHAPE)
    try:
        graph = capture(program)
    except IntvitError:
        return
    assert torch.allclose(graph(image)[0], vit()(image), rtol=1e-4, atol=1e-5)


class Variant(nn.Module):
    """A tiny ViT whose block is followed by `change`."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.vit, self.change = vit(), change

    def forward(self, image: Tensor) -> Tensor:
        return self.change(self.vit.patch(image).flatten(2).transpose(1, 2))


class Call(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator]


def masked(x: Tensor) -> Tensor:
    q = x.unflatten(-1, (2, 16)).transpose(1, 2)
    mask = torch.ones(16, 16, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask).transpose(1, 2).flatten(2)


def chosen(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x + 2, (x,))


def biased(x: Tensor) -> Tensor:
    return ((x @ x.mT + torch.arange(16.0)).softmax(-1)) @ x


UNSUPPORTED = {
    "relu": (F.relu, "relu: no rule"),
    "fft": (lambda x: torch.fft.fft(x).real, "fft"),
    "mean": (lambda x: x.mean(1), "mean: no rule"),
    "causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "a mask on attention"),
    "mask": (masked, "a mask on attention"),
    "bias": (biased, "a bias or mask"),
    "softmax of tokens": (lambda x: x.softmax(-1), "softmax is only supported over the keys"),
    "softmax of queries": (lambda x: (x @ x.mT).softmax(1) @ x, "softmax is only supported over the keys"),
    "product of two": (lambda x: x * x, "expects a constant here"),
    "scores as output": (lambda x: x @ x.mT, "output"),
    "per token factor": (lambda x: x * torch.arange(16.0)[:, None], "constant per token"),
    "factor behind gelu": (lambda x: F.gelu(x) * torch.arange(32.0), "can only be folded"),
    "reordered tokens": (lambda x: F.gelu(x.flip(1)) + x, "different orders"),
    "flipped output": (lambda x: x.flip(1), "reordered"),
    "tokens in the last axis": (lambda x: F.layer_norm(x.mT, (16,)), "rows are mixed"),
    "concatenated twice": (lambda x: torch.cat([x, x], 1), "expects a constant here"),
    "alpha": (lambda x: torch.add(x, x, alpha=2), "alpha"),
    "broadcast sum": (lambda x: x + x[:, :1], "broadcasts"),
    "constant that broadcasts": (lambda x: F.layer_norm(x[:, :1], (32,)) + torch.ones(16, 32), "more elements"),
    "conv of tokens": (lambda x: F.conv1d(x, torch.ones(16, 16, 1)), "conv1d: no rule"),
    "constant output": (lambda x: torch.ones(2), "output"),
    "integers": (lambda x: x.long(), "a cast to torch.int64"),
    "control flow": (chosen, "cond: no rule"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operations_are_named_with_their_module(name: str) -> None:
    function, reason = UNSUPPORTED[name]
    with pytest.raises(UnsupportedOp, match=reason) as caught:
        capture(Variant(Call(function)), SHAPE)
    assert "change: " in str(caught.value) or "output" in str(caught.value)


def test_every_unsupported_operation_is_listed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(), nn.Tanh()
            self.patch = nn.Conv2d(3, 32, 8, 8)

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            x = self.patch(image).flatten(2).transpose(1, 2)
            return self.first(x), self.second(x)

    with pytest.raises(UnsupportedOp, match="2 operations") as caught:
        capture(Two(), SHAPE)
    assert "first: relu" in str(caught.value) and "second: tanh" in str(caught.value)


def test_an_operation_behind_an_unsupported_one_is_listed_too() -> None:
    chain = nn.Sequential(nn.ReLU(), nn.Dropout(), nn.LayerNorm(32), nn.Tanh(), nn.Flatten(1), nn.Sigmoid())
    with pytest.raises(UnsupportedOp, match="3 operations") as caught:
        capture(Variant(chain), SHAPE)
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(": no rule")[0] for line in listed] == [
        "change.0: relu", "change.3: tanh", "change.5: sigmoid"
    ]  # fmt: skip


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.gelu(x)


def in_full_precision(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return F.gelu(x)


@pytest.mark.parametrize("function", [without_gradients, in_full_precision])
def test_parts_under_a_context_manager(function: object) -> None:
    graph = check(Variant(Call(function)).eval())
    assert count(graph, floatops.gelu) == 1


def test_a_part_under_a_context_manager_is_searched_too() -> None:
    def sine(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.sin()

    with pytest.raises(UnsupportedOp, match="change: sin: no rule"):
        capture(Variant(Call(sine)), SHAPE)


def test_a_model_without_outputs() -> None:
    with pytest.raises(IntvitError, match="returns no tensor"):
        capture(Variant(Call(lambda x: None)), SHAPE)


@pytest.mark.parametrize(("layer", "reason"), [
    (nn.Conv2d(3, 8, 3, padding=1), "do not overlap"),
    (nn.Conv2d(3, 8, 8, 4), "do not overlap"),
    (nn.Conv2d(3, 6, 8, 8, groups=3), "do not overlap"),
    (nn.Conv2d(3, 8, 5, 5), "whole number of 5x5"),
    (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)), "directly on the image"),
])  # fmt: skip
def test_other_convolutions(layer: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedOp, match=reason):
        capture(nn.Sequential(layer, nn.Flatten(2)), SHAPE)


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 8, (1, 8, 8), (1, 8, 8))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.unsqueeze(1)).flatten(2).transpose(1, 2)


def test_three_dimensional_convolution() -> None:
    with pytest.raises(UnsupportedOp, match="conv: conv3d: no rule"):
        capture(Video(), SHAPE)


class DependsOnData(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        while image.sum() > 0:
            image = image - 1
        return image


class TwoInputs(nn.Module):
    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return image + other


def test_what_export_cannot_capture() -> None:
    with pytest.raises(UnsupportedOp, match="cannot capture DependsOnData"):
        capture(DependsOnData(), SHAPE)
    with pytest.raises(UnsupportedOp, match="cannot capture TwoInputs"):
        capture(TwoInputs(), SHAPE)


def test_a_program_with_two_images() -> None:
    images = (torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE))
    with pytest.raises(IntvitError, match="one image tensor"):
        capture(torch.export.export(TwoInputs(), images))


def test_an_image_of_another_size() -> None:
    with pytest.raises(IntvitError):
        capture(vit(), (3, 48, 48))


def test_weights_that_are_not_finite() -> None:
    model = vit()
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(IntvitError, match="NaN"):
        capture(model, SHAPE)
