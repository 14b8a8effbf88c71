"""`intvit inspect --coverage`: what each operation becomes, and how models that are not supported are refused."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit import floatops
from intvit.coverage import coverage
from intvit.passes.lower_attention import LowerAttention
from intvit.passes.pipeline import PASSES

Command = Callable[..., Any]
SHAPE = (3, 32, 32)
SECONDS = 30


class Small(nn.Module):
    """A convolution with batch norm, attention by hand, a function, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16)
        self.qkv, self.act, self.head = nn.Linear(16, 48), nn.SiLU(), nn.Linear(16, 5)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.patch(image)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
        with torch.no_grad():
            weights = F.dropout(((q * 0.25) @ k.mT).softmax(-1), 0.1, self.training)
        x = x + (weights @ v).transpose(1, 2).flatten(2) * self.scale.exp()
        logits: Tensor = self.head(self.act(x).mean(1))
        return logits


class Video(nn.Module):
    """A three-dimensional convolution, and a function that has no rule behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 8, (1, 8, 8), (1, 8, 8)), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(image.unsqueeze(1)).flatten(2).mT.mean(1))
        return logits.cumsum(1)


class Fourier(nn.Module):
    """Tokens mixed by an FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)

    def forward(self, image: Tensor) -> Tensor:
        mixed: Tensor = torch.fft.irfft2(torch.fft.rfft2(self.patch(image)) * 2.0)
        return mixed.flatten(1)


class Loop(nn.Module):
    """As long as its data say."""

    def forward(self, image: Tensor) -> Tensor:
        while image.sum() > 0:
            image = image - 1
        return image


class EachImage(nn.Module):
    """A loop over the images of a batch."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([image.mean(0) for image in images])


class TwoInputs(nn.Module):
    """An image and something else."""

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return image + other


def text() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    model: nn.Module = transformers.BertModel(config)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "video": (Video, ("conv: conv3d: ", "a convolution over 3 axes", "(model): cumsum: no rule")),
    "fourier": (Fourier, ("(model): fft_rfft2: _fft_r2c: no rule", "(model): fft_irfft2: _fft_c2r: no rule")),
    "loop": (Loop, ("cannot capture Loop", "depends on the values of the image", "while image.sum() > 0")),
    "each_image": (EachImage, ("cannot capture EachImage", "depends on the number of images")),
    "two_inputs": (TwoInputs, ("cannot capture TwoInputs: it needs 2 inputs (image, other)",)),
    "text": (text, ("cannot capture BertModel: it takes input_ids, not an image",)),
}


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The models of this file as `own:NAME`."""
    module = ModuleType("own")
    module.__dict__.update({name: maker for name, (maker, _) in REFUSED.items()}, small=Small)
    monkeypatch.setitem(sys.modules, "own", module)
    yield


def test_each_operation_and_what_it_becomes(intvit: Command) -> None:
    done = intvit("inspect", "--coverage", "own:small", "--size", 32, "--json")
    assert done.code == 0, done
    assert done.err == "" or done.err.endswith(" s\n")
    found = done.json
    assert found["input_shape"] == list(SHAPE)
    assert found["integer_only"] is True and found["unsupported"] == []
    rows = {(row["path"], row["operation"]): row for row in found["rows"]}
    becomes = {key: row["becomes"] for key, row in rows.items()}
    assert becomes["patch", "conv2d"] == "patchify, linear"
    assert becomes["norm", "batch_norm"] == "folded into linear"
    assert becomes["qkv", "linear"] == "3 linear"
    assert becomes["", "permute"] == "movement: nothing"
    assert becomes["", "softmax"] == "folded into attention"
    assert becomes["", "dropout"] == "nothing: the same values"
    assert becomes["", "exp"] == "constant"
    assert becomes["", "add"] == "add"
    assert becomes["act", "silu"] == "pointwise"
    assert becomes["head", "linear"] == "linear"
    assert sorted(row["becomes"] for row in found["rows"] if row["operation"] == "matmul") == [
        "attention", "folded into attention"
    ]  # fmt: skip
    assert rows["patch", "conv2d"]["passes"] == ["lower-patchify", "lower-linear"]
    assert found["operations"] == sum(row["count"] for row in found["rows"])
    assert found["canonical_operations"] == sum(len(row["canonical"]) * row["count"] for row in found["rows"])


def test_the_rows_name_every_canonical_operation_of_the_captured_graph() -> None:
    from intvit.frontend import capture

    model = Small().eval()
    made = [name for row in coverage(model, SHAPE).rows for name in row.canonical * row.count]
    graph = capture(model, SHAPE).module.graph
    assert sorted(made) == sorted(node.target.__name__ for node in graph.nodes if node.op == "call_function")


def test_the_table(intvit: Command) -> None:
    done = intvit("inspect", "own:small", "--coverage", "--size", "3x32x32")
    assert done.code == 0, done
    lines = [line.split() for line in done.out.splitlines()]
    assert ["act", "silu", "1", "pointwise", "(lower-activation)"] in lines
    assert done.out.splitlines()[-1].endswith("canonical ones, all of which are lowered to integers")


def test_blocks_that_differ_in_their_number_share_a_row(intvit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocks() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 8, 8), *(nn.Sequential(nn.SiLU(), nn.Conv2d(8, 8, 1)) for _ in range(3)))

    monkeypatch.setattr(sys.modules["own"], "blocks", blocks, raising=False)
    lines = [line.split() for line in intvit("inspect", "--coverage", "own:blocks", "--size", 32).out.splitlines()]
    assert ["*.*", "silu", "3", "pointwise", "(lower-activation)"] in lines
    rows = intvit("inspect", "--coverage", "own:blocks", "--size", 32, "--json").json["rows"]
    assert [row["path"] for row in rows if row["operation"] == "silu"] == ["1.0", "2.0", "3.0"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_float_is_listed(name: str, intvit: Command) -> None:
    _, reasons = REFUSED[name]
    before = time.perf_counter()
    done = intvit("inspect", "--coverage", f"own:{name}", "--size", 32)
    assert time.perf_counter() - before < SECONDS
    done.refused(*reasons, code=3)
    assert "not supported" in done.out.splitlines()[-1]
    found = intvit("inspect", "--coverage", f"own:{name}", "--size", 32, "--json")
    assert found.code == 3
    assert found.json["integer_only"] is False
    assert all(any(reason in line for line in found.json["unsupported"]) for reason in reasons)


@pytest.mark.parametrize("name", REFUSED)
def test_quantize_refuses_it_too(name: str, intvit: Command, images: Path, tmp_path: Path) -> None:
    _, reasons = REFUSED[name]
    done = intvit("quantize", f"own:{name}", "--size", 32, "--data", images, "-o", tmp_path / "m.intvit")
    done.refused(*reasons, code=3)
    assert list(tmp_path.iterdir()) == []


def test_a_text_model_of_a_folder(intvit: Command, images: Path, tmp_path: Path) -> None:
    text().save_pretrained(tmp_path / "bert")  # type: ignore[operator]
    for command in (
        ("inspect", "--coverage", f"hf:{tmp_path / 'bert'}"),
        ("quantize", f"hf:{tmp_path / 'bert'}", "--data", images, "-o", tmp_path / "m.intvit"),
    ):
        intvit(*command).refused("BertModel takes input_ids, not images", code=3)


def test_an_operation_without_its_pass_stays_float() -> None:
    passes = [step for step in PASSES if not isinstance(step, LowerAttention)]
    found = coverage(Small().eval(), SHAPE, passes)
    assert found.unsupported == (f"(model): matmul: no pass lowers {floatops.attention.__name__}",)


def test_a_rule_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setitem(sys.modules["intvit.frontend.rules.registry"].RULES, "silu", broken)
    found = coverage(Small().eval(), SHAPE)
    assert found.unsupported == ("act: silu: not in this form (IndexError: list index out of range)",)


@pytest.mark.parametrize("size", ["0", "32x", "3x32x32x1", "a"])
def test_a_size_that_is_none(size: str, intvit: Command) -> None:
    intvit("inspect", "--coverage", "own:small", "--size", size).refused("--size", "CHANNELSxHEIGHTxWIDTH")


def test_options_of_coverage_alone(intvit: Command, tmp_path: Path) -> None:
    intvit("inspect", tmp_path / "m.intvit", "--size", "32").refused("--size is of --coverage")
    intvit("inspect", "--coverage", "timm:no_such_model").refused("timm has no such model")
