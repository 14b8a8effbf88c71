"""Normalizations of every kind become `layer_norm`, `group_norm` and `rms_norm`, or are folded."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from spelled import SHAPE, Embedded, arguments_of, constant, drawn, made, of_map, of_tokens, using
from torch import Tensor, nn

from intvit import floatops
from intvit.errors import UnsupportedOp
from intvit.frontend import capture

Module = Callable[[Tensor], Tensor]
WEIGHT, BIAS = constant(16), constant(16, seed=16)


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


OF_TOKENS: dict[str, tuple[Module, str]] = {
    "LayerNorm": (drawn(nn.LayerNorm(16)), "linear, layer_norm"),
    "LayerNorm without weights": (nn.LayerNorm(16, elementwise_affine=False), "linear, layer_norm"),
    "LayerNorm and a factor": (lambda x: F.layer_norm(x, (16,)) * WEIGHT, "linear, layer_norm"),
    "LayerNorm of a factor": (lambda x: F.layer_norm(x * 3.0, (16,), WEIGHT, BIAS), "linear, layer_norm"),
    "LayerNorm of some tokens": (lambda x: F.layer_norm(x[:, 1:4], (16,)), "linear, select_tokens, layer_norm"),
    "LayerNorm of tokens in order": (
        lambda x: F.layer_norm(x.mT, (24,)), "linear, rearrange, layer_norm"
    ),
    "RMSNorm": (drawn(nn.RMSNorm(16)), "linear, rms_norm"),
    "RMSNorm with its own eps": (lambda x: F.rms_norm(x, (16,), WEIGHT, 1e-3), "linear, rms_norm"),
    "normalize": (lambda x: F.normalize(x, dim=-1), "linear, rms_norm"),
    "normalize of heads": (lambda x: F.normalize(x.unflatten(-1, (4, 4)), dim=-1), "linear, rms_norm, rearrange"),
    "length by hand": (lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6), "linear, rms_norm"),
    "BatchNorm of tokens": (using(lambda x, n: n(x.mT).mT, drawn(nn.BatchNorm1d(16))), "linear"),
    "GroupNorm of tokens": (using(lambda x, n: n(x.mT).mT, drawn(nn.GroupNorm(4, 16))), "linear, group_norm"),
    "GroupNorm of tokens first": (
        using(lambda x, n: n(x.transpose(0, 1).permute(1, 2, 0)).mT, drawn(nn.GroupNorm(4, 16))), "linear, group_norm"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TOKENS)
def test_of_tokens(name: str) -> None:
    module, expected = OF_TOKENS[name]
    assert made(of_tokens(module)) == expected


OF_MAPS: dict[str, tuple[Module, str]] = {
    "BatchNorm": (drawn(nn.BatchNorm2d(16)), "linear, rearrange"),
    "GroupNorm": (drawn(nn.GroupNorm(4, 16)), "linear, group_norm, rearrange"),
    "GroupNorm of one": (drawn(nn.GroupNorm(1, 16)), "linear, group_norm, rearrange"),
    "LayerNorm of channels": (drawn(LayerNorm2d(16)), "linear, layer_norm, rearrange"),
    "GroupNorm and a factor": (
        lambda x: F.group_norm(x, 2) * WEIGHT[:, None, None], "linear, group_norm, rearrange"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_MAPS)
def test_of_maps(name: str) -> None:
    module, expected = OF_MAPS[name]
    assert made(of_map(module)) == expected


def test_a_length_is_a_mean_of_squares() -> None:
    """`x / max(|x|, floor)` as `x / sqrt(mean(x²) + eps) / sqrt(n)`."""
    _, _, groups, eps = arguments_of(of_tokens(lambda x: F.normalize(x, dim=-1, eps=1e-3)), floatops.rms_norm)
    assert groups == 1 and eps == pytest.approx(1e-6 / 16)


def test_heads_are_normalized_where_they_lie() -> None:
    graph = of_tokens(lambda x: F.normalize(x.unflatten(-1, (4, 4)), dim=-1).flatten(2))
    assert made(graph) == "linear, rms_norm"
    _, weight, groups, _ = arguments_of(graph, floatops.rms_norm)
    assert groups == 4
    assert torch.allclose(graph.module.get_buffer(weight.target), torch.full((16,), 1 / math.sqrt(4)))


def test_batch_norm_is_in_the_weights() -> None:
    model = nn.Sequential(drawn(nn.Conv2d(3, 4, 8, 8)), drawn(nn.BatchNorm2d(4), seed=1))
    graph = capture(model, SHAPE)
    _, weight, _ = arguments_of(graph, floatops.linear)
    convolution, norm = model
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    expected = convolution.weight.permute(0, 2, 3, 1).flatten(1) * gain[:, None]
    assert torch.allclose(graph.module.get_buffer(weight.target), expected, rtol=1e-5)


REFUSED: dict[str, tuple[Module, str]] = {
    "several axes": (lambda x: F.layer_norm(x, (24, 16)), "layer_norm: LayerNorm is only supported over the last axis"),
    "RMSNorm of several": (lambda x: F.rms_norm(x, (24, 16)), "rms_norm: RMSNorm is only supported over the last"),
    "another order": (lambda x: F.normalize(x, p=1.0, dim=-1), "a norm is only supported of length 2"),
    "another axis": (lambda x: F.normalize(x, dim=1), "a norm is only supported of length 2, over the last axis"),
    "length of another": (lambda x: x / x.flip(1).norm(dim=-1, keepdim=True), "a division by the norm of another"),
    "length alone": (lambda x: x.norm(dim=-1, keepdim=True) + 1, "expects a token tensor here"),
    "variance": (lambda x: x.var(1), "var: no rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=f"change: .*{reason}"):
        capture(Embedded(module, tokens=True), SHAPE)


def test_group_norm_of_windows_is_refused() -> None:
    def windows(x: Tensor) -> Tensor:
        return F.group_norm(x.reshape(-1, 16, 2, 2, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, 2, 3), 4)

    with pytest.raises(UnsupportedOp, match="group norm of parts of an image"):
        capture(Embedded(windows, tokens=False), SHAPE)
