"""From a name to a model: every form of name, every way in which weights do not fit."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from intvit.errors import IntvitError
from intvit.models import resolve
from intvit.preprocess import Preprocessing
from intvit.weights import check_finite, read_weights

TINY = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 5}
NAME = "timm:vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(resolve(NAME, "random", seed=1, **TINY).module.state_dict())


def test_timm_random_is_seeded_and_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = resolve(NAME, "random", **TINY), resolve(NAME, "random", **TINY)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
    assert not first.module.training
    assert not any(parameter.requires_grad for parameter in first.module.parameters())
    assert first.preprocessing is not None
    assert first.preprocessing.size == (32, 32)
    assert first.labels is None


def test_the_names_of_imagenet() -> None:
    resolved = resolve("timm:vit_tiny_patch16_224", "random", embed_dim=24, depth=1, num_heads=2)
    assert resolved.labels is not None
    assert len(resolved.labels) == 1000
    assert resolved.labels[0].startswith("tench")


def test_torchvision() -> None:
    resolved = resolve("torchvision:vit_b_16", "random", image_size=32, num_classes=5)
    assert resolved.preprocessing is not None
    assert resolved.preprocessing.size == (32, 32)
    assert resolved.labels is None
    squeezed = resolve("torchvision:squeezenet1_0", "random")
    assert squeezed.preprocessing == Preprocessing((224, 224), 256, interpolation="bilinear")


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict", "module", "compiled", "ema", "args", "half"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path: Path, state: dict[str, torch.Tensor], wrap: str, suffix: str) -> None:
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    content: Any = {
        "plain": state,
        "model": {"model": state, "epoch": 3},
        "state_dict": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        "module": {f"module.{name}": value for name, value in state.items()},
        "compiled": {f"_orig_mod.module.{name}": value for name, value in state.items()},
        "ema": {"model": other, "model_ema": state},
        "args": {"model": state, "args": argparse.Namespace(lr=0.1)},
        "half": {name: value.half() for name, value in state.items()},
    }[wrap]
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        if wrap not in ("plain", "module", "compiled", "half"):
            pytest.skip("safetensors holds tensors only")
        save_file(content, path)
    else:
        torch.save(content, path)
    loaded = resolve(NAME, path, **TINY).module.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value.half().float() if wrap == "half" else value, rtol=0, atol=0)


def test_every_key_that_does_not_fit_is_listed(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    content = {name: value for name, value in state.items() if "norm1" not in name}
    content |= {"head.weight": torch.zeros(7, 24), "extra.bias": torch.zeros(3)}
    save_file(content, tmp_path / "w.safetensors")
    with pytest.raises(IntvitError) as caught:
        resolve(NAME, tmp_path / "w.safetensors", **TINY)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("(keys: 2 missing, 1 unexpected, 1 of another shape); give this model's own weights")
    assert lines[1:] == [
        "  missing: blocks.0.norm1.bias [24]",
        "  missing: blocks.0.norm1.weight [24]",
        "  unexpected: extra.bias [3]",
        "  of another shape: head.weight [7, 24], the model has [5, 24]",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, state: dict[str, torch.Tensor], value: float) -> None:
    bad = dict(state, **{"blocks.0.mlp.fc1.bias": torch.full_like(state["blocks.0.mlp.fc1.bias"], value)})
    save_file(bad, tmp_path / "w.safetensors")
    with pytest.raises(IntvitError, match=r"w\.safetensors: NaN or infinity in blocks\.0\.mlp\.fc1\.bias; "):
        resolve(NAME, tmp_path / "w.safetensors", **TINY)


def test_a_mask_may_hold_infinity() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.full((2,), float("-inf")))
    check_finite(module)
    module.register_buffer("mean", torch.full((2,), float("nan")))
    with pytest.raises(IntvitError, match="model: NaN or infinity in mean"):
        check_finite(module)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(IntvitError, match=message) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    refused("gone.pth", "no such file; --weights takes a .safetensors or .pth or .pt file, or 'random'")
    (tmp_path / "w.onnx").write_bytes(b"x")
    refused("w.onnx", r"unknown kind of weights '\.onnx'")
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"")
        refused(name, "not a readable|cannot be loaded")
        (tmp_path / name).write_bytes(bytes(range(256)) * 8)
        refused(name, "not a readable|cannot be loaded")
    torch.save({"model": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:900])
    refused("cut.pth", "not a readable torch file")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    refused("whole.pth", r"cannot be loaded safely \(it holds Python objects, .*save model\.state_dict\(\)")
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "empty.pth")
    refused("empty.pth", r"holds no state dict \(found: epoch, best\)")


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm:vit_tiny_patch16_224", None, "the name alone has no weights; pass --weights FILE"),
        ("torchvision:vit_b_16", None, "the name alone has no weights; pass --weights FILE"),
        ("timm:vit_tiny_patch16_244", "random", "did you mean timm:vit_tiny_patch16_224 or"),
        ("torchvision:vit_b16", "random", "did you mean torchvision:vit_b_16 or"),
        ("timm:vit_tiny_patch16_224.nonsense", "random", r"could not be built \(RuntimeError: Invalid pretrained tag"),
        ("deit_tiny_patch16_224", "random", "did you mean timm:deit_tiny_patch16_224"),
        ("nonsense", "random", "not a model's name; write timm:MODEL, torchvision:MODEL"),
        ("tim:vit_tiny_patch16_224", "random", "no module tim; did you mean timm"),
        ("no.such.module:build", None, "no module no; the forms are"),
        ("json:loadz", None, "json has no function loadz; did you mean json:load or"),
        ("json:loads", None, r"could not be built \(TypeError"),
        ("platform:node", None, "returned str; the function has to return a torch.nn.Module"),
        ("hf:/no/such/folder", None, "no such folder; check the path"),
        ("hf:nobody/nothing", None, "the Hugging Face hub cannot be reached; download the repository"),
    ],
)
def test_wrong_names(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(IntvitError, match=message) as caught:
        resolve(name, weights)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(IntvitError, match=r"could not be built .*nonsense"):
        resolve(NAME, "random", nonsense=1)


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(IntvitError, match=r"timm is not installed: pip install timm, or pip install 'intvit\[test\]'"):
        resolve(NAME, "random")


SOURCE = """
import torch
from torch import nn
from intvit.preprocess import Preprocessing

def build(width=4):
    module = nn.Linear(width, 2)
    module.preprocessing = Preprocessing((8, 8))
    module.labels = ["cat", "dog"]
    return module

def broken():
    raise ValueError("first line\\nsecond")
"""


def test_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(SOURCE)
    (tmp_path / "own_failing.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    resolved = resolve("own_models:build")
    assert sys.path == path
    assert resolved.preprocessing == Preprocessing((8, 8))
    assert resolved.labels == ["cat", "dog"]
    torch.save({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "own.pth")
    assert float(resolve("own_models:build", "own.pth").module.weight.sum()) == 8  # type: ignore[operator]
    with pytest.raises(IntvitError, match="do not fit"):
        resolve("own_models:build", "own.pth", width=5)
    with pytest.raises(IntvitError, match=r"own_models:broken: could not be built \(ValueError: first line\)$"):
        resolve("own_models:broken")
    with pytest.raises(IntvitError, match=r"importing own_failing failed \(ModuleNotFoundError"):
        resolve("own_failing:build")


def save_transformers(folder: Path, kind: str) -> Any:
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    sizes |= {"image_size": 32, "patch_size": 16}
    model: Any
    if kind == "clip":
        text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=sizes, text_config=text, projection_dim=8))
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    else:
        names = {0: "cat", 1: "dog", 2: "bird"}
        labels: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **labels))
    model.save_pretrained(folder)
    return model


def test_hub_folder(tmp_path: Path) -> None:
    import transformers

    saved = save_transformers(tmp_path, "vit")
    resolved = resolve(f"hf:{tmp_path}")
    assert type(resolved.module) is type(saved)
    assert all(torch.equal(resolved.module.state_dict()[key], value) for key, value in saved.state_dict().items())
    assert resolved.labels == ["cat", "dog", "bird"]
    assert resolved.preprocessing is not None
    assert resolved.preprocessing.size == (32, 32)
    assert resolved.notes == (
        f"hf:{tmp_path}: no preprocessor_config.json; the defaults of ViTImageProcessorPil are assumed",
    )
    processor = transformers.ViTImageProcessorPil(size={"height": 48, "width": 40}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    resolved = resolve(f"hf:{tmp_path}")
    assert resolved.notes == ()
    assert resolved.preprocessing is not None
    assert (resolved.preprocessing.size, resolved.preprocessing.mean) == ((48, 40), (0.1, 0.2, 0.3))
    random = resolve(f"hf:{tmp_path}", "random").module.state_dict()
    assert not torch.equal(random["classifier.weight"], saved.state_dict()["classifier.weight"])


def test_hub_vision_tower(tmp_path: Path) -> None:
    saved = save_transformers(tmp_path, "clip")
    resolved = resolve(f"hf:{tmp_path}")
    assert type(resolved.module).__name__ == "CLIPVisionModelWithProjection"
    assert torch.equal(resolved.module.visual_projection.weight, saved.visual_projection.weight)  # type: ignore[arg-type, union-attr]
    assert resolved.preprocessing is not None
    assert (resolved.preprocessing.size, resolved.preprocessing.alpha) == ((32, 32), "white")


def test_hub_weights_that_do_not_fit(tmp_path: Path) -> None:
    saved = save_transformers(tmp_path, "dinov2")
    assert resolve(f"hf:{tmp_path}").labels is None
    state = dict(saved.state_dict())
    save_file(state, tmp_path / "other.safetensors")
    resolve(f"hf:{tmp_path}", tmp_path / "other.safetensors")
    removed = sorted(state)[0]
    del state[removed]
    state |= {"extra": torch.zeros(1), "layernorm.weight": torch.zeros(3)}
    for file in ("other.safetensors", "model.safetensors"):
        save_file(state, tmp_path / file, metadata={"format": "pt"})
        with pytest.raises(IntvitError, match="do not fit the model") as caught:
            resolve(f"hf:{tmp_path}", tmp_path / file if file == "other.safetensors" else None)
        message = str(caught.value)
        assert f"missing: {removed}" in message
        assert "unexpected: extra" in message
        assert "of another shape: layernorm.weight [3], the model has [32]" in message
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(IntvitError, match="no loadable weights"):
        resolve(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(IntvitError, match=r"no loadable weights .*; pass --weights FILE or --weights random"):
        resolve(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(IntvitError, match=r"config\.json is not one that transformers knows"):
        resolve(f"hf:{tmp_path}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(IntvitError, match=r"the folder has no config\.json"):
        resolve(f"hf:{tmp_path}")


def test_deit_tiny_fits(data_folder: Path) -> None:
    resolved = resolve("timm:deit_tiny_patch16_224", data_folder / "deit_tiny_patch16_224.safetensors")
    assert sum(parameter.numel() for parameter in resolved.module.parameters()) == 5_717_416
    assert resolved.preprocessing is not None
    assert resolved.preprocessing.resize == 248  # timm's crop_pct 0.9; the protocol of the data overrides it with 256


def test_the_runtime_half_does_not_import_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import intvit.data, intvit.preprocess, intvit.files"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1], timeout=60)
