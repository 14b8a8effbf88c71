"""The whole pipeline, and the pipeline without one of its passes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import GRID, calibrated, captured, integer_model, pixels

from intvit import boundary
from intvit.dialect import operation_of
from intvit.errors import UnsupportedOp
from intvit.noise import decibel
from intvit.passes.base import LoweringPass, Pass
from intvit.passes.fold_boundaries import FoldBoundaries
from intvit.passes.lower_attention import LowerAttention, exponential_bits
from intvit.passes.lowering import LEGAL, Lowering
from intvit.passes.pipeline import PASSES, lower, lower_with_layers
from intvit.verify.overflow import prove_no_overflow

PRESETS = pytest.mark.parametrize("preset", ["default", "paper"])
SNR = {"default": 35.0, "paper": 18.0}


def operations(graph: torch.fx.Graph) -> list[object]:
    return [n.target for n in graph.nodes if n.op == "call_function"]


def float_output(images: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return captured()(torch.from_numpy(GRID.normalized(images)))[0]


def signal_to_noise(exact: torch.Tensor, got: torch.Tensor) -> float:
    return decibel(float(exact.double().square().sum()), float((exact.double() - got.double()).square().sum()))


@PRESETS
def test_only_integer_operations_are_left(preset: str) -> None:
    graph = integer_model(preset).graph
    assert all(operation_of(target) is not None for target in operations(graph.module.graph))
    assert not any(buffer.is_floating_point() for _, buffer in graph.module.named_buffers())
    prove_no_overflow(graph)


@PRESETS
def test_the_result_is_near_float(preset: str) -> None:
    images = pixels(16, seed=9)
    assert signal_to_noise(float_output(images), torch.from_numpy(integer_model(preset)(images))) > SNR[preset]


@PRESETS
def test_images_of_a_batch_do_not_meet(preset: str) -> None:
    model, images = integer_model(preset), pixels(3)
    together = model(images, raw=True)
    assert all(np.array_equal(together[i : i + 1], model(images[i : i + 1], raw=True)) for i in range(3))


@PRESETS
def test_lowering_twice_gives_the_same_graph(preset: str) -> None:
    first, second = (lower(calibrated(preset)) for _ in range(2))
    assert str(first.module.graph) == str(second.module.graph)
    for (name, one), (other, two) in zip(first.module.named_buffers(), second.module.named_buffers(), strict=True):
        assert name == other and torch.equal(one, two)


def test_passes_may_come_in_any_order_but_the_last() -> None:
    graph = lower(calibrated(), (*reversed(PASSES[:-1]), PASSES[-1]))
    expected = integer_model().graph
    image = torch.from_numpy(pixels(2))
    assert torch.equal(graph(image)[0], expected(image)[0])


NEEDED = [step for step in PASSES[:-1] if type(step).target in operations(captured().module.graph)]
"""Passes that have something to lower in the tiny model."""


def test_the_tiny_model_needs_several_passes() -> None:
    assert {step.name for step in NEEDED} == {
        "lower-patchify", "lower-concat-tokens", "lower-select-tokens", "lower-layernorm", "lower-linear",
        "lower-attention", "lower-gelu", "lower-residual",
    }  # fmt: skip


@PRESETS
@pytest.mark.parametrize("step", NEEDED, ids=lambda step: step.name)
def test_a_pass_that_is_left_out_is_missed_by_name_and_path(step: LoweringPass, preset: str) -> None:
    left = captured().module.graph.find_nodes(op="call_function", target=type(step).target)
    with pytest.raises(UnsupportedOp, match="float operations are left") as caught:
        lower(calibrated(preset), [other for other in PASSES if other is not step])
    for node in left:
        path = node.meta["path"] or "(model)"
        assert f"{path}: {type(step).target.__name__} {node.name}: no pass for it" in str(caught.value)


def test_without_the_last_pass_boundaries_are_left() -> None:
    with pytest.raises(UnsupportedOp, match="quantize"):
        lower(calibrated(), PASSES[:-1])


@PRESETS
@pytest.mark.parametrize("count", range(1, len(PASSES)))
def test_a_graph_that_is_half_lowered_runs_and_is_near_float(count: int, preset: str) -> None:
    graph = Lowering(calibrated(preset))
    for step in PASSES[:count]:
        step.apply(graph)
    assert set(operations(graph.graph)) <= LEGAL | {t for t in operations(graph.graph) if operation_of(t) is not None}
    images = pixels(8, seed=3)
    (y,) = graph.run(torch.from_numpy(images))  # the image is lowered first: it is pixels from then on
    assert signal_to_noise(float_output(images), y.reshape(8, -1)) > SNR[preset]


@PRESETS
@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_a_pass_alone_and_twice(step: Pass, preset: str) -> None:
    """Each pass works on a float graph by itself; a second time it finds nothing to do and changes nothing."""
    graph = Lowering(calibrated(preset))
    before = str(graph.graph)
    result = step.apply(graph)
    after = str(graph.graph)
    assert result.changed is (before != after)
    if not isinstance(step, FoldBoundaries):
        assert result.rewritten == len(captured().module.graph.find_nodes(op="call_function", target=type(step).target))
        assert not graph.find(type(step).target)
        pairs = len(graph.find(boundary.dequantize))
        assert pairs == result.rewritten
    again = step.apply(graph)
    assert not again.changed and str(graph.graph) == after


def test_fold_boundaries_twice_at_the_end() -> None:
    graph = Lowering(calibrated())
    for step in PASSES:
        step.apply(graph)
    after, scales = str(graph.graph), graph.output_scales
    assert not PASSES[-1].apply(graph).changed
    assert str(graph.graph) == after and graph.output_scales == scales


def test_the_calibrated_graph_is_left_as_it_is() -> None:
    before = str(calibrated().source.module.graph)
    lower(calibrated())
    assert str(calibrated().source.module.graph) == before


def test_dump_ir_writes_the_graph_after_every_pass(tmp_path: Path) -> None:
    lower(calibrated(), dump_ir=tmp_path / "ir")
    files = sorted((tmp_path / "ir").iterdir())
    assert [f.name for f in files] == [f"{i:02d}-{step.name}.txt" for i, step in enumerate(PASSES)]
    first, last = files[0].read_text(), files[-1].read_text()
    assert first.startswith("# after lower-patchify: 1 sites, 0 skipped\n")
    assert "intvit.patchify" in first and "floatops.layer_norm" in first
    assert "floatops" not in last and "quantize(" not in last.replace("requantize", "")


def test_every_float_result_is_written_somewhere() -> None:
    graph, written = lower_with_layers(calibrated())
    made = {n.name for n in graph.module.graph.nodes}
    origins = {entry.origin.name for name, entry in written.items() if name in made}
    assert origins == {n.name for n in captured().module.graph.nodes if n.op == "call_function"}


def test_the_names_of_passes_are_unique() -> None:
    assert len({step.name for step in PASSES}) == len(PASSES)


@pytest.mark.parametrize(("bits", "expected"), [(8, 8), (13, 13), (15, 15)])
def test_the_bits_of_the_exponentials_are_an_option(bits: int, expected: int) -> None:
    passes = [LowerAttention(bits) if isinstance(step, LowerAttention) else step for step in PASSES]
    graph = lower(calibrated(), passes)
    used = [n.args[7] for n in graph.module.graph.nodes if "intvit.attention" in str(n.target)]
    assert used == [min(expected, exponential_bits(17))] * 2
