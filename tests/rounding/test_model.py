"""Models of few bits end to end: what they promise about their integers, nearer to float than plain rounding, exact."""

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit import floatops
from intvit.bits import Bits
from intvit.dialect import OPERATIONS
from intvit.errors import IntvitError
from intvit.grid import Role
from intvit.grids import PRESETS
from intvit.integer_model import IntegerModel
from intvit.nodes import arguments
from intvit.passes.pipeline import PASSES
from intvit.preprocess import Preprocessing
from intvit.rounding.model import recipe, round_model
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float

PREPROCESSING = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
IMAGES = PREPROCESSING.normalize(tiny.pixels(48))
OTHERS = tiny.pixels(64, seed=9)
WIDTHS = ["W4A8", "W6A6", "W4A4"]


@cache
def model(bits: str, preset: str = "default") -> IntegerModel:
    return intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING, bits=bits, preset=preset)


def weights(found: IntegerModel) -> list[torch.Tensor]:
    module = found.graph.module
    layers = module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    return [module.get_buffer(str(node.args[1].target)) for node in layers]


def error(found: IntegerModel) -> float:
    """Of the answers, over their energy."""
    with torch.inference_mode():
        exact = tiny.vit()(torch.from_numpy(PREPROCESSING.normalize(OTHERS))).numpy()
    return float(np.square(found(OTHERS) - exact).sum() / np.square(exact).sum())


@pytest.mark.parametrize("bits", WIDTHS)
def test_weights_have_their_bits_and_the_first_and_last_layer_eight(bits: str) -> None:
    first, *inner, last = weights(model(bits))
    largest = (1 << (Bits.of(bits).weights - 1)) - 1
    assert all(int(weight.abs().max()) <= largest for weight in inner)
    assert all(int(weight.abs().max()) > 31 for weight in (first, last))


@pytest.mark.parametrize("bits", ["W6A6", "W4A4"])
def test_operands_have_their_bits(bits: str) -> None:
    found = model(bits)
    tables = found.graph.module.graph.find_nodes(op="call_function", target=OPERATIONS["levels"].call)
    # Of a block: norm, q, k, v, attention, norm, GELU; of the last, the norm of all tokens and of the one that asks.
    assert len(tables) == 2 * 7 + 1
    for node in tables:
        assert len(found.graph.module.get_buffer(str(node.args[1].target)).unique()) <= 1 << Bits.of(bits).activations
    attentions = found.graph.module.graph.find_nodes(op="call_function", target=OPERATIONS["attention"].call)
    assert all(node.args[-1] == 1 << Bits.of(bits).activations for node in attentions)


def test_tokens_that_nothing_reads_do_not_move_the_one_that_is_read() -> None:
    """A class token that hardly varies: the grids of its last block hold hardly anything of the other tokens."""
    module = tiny.vit()
    with torch.no_grad():
        module.token.mul_(10)
    found = intvit.quantize(module, IMAGES, calib=48, preprocessing=PREPROCESSING)
    assert min(layer.snr for layer in found.metadata.layers if layer.snr is not None) > 30


def test_nearer_to_float_than_plain_rounding() -> None:
    plain = tiny.with_small_weights(tiny.integer_model())
    assert error(model("W4A8")) < 0.3 * error(plain)
    assert error(model("W6A6")) < error(model("W4A4"))
    assert error(model("W8A8", "accurate")) < error(model("W6A6"))


@pytest.mark.parametrize("bits", WIDTHS)
def test_exact_in_every_form(bits: str, tmp_path: Path) -> None:
    found = model(bits)
    prove_no_float(found.graph)
    prove_bit_exact(intvit.compile(found), found)
    intvit.export(found).save(tmp_path / "m.onnx")
    prove_bit_exact(intvit.load(tmp_path / "m.onnx"), found)
    found.save(tmp_path / "m.intvit")
    again = intvit.load(tmp_path / "m.intvit")
    assert again.metadata.bits == bits
    prove_bit_exact(again, found)


def test_a_layer_serves_the_tokens_that_the_answer_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    by_tokens = model("W8A8")
    monkeypatch.setattr("intvit.rounding.model.energies", lambda graph, images: {})
    alike = intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING)
    assert error(by_tokens) < error(alike)


def test_levels_behind_gelu_may_be_those_of_a_tangent() -> None:
    found = intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING, bits="W4A4", codebook="tangent")
    assert error(found) < 1 and found.digest != model("W4A4").digest
    prove_bit_exact(intvit.compile(found), found)


def test_accurate_trains_longer() -> None:
    assert recipe(Bits(4, 8), accurate=True).steps == recipe(Bits(4, 4)).steps > recipe(Bits(4, 8)).steps


def test_the_same_every_time() -> None:
    again = intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING, bits="W4A8")
    assert again.digest == model("W4A8").digest


def test_one_image_and_images_in_batches_will_do() -> None:
    for calib, batch, bits in ((1, 10, "W4A4"), (5, 2, "W3A3"), (5, 2, "W7A5")):
        found = intvit.quantize(tiny.small(), IMAGES, calib=calib, batch=batch, preprocessing=PREPROCESSING, bits=bits)
        assert np.isfinite(found(OTHERS[:2])).all()


@pytest.mark.parametrize("bits", ["W4", "A8", "W2A8", "W9A8", "4/8", "", "mixed?"])
def test_other_widths_are_refused_before_any_work(bits: str) -> None:
    with pytest.raises(IntvitError, match="unknown bits"):
        intvit.quantize(tiny.vit(), IMAGES, bits=bits)


def test_the_paper_has_eight_bits() -> None:
    with pytest.raises(IntvitError, match="W8A8, as published"):
        intvit.quantize(tiny.vit(), IMAGES, bits="W4A8", preset="paper", passes=PASSES)


def test_a_row_of_zeros_keeps_its_bias() -> None:
    pruned = tiny.small()
    with torch.no_grad():
        pruned.blocks[0].fc1.weight[3] = 0
        pruned.blocks[0].fc1.bias[3] = 0.3
    found = intvit.quantize(pruned, IMAGES, calib=16, preprocessing=PREPROCESSING, bits="W4A8")
    with torch.inference_mode():
        exact = pruned(torch.from_numpy(PREPROCESSING.normalize(OTHERS))).numpy()
    assert np.square(found(OTHERS) - exact).sum() < 0.1 * np.square(exact).sum()


def test_heads_that_are_added_keep_eight_bits() -> None:
    class TwoHeads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = tiny.small()
            self.other = torch.nn.Linear(32, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.vit.patch(image).flatten(2).transpose(1, 2)
            x = self.vit.norm(self.vit.blocks[0](x))
            return (self.vit.head(x[:, 0]) + self.other(x[:, 1])) / 2

    found = intvit.quantize(TwoHeads().eval(), IMAGES, calib=16, preprocessing=PREPROCESSING, bits="W4A4")
    assert [int(weight.abs().max()) > 31 for weight in weights(found)].count(True) == 3


@pytest.mark.parametrize("bits", ["W4A4", "W4A8"])
@pytest.mark.parametrize("name", ["mixed", "windowed"])
def test_steps_that_follow_from_grids_still_do(name: str, bits: str) -> None:
    """Models whose products of tensors, windows and depthwise convolutions read what is trained around them."""
    graph = importlib.import_module(name).calibrated().source
    width = Bits.of(bits)
    policy = replace(PRESETS["default"], activations=width.activations)
    _, found = round_model(graph, [tiny.pixels(16)], tiny.GRID, policy, width)
    for node in found.source.module.graph.find_nodes(op="call_function", target=floatops.product):
        left, right = (found.grid(operand, Role.MATRIX).scale for operand in arguments(node)[:2])
        assert torch.allclose(found.grid(node, Role.ACCUMULATOR).scale, left * right)
    for node in found.source.module.graph.find_nodes(op="call_function", target=floatops.unfold):
        source = found.grid(arguments(node)[0], Role.PRODUCT).scale
        assert torch.allclose(found.grid(node, Role.PRODUCT).scale[: source.numel()], source)
