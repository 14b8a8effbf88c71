"""A compiled module gives the integers of its reference, on every instruction set that this machine runs."""

import platform

import numpy as np
import pytest
import tiny

import intvit
from intvit.errors import IntvitError, VerifyError
from intvit.integer_model import IntegerModel
from intvit.runtime import CompiledModel
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float_code import prove_no_float_instructions

pytest.importorskip("tvm")
from intvit.targets import NEEDS, TARGETS, resolve, runs_here, variants_of


@pytest.fixture(scope="module", params=["default", "paper"])
def compiled(request: pytest.FixtureRequest) -> tuple[IntegerModel, CompiledModel]:
    model = tiny.integer_model(request.param)
    return model, intvit.compile(model)


def test_every_target_has_its_feature() -> None:
    assert set(NEEDS) == {name for name, cpu in TARGETS.items() if not cpu.variants} - {"generic"}


def test_auto_is_the_best_that_runs_here() -> None:
    best = resolve("auto").name
    assert runs_here(best)
    better = list(NEEDS)[: list(NEEDS).index(best)]
    assert not any(runs_here(name) for name in better)


@pytest.mark.parametrize("target", TARGETS)
def test_the_integers_of_the_reference(target: str) -> None:
    if not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    model = tiny.integer_model()
    module = intvit.compile(model, target)
    assert module.target == target
    assert module.variant == next(cpu.name for cpu in variants_of(TARGETS[target]) if runs_here(cpu.name))
    assert prove_bit_exact(module, model) > 0
    assert prove_no_float_instructions(module.path) > 5000


def test_both_presets(compiled: tuple[IntegerModel, CompiledModel]) -> None:
    model, module = compiled
    assert module.digest == model.digest and module.metadata == model.metadata
    assert prove_bit_exact(module, model) > 0


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_any_batch(compiled: tuple[IntegerModel, CompiledModel], batch: int) -> None:
    model, module = compiled
    pixels = tiny.pixels(batch, seed=batch)
    np.testing.assert_array_equal(module(pixels, raw=True), model(pixels, raw=True))


@pytest.mark.parametrize("kind", ["darkest", "brightest", "one pixel"])
def test_extremes(compiled: tuple[IntegerModel, CompiledModel], kind: str) -> None:
    model, module = compiled
    pixels = np.full((2, 32, 32, 3), 255 if kind == "brightest" else 0, np.uint8)
    if kind == "one pixel":
        pixels[:, 5, 7] = 255
    np.testing.assert_array_equal(module(pixels, raw=True), model(pixels, raw=True))


def test_only_an_integer_model_is_compiled() -> None:
    with pytest.raises(IntvitError, match="only an integer model can be compiled, not TinyViT"):
        intvit.compile(tiny.vit())  # type: ignore[arg-type]


def test_an_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(IntvitError, match=r"unknown target 'x86-64-v5'.*did you mean x86-64"):
        intvit.compile(tiny.integer_model(), "x86-64-v5")


def test_what_does_not_run_here_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*arguments: object) -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr("intvit.compilation.write_module", compiled)
    target = "riscv64" if platform.machine() != "riscv64" else "aarch64"
    with pytest.raises(IntvitError, match=f"^target {target} is for {target}, which this machine is not: choose auto"):
        intvit.compile(tiny.integer_model(), target)


def test_what_could_overflow_is_not_compiled() -> None:
    model = tiny.integer_model()
    graph = type(model.graph).of(model.graph.module, model.graph.input_grid, (1.0,), ((10,),))
    linear = next(n for n in graph.module.graph.nodes if n.op == "call_function" and "linear" in str(n.target))
    bias = str(linear.args[2].target)
    graph.module.register_buffer(bias, torch_full_like(graph.module.get_buffer(bias)))
    with pytest.raises(VerifyError, match="can reach"):
        intvit.compile(IntegerModel(graph, model.metadata))


def torch_full_like(bias):
    return bias.clone().fill_(2**31 - 1)
