"""Calibration: which grid a tensor gets follows from what reads it; wrong numbers are refused with the layer's name."""

import numpy as np
import pytest
import torch
from tiny import GRID, SHAPE, calibrated, captured, pixels, vit
from torch import nn

from intvit import floatops
from intvit.calibrate import calibrate
from intvit.errors import IntvitError
from intvit.frontend import capture
from intvit.grid import Grid, Role
from intvit.grids import PRESETS, Policy
from intvit.roles import roles_read, stored_role
from intvit.stages import CalibratedGraph


def nodes(graph: CalibratedGraph, target: object) -> list[torch.fx.Node]:
    return [node for node in graph.source.module.graph.nodes if node.target is target]


def grids(graph: CalibratedGraph, target: object, role: Role) -> list[Grid]:
    return [graph.grid(node, role) for node in nodes(graph, target)]


def test_what_products_read_is_int8_per_channel() -> None:
    graph = calibrated()
    for target in (floatops.layer_norm, floatops.attention):
        for grid in grids(graph, target, Role.PRODUCT):
            assert (grid.dtype, grid.scale.numel()) == ("int8", 32)
    for grid in grids(graph, floatops.layer_norm, Role.PRODUCT):
        assert grid.offset.unique().numel() > 1
    for grid in grids(graph, floatops.gelu, Role.PRODUCT):
        assert (grid.dtype, grid.scale.numel()) == ("int8", 1)
        zero_point = grid.offset / grid.scale
        assert torch.allclose(zero_point, zero_point.round(), atol=1e-9)


def test_ranges_behind_gelu_serve_the_tokens_that_weigh_most() -> None:
    graph = captured()
    first, *_ = graph.module.graph.find_nodes(op="call_function", target=floatops.gelu)

    def scale(tokens: torch.Tensor) -> float:
        found = calibrate(graph, [pixels(24)], GRID, tokens={first.name: tokens})
        return float(found.grid(first, Role.PRODUCT).scale)

    alike, one = torch.ones(17), torch.full((17,), 1e-6)
    one[0] = 17
    assert scale(one) != scale(alike)
    assert scale(torch.ones(5)) == scale(alike)  # of another graph, whose tokens are not these


def test_attention_reads_one_scale_per_head_and_one_per_channel_of_values() -> None:
    graph = calibrated()
    for node in nodes(graph, floatops.attention):
        for operand in node.args[:2]:
            scale = graph.grid(operand, Role.SCORE).scale.reshape(2, 16)
            assert (scale == scale[:, :1]).all() and scale[0, 0] != scale[1, 0]
        assert graph.grid(node.args[2], Role.VALUE).scale.unique().numel() > 2


def test_gelu_reads_fixed_point() -> None:
    graph = calibrated()
    for node in nodes(graph, floatops.gelu):
        grid = graph.grid(node.args[0], Role.FIXED)
        assert grid.dtype == "int16" and torch.log2(grid.scale).frac().item() == 0


def test_residuals_are_int16_with_one_scale() -> None:
    graph = calibrated()
    for target in (floatops.add, floatops.concat_tokens):
        for grid in grids(graph, target, Role.WIDE):
            assert (grid.dtype, grid.scale.numel(), grid.offset.item()) == ("int16", 1, 0)


def test_the_image_is_its_pixels() -> None:
    graph = calibrated()
    (grid,) = grids(graph, floatops.patchify, Role.PRODUCT)
    image = torch.from_numpy(GRID.normalized(pixels(1)))
    rows = floatops.patchify(image, 8, 8)
    expected = torch.from_numpy(pixels(1)).reshape(4, 8, 4, 8, 3).transpose(1, 2).reshape(1, 16, -1)
    assert torch.equal(grid.quantize(rows).to(torch.int32), expected.to(torch.int32) - 128)


def test_the_paper_has_one_scale_for_q_k_and_v() -> None:
    graph = calibrated("paper")
    for node in nodes(graph, floatops.attention):
        scales = {
            graph.grid(x, role).scale.item()
            for x, role in zip(node.args[:3], (Role.SCORE, Role.SCORE, Role.VALUE), strict=True)
        }
        assert len(scales) == 1
        assert graph.grid(node, Role.LOGIT).dtype == "int8"
    for target in (floatops.layer_norm, floatops.gelu, floatops.attention):
        for grid in grids(graph, target, Role.PRODUCT):
            assert (grid.dtype, grid.scale.numel(), grid.offset.item()) == ("int8", 1, 0)


def test_every_read_and_stored_role_has_a_grid() -> None:
    for preset in PRESETS:
        graph = calibrated(preset)
        for node in graph.source.module.graph.nodes:
            if node.op == "call_function":
                for role in {*roles_read(node), stored_role(node)}:
                    assert graph.grid(node, role).scale.min() > 0


def test_a_constant_part_of_a_bias_fits() -> None:
    """A row without weights still has its bias: its scale follows from the bias."""
    model = vit()
    nn.init.zeros_(model.head.weight)
    model.head.bias.data[0] = 3.0
    graph = calibrate(capture(model, SHAPE), [pixels(2)], GRID)
    node = nodes(graph, floatops.linear)[-1]
    assert 3.0 / graph.grid(node, Role.ACCUMULATOR).scale[0] <= 1 << 29


def test_a_selection_has_the_grids_of_its_source() -> None:
    graph = calibrated()
    select = nodes(graph, floatops.select_tokens)[0]
    role = stored_role(select)
    assert graph.grid(select, role) is graph.grid(select.args[0], role)
    changed = graph.with_grid(select, role, Grid.symmetric(torch.ones(1), "int8"))
    assert changed.grid(select, role) is changed.grid(select.args[0], role) is not graph.grid(select, role)


def test_batches_do_not_matter() -> None:
    whole = calibrate(captured(), [pixels(6)], GRID)
    parts = calibrate(captured(), [pixels(6)[:1], pixels(6)[1:4], pixels(6)[4:]], GRID)
    for key, grid in whole.grids.items():
        assert torch.allclose(grid.scale, parts.grids[key].scale, rtol=1e-4)


@pytest.mark.parametrize("observer", ["minmax", "mse", "percentile:0.999"])
def test_any_observer(observer: str) -> None:
    done: list[int] = []
    calibrate(captured(), [pixels(2), pixels(1)], GRID, Policy(observer), done.append)
    assert done == [2, 3]


def test_no_image_is_refused() -> None:
    with pytest.raises(IntvitError, match="no image"):
        calibrate(captured(), [], GRID)
    with pytest.raises(IntvitError, match="no image"):
        calibrate(captured(), [pixels(0)], GRID)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer(value: float) -> None:
    model = vit()
    graph = capture(model, SHAPE)
    linear = next(n for n in graph.module.graph.nodes if n.meta.get("path") == "blocks.1.fc1")
    graph.module.get_buffer(str(linear.args[2].target))[0] = value
    with pytest.raises(IntvitError, match=r"blocks\.1\.fc1: NaN or inf"):
        calibrate(graph, [pixels(1)], GRID)


@pytest.mark.parametrize("part", ["blocks.0.fc1", "blocks.0.qkv", "blocks.0.proj", "blocks.0.norm1", "patch", "head"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_layer_of_zeros_lowers(part: str, preset: str) -> None:
    from intvit.passes.pipeline import lower
    from intvit.verify.overflow import prove_no_overflow

    model = vit()
    for parameter in model.get_submodule(part).parameters():
        nn.init.zeros_(parameter)
    source = capture(model, SHAPE)
    graph = lower(calibrate(source, [pixels(4)], GRID, PRESETS[preset]))
    prove_no_overflow(graph)
    (q,), (y,) = graph(torch.from_numpy(pixels(2))), source(torch.from_numpy(GRID.normalized(pixels(2))))
    assert np.abs(q.numpy() * graph.output_scales[0] - y.detach().numpy()).max() <= 0.1


@pytest.mark.parametrize("part", ["head", "blocks.0.fc1", "blocks.0.qkv", "patch"])
def test_rows_without_weights_keep_their_bias(part: str) -> None:
    from intvit.passes.pipeline import lower

    model = vit()
    module = model.get_submodule(part)
    module.weight.data[::2] = 0
    nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(0))
    source = capture(model, SHAPE)
    graph = lower(calibrate(source, [pixels(4)], GRID))
    (q,), (y,) = graph(torch.from_numpy(pixels(2))), source(torch.from_numpy(GRID.normalized(pixels(2))))
    error = torch.from_numpy(q.numpy() * graph.output_scales[0]) - y
    assert error.norm() < 0.02 * y.norm()
