"""Mixed bits end to end: the artifact keeps to its budget, and what is spent goes where it helps."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit import nibbles
from intvit.bits import BUDGET, Bits
from intvit.dialect import OPERATIONS
from intvit.errors import IntvitError
from intvit.frontend import capture
from intvit.integer_model import IntegerModel
from intvit.preprocess import Preprocessing
from intvit.rounding.budget import Budget
from intvit.verify.bit_exact import prove_bit_exact

PREPROCESSING = Preprocessing(size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3)
IMAGES = PREPROCESSING.normalize(tiny.pixels(48))
OTHERS = tiny.pixels(64, seed=9)
WHOLE = 31040
"""Weights of the tiny model's linear layers, of which 6464 are in the first and the last."""


@cache
def model(bits: str, budget: float | None = None) -> IntegerModel:
    return intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING, bits=bits, budget=budget)


def packed(found: IntegerModel) -> list[bool]:
    """Of each linear layer's weights, whether they are stored in 4 bits."""
    module = found.graph.module
    layers = module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    return [nibbles.fit(module.get_buffer(str(node.args[1].target)).numpy()) for node in layers]


def stored(found: IntegerModel) -> int:
    """Bytes of the weights of linear layers."""
    module = found.graph.module
    layers = module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    sizes = [module.get_buffer(str(node.args[1].target)).numel() for node in layers]
    return sum(size // 2 if small else size for size, small in zip(sizes, packed(found), strict=True))


def error(found: IntegerModel) -> float:
    """Of the answers, over their energy."""
    with torch.inference_mode():
        exact = tiny.vit()(torch.from_numpy(PREPROCESSING.normalize(OTHERS))).numpy()
    return float(np.square(found(OTHERS) - exact).sum() / np.square(exact).sum())


@pytest.mark.parametrize("budget", [0.61, 0.75, 0.9])
def test_the_weights_keep_to_the_budget_and_use_it(budget: float) -> None:
    """What is left would not pay for 8 bits in any layer more: the smallest has 1024 weights."""
    found = model("mixed", budget)
    assert budget * WHOLE - 512 < stored(found) <= budget * WHOLE
    assert not packed(found)[0] and not packed(found)[-1]


def test_between_few_bits_and_eight(tmp_path: Path) -> None:
    found = [model("W4A8"), model("mixed", 0.75), model("W8A8")]
    sizes = []
    for i, each in enumerate(found):
        each.save(tmp_path / f"{i}.intvit")
        sizes.append((tmp_path / f"{i}.intvit").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2] and stored(found[0]) < stored(found[1]) < stored(found[2]) == WHOLE
    assert error(found[1]) < 0.8 * error(found[0])


def test_the_same_every_time() -> None:
    again = intvit.quantize(tiny.vit(), IMAGES, calib=48, preprocessing=PREPROCESSING, bits="mixed", budget=0.75)
    assert again.digest == model("mixed", 0.75).digest


def test_exact_in_every_form(tmp_path: Path) -> None:
    found = model("mixed", 0.75)
    prove_bit_exact(intvit.compile(found), found)
    found.save(tmp_path / "m.intvit")
    again = intvit.load(tmp_path / "m.intvit")
    assert again.metadata.bits == "mixed 0.75"
    prove_bit_exact(again, found)


def test_the_whole_budget_is_eight_bits_everywhere() -> None:
    assert not any(packed(model("mixed", 1.0)))


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    """Before the model runs on any image; what it names is enough."""
    with pytest.raises(IntvitError, match=r"budget of 0.6 is too small.* give 0.605 or more"):
        intvit.quantize(tiny.vit(), IMAGES, preprocessing=PREPROCESSING, bits="mixed", budget=0.6)
    graph = capture(tiny.vit(), tiny.SHAPE)
    budget = Budget.of(graph, 0.605)
    assert sum(budget.weights.values()) == WHOLE - 6464 and budget.limit == int(0.605 * WHOLE) - 6464


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.5, float("nan")])
def test_budgets_that_are_no_shares(budget: float) -> None:
    with pytest.raises(IntvitError, match="give a share"):
        intvit.quantize(tiny.vit(), IMAGES, bits="mixed", budget=budget)


def test_what_the_words_mean() -> None:
    assert Bits.of("mixed", 0.6) == Bits(8, 8, 0.6) and str(Bits.of("mixed", 0.6)) == "mixed 0.60"
    assert Bits.of("MIXED").budget == BUDGET and not Bits.of("mixed", 1.0).whole
    with pytest.raises(IntvitError, match="not of W4A8"):
        Bits.of("W4A8", 0.6)
