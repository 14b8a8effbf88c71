"""The noise that a layer adds: from which inputs, and how much."""

from dataclasses import replace

import pytest

from intvit.integer_model import IntegerModel
from intvit.report.layers import layer_rows, noise_share


def test_inputs_are_the_nearest_layers_before(model: IntegerModel) -> None:
    rows = {row.layer.node: row for row in layer_rows(model.graph, model.metadata.layers)}
    operations = {node: row.layer.operation for node, row in rows.items()}
    attention = [row for row in rows.values() if row.layer.operation == "attention"]
    assert attention
    for row in attention:
        assert [operations[node] for node in row.inputs] == ["linear"] * 3
    first = next(iter(rows.values()))
    assert (first.inputs, first.before) == ((), None)
    assert first.added == noise_share(first.snr)


def test_noise_added_is_that_of_the_result_less_the_noisiest_input(model: IntegerModel) -> None:
    rows = {row.layer.node: row for row in layer_rows(model.graph, model.metadata.layers)}
    assert list(rows) == [layer.node for layer in model.metadata.layers]
    for row in rows.values():
        if row.inputs:
            assert row.before == min(rows[node].snr for node in row.inputs)
            assert row.added == pytest.approx(10 ** (-row.snr / 10) - 10 ** (-row.before / 10))


def test_layers_without_a_ratio_are_passed_through(model: IntegerModel) -> None:
    """Their readers take the ratios of what lies before them."""
    layers = model.metadata.layers
    gelu = next(layer for layer in layers if layer.operation == "gelu")
    rows = layer_rows(model.graph, tuple(replace(x, snr=None) if x is gelu else x for x in layers))
    before = {row.layer.node: row for row in layer_rows(model.graph, layers)}
    assert len(rows) == len(before) - 1
    (changed,) = [row for row in rows if row.inputs != before[row.layer.node].inputs]
    assert changed.inputs == before[gelu.node].inputs
    assert layer_rows(model.graph, tuple(replace(x, snr=None) for x in layers)) == ()


@pytest.mark.parametrize(("snr", "share"), [(0.0, 1.0), (20.0, 0.01), (-10.0, 10.0)])
def test_noise_share(snr: float, share: float) -> None:
    assert noise_share(snr) == pytest.approx(share)
