"""Any spelling of a ViT becomes the same canonical operations, and computes what the model computes."""

from collections.abc import Callable

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


def chosen(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x + 2, (x,))


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "fft": (lambda x: torch.fft.fft(x).real, "fft_fft: "),
    "conv3d": (lambda x: F.conv3d(x[:, None, None], torch.ones(1, 1, 1, 3, 3)), "conv3d: "),
    "conv1d": (lambda x: F.conv1d(x, torch.ones(16, 16, 1)), "conv1d: "),
    "order": (lambda x: F.normalize(x, p=1.0, dim=-1), "linalg_vector_norm: a norm is only supported of length 2"),
    "batch": (lambda x: x.mean(), "mean: a reduction over the batch"),
    "images": (lambda x: torch.cat([x, x]), "cat: a concatenation of images of a batch"),
    "sorted": (lambda x: x.sort(-1)[0], "sort: no rule for this operation"),
    "places": (lambda x: x.max(-1)[1] * 1.0, "where a maximum lies has no integer form"),
    "integers": (lambda x: x.long(), "a cast to torch.int64"),
    "sine": (torch.sin, "sin: no rule for this operation"),
    "dropout": (lambda x: F.dropout(x, 0.5), "dropout: dropout that is active in evaluation too"),
    "cond": (chosen, "cond: no rule"),
}


class All(nn.Module):
    """Every refused function of the same tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        for name, (function, _) in REFUSED.items():
            setattr(self, name, Call(function))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch(image).flatten(2).mT
        return [getattr(self, name)(x) for name in REFUSED]


def test_every_unsupported_operation_is_listed_with_its_module() -> None:
    with pytest.raises(UnsupportedOp, match="operations have no integer form") as caught:
        capture(All(), SHAPE)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    for name, (_, reason) in REFUSED.items():
        assert any(line.startswith(f"{name}: ") and reason in line for line in lines), (name, lines)


def test_outputs_that_are_refused() -> None:
    model = Variant(Call(lambda x: (x, torch.ones(2), x.flip(0), x.max(-1)[1])))
    with pytest.raises(UnsupportedOp, match="3 operations") as caught:
        capture(model, SHAPE)
    for reason in ("an output that does not depend on the image", "images of a batch are mixed", "where a maximum"):
        assert reason in str(caught.value)


def test_an_operation_behind_an_unsupported_one_is_listed_too() -> None:
    chain = nn.Sequential(Call(torch.sin), nn.Dropout(), nn.LayerNorm(32), Call(torch.cos), nn.ReLU(), Call(torch.sort))
    with pytest.raises(UnsupportedOp, match="3 operations") as caught:
        capture(Variant(chain), SHAPE)
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(": no rule")[0] for line in listed] == ["change.0: sin", "change.3: cos", "change.5: sort"]


class Several(nn.Module):
    """Hidden states, a map and logits, with a shared layer and branches that the export resolves."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.patch, self.shared = nn.Conv2d(4, 16, 4, 4), nn.Linear(16, 16)
        self.norm, self.head, self.deep = nn.LayerNorm(16), nn.Linear(16, 5), deep
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> dict[str, object]:
        x = self.patch(image)
        grid = x
        x = x.flatten(2).mT
        states = [x]
        for i in range(3 if self.deep else 1):
            x = x + self.drop(F.gelu(self.shared(x)))
            if i % 2 == 0 and x.shape[1] > 4:
                states.append(self.norm(x))
        return {"states": tuple(states), "map": grid, "logits": self.head(x.mean(1)), "none": None}


@pytest.mark.parametrize("deep", [False, True])
def test_several_outputs_shared_weights_and_branches(deep: bool) -> None:
    graph = check(randomized(Several(deep)), (4, 12, 20))
    assert graph.input_shape == (4, 12, 20)
    states = [(15, 16)] * (3 if deep else 2)
    assert sorted(map(tuple, graph.output_shapes)) == sorted([*states, (16, 3, 5), (5,)])
    assert count(graph, floatops.gelu) == (3 if deep else 1)


@pytest.mark.parametrize("shape", [(1, 16, 24), (4, 24, 8), (3, 40, 16)])
def test_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(shape[0], 8, 8, 8), nn.Flatten(2), nn.Linear(shape[1] * shape[2] // 64, 4))
    assert check(randomized(model), shape).output_shapes == ((8, 4),)


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
