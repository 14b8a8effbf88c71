"""Models with 4-bit weights: the same integers from modules of half the size, and which layers are packed."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit.dialect import OPERATIONS
from intvit.integer_model import IntegerModel
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float_code import prove_no_float_instructions

pytest.importorskip("tvm")
from intvit.compilation import write_module
from intvit.kernels.isa import AMX, AVX2, AVX512_VNNI, DOTPROD, WIDE, Isa
from intvit.program import Program, program_of
from intvit.targets import NEEDS, runs_here


@cache
def small_model() -> IntegerModel:
    return tiny.with_small_weights(tiny.integer_model())


@cache
def wide_model() -> IntegerModel:
    """One whose weights are most of its file: 2 MB."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.integer_model_of(tiny.TinyViT(dim=416, depth=1).eval(), "wide")


def weights_of(model: IntegerModel) -> list[torch.Tensor]:
    module = model.graph.module
    nodes = module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    return [module.get_buffer(str(node.args[1].target)) for node in nodes]


def packed_bytes(program: Program) -> list[int]:
    """Of the weights of each linear layer, in order."""
    return [step.arguments[1].nbytes for step in program.steps if step.name.startswith("product")]


@pytest.mark.parametrize("target", NEEDS)
def test_the_integers_of_the_reference(target: str) -> None:
    if not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    model = small_model()
    module = intvit.compile(model, target)
    assert prove_bit_exact(module, model) > 0
    assert prove_no_float_instructions(module.path) > 5000


@pytest.mark.parametrize("isa", [AMX, AVX512_VNNI, AVX2, WIDE, DOTPROD], ids=lambda isa: isa.name)
def test_each_layer_is_packed_by_its_own_weights(isa: Isa) -> None:
    """One weight beyond 4 bits, and the layer has 8."""
    whole = packed_bytes(program_of(tiny.integer_model(), isa))
    model = tiny.with_small_weights(tiny.integer_model())
    weights = weights_of(model)
    weights[1][3, 5] = 8
    weights[4][0, 0] = -9
    found = packed_bytes(program_of(model, isa))
    assert found == [size if i in (1, 4) else size // 2 for i, size in enumerate(whole)]


def test_kernels_of_both_kinds_are_tuned_apart() -> None:
    found = [
        {
            t.name
            for step in program_of(model, AVX2).steps
            if (t := step.kernel.tunable) and t.name.startswith("product")
        }
        for model in (tiny.integer_model(), small_model())
    ]
    assert {f"{name} 4-bit" for name in found[0]} == found[1]


def test_files_and_modules_fall_to_near_half(tmp_path: Path) -> None:
    wide = wide_model()
    small = tiny.with_small_weights(wide)
    for model, name in ((wide, "wide"), (small, "small")):
        model.save(tmp_path / f"{name}.intvit")
        write_module(model, tmp_path / f"{name}.so", "x86-64-v3")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    half = sum(weight.nbytes for weight in weights_of(wide)) // 2
    assert sizes["small.intvit"] < 0.55 * sizes["wide.intvit"]
    assert sizes["small.so"] < 0.65 * sizes["wide.so"]
    for suffix in ("intvit", "so"):
        assert abs(sizes[f"wide.{suffix}"] - sizes[f"small.{suffix}"] - half) < 0.1 * half


def test_a_file_and_its_module_agree(tmp_path: Path) -> None:
    small_model().save(tmp_path / "m.intvit")
    loaded = IntegerModel.load(tmp_path / "m.intvit")
    module = intvit.compile(loaded)
    assert module.digest == small_model().digest
    pixels = tiny.pixels(3)
    np.testing.assert_array_equal(module(pixels, raw=True), small_model()(pixels, raw=True))
