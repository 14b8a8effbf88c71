"""Attention of any spelling becomes one `attention`; other products of two tensors one `product` each."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from spelled import HEIGHT, SHAPE, TOKENS, WIDTH, Embedded, arguments_of, constant, drawn, made, of_tokens, using
from torch import Tensor, nn

from intvit import floatops
from intvit.errors import UnsupportedOp
from intvit.frontend import capture

Module = Callable[[Tensor], Any]
sdpa = F.scaled_dot_product_attention
LOWER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
MASK = torch.zeros(TOKENS, TOKENS).masked_fill(~LOWER, -math.inf)
BIAS = constant(2, TOKENS, TOKENS)
PLAIN = "linear x 4, attention"


@pytest.fixture(autouse=True, scope="module")
def written_out() -> None:
    """Torch's fused encoder has no ATen form to read."""
    torch.backends.mha.set_fastpath_enabled(False)


def weight(n: int = 16, seed: int = 0) -> Tensor:
    return constant(n, 16, seed=seed) * 0.3


def heads(x: Tensor, count: int = 2) -> list[Tensor]:
    """Queries, keys and values `[B, heads, T, D]`."""
    return list(F.linear(x, weight(48)).unflatten(-1, (3, count, -1)).permute(2, 0, 3, 1, 4).unbind(0))


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def by_hand(change: Module = lambda s: s) -> Module:
    """Attention written out, with its scores changed."""

    def attention(x: Tensor) -> Tensor:
        q, k, v = heads(x)
        return joined(change(q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1) @ v)

    return attention


class MultiHead(nn.Module):
    """Torch's own module."""

    def __init__(self, mask: Tensor | None = None, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.attention = drawn(nn.MultiheadAttention(16, 2, batch_first=batch_first, **options))
        self.mask, self.batch_first = mask, batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y: Tensor = self.attention(x, x, x, need_weights=False, attn_mask=self.mask)[0]
        return y if self.batch_first else y.transpose(0, 1)


class Pooling(nn.Module):
    """Attention pooling with one query that no image changes."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(constant(1, 1, 16))
        self.attention = drawn(nn.MultiheadAttention(16, 2, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.query.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def grouped(x: Tensor) -> list[Tensor]:
    """Four heads of queries, two of keys and values."""
    narrow = [F.linear(x, weight(8, seed)).unflatten(-1, (2, 4)).transpose(1, 2) for seed in (1, 2)]
    return [F.linear(x, weight()).unflatten(-1, (4, 4)).transpose(1, 2), *narrow]


def one_key(x: Tensor) -> Tensor:
    """Four heads of queries, and the same keys and values for all."""
    q = F.linear(x, weight()).unflatten(-1, (4, 4)).transpose(1, 2)
    k, v = (F.linear(x, weight(4, seed))[:, None] for seed in (1, 2))
    return joined((q @ k.mT * 0.5).softmax(-1) @ v)


def repeated(x: Tensor) -> Tensor:
    q, k, v = grouped(x)
    return joined(sdpa(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))


def queries_first(x: Tensor) -> Tensor:
    """Scaled queries, keys turned before the heads are split."""
    q, k, v = F.linear(x, weight(48)).chunk(3, -1)
    q = (q * 8**-0.5).unflatten(-1, (2, 8)).transpose(1, 2)
    k = k.mT.unflatten(1, (2, 8))
    return joined(torch.softmax(torch.matmul(q, k), dim=-1) @ v.unflatten(-1, (2, 8)).transpose(1, 2))


def as_batches(x: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in heads(x))
    scores = torch.bmm(q, k.mT) * 0.3
    return joined(torch.bmm(F.softmax(scores, 2), v).unflatten(0, (-1, 2)))


ATTENTION: dict[str, Module] = {
    "sdpa": lambda x: joined(sdpa(*heads(x))),
    "sdpa with a scale": lambda x: joined(sdpa(*heads(x), scale=0.3)),
    "by hand": by_hand(),
    "queries scaled": queries_first,
    "bmm": as_batches,
    "dropout left in": by_hand(lambda s: F.dropout(s, 0.1, training=False)),
    "causal": lambda x: joined(sdpa(*heads(x), is_causal=True)),
    "boolean mask": lambda x: joined(sdpa(*heads(x), attn_mask=LOWER)),
    "float mask": lambda x: joined(sdpa(*heads(x), attn_mask=MASK)),
    "mask added": by_hand(lambda s: s + MASK),
    "mask filled in": by_hand(lambda s: s.masked_fill(~LOWER, -math.inf)),
    "mask of a large number": by_hand(lambda s: s.masked_fill(~LOWER, -1e9)),
    "mask of the smallest number": by_hand(lambda s: s.masked_fill(~LOWER, torch.finfo(s.dtype).min)),
    "mask chosen": by_hand(lambda s: torch.where(LOWER, s, -math.inf)),
    "mask chosen by a tensor": by_hand(lambda s: torch.where(LOWER, s, torch.tensor(-1e9))),
    "bias": by_hand(lambda s: s + BIAS),
    "bias and mask": by_hand(lambda s: (s + BIAS).masked_fill(~LOWER, -math.inf)),
    "bias before a factor": by_hand(lambda s: (s + BIAS) * 0.5),
    "factor per head": by_hand(lambda s: s * constant(2, 1, 1)),
    "offset": by_hand(lambda s: s - 1.0),
    "keys grouped": lambda x: joined(sdpa(*grouped(x), enable_gqa=True)),
    "keys repeated": repeated,
    "keys shared": one_key,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_one_attention(name: str) -> None:
    graph = of_tokens(ATTENTION[name])
    assert made(graph) == PLAIN
    heads_of = arguments_of(graph, floatops.attention)[3]
    assert heads_of == (4 if name.startswith("keys") else 2)


def test_the_bias_of_a_mask() -> None:
    graph = of_tokens(ATTENTION["bias and mask"])
    *_, windows, bias, kinds = arguments_of(graph, floatops.attention)
    assert (windows, kinds) == (1, (0,))
    assert torch.equal(graph.module.get_buffer(bias.target)[0], BIAS + MASK)


def test_a_mask_of_all_heads_is_kept_once() -> None:
    graph = of_tokens(ATTENTION["causal"])
    assert graph.module.get_buffer(arguments_of(graph, floatops.attention)[6].target).shape == (1, 1, TOKENS, TOKENS)


def test_factors_per_head() -> None:
    scale = arguments_of(of_tokens(ATTENTION["factor per head"]), floatops.attention)[4]
    assert scale == pytest.approx([float(f) / math.sqrt(8) for f in constant(2)])


MODULES: dict[str, tuple[Module, str]] = {
    "MultiheadAttention": (MultiHead(), "linear x 5, attention"),
    "MultiheadAttention, tokens first": (MultiHead(batch_first=False), "linear x 5, attention"),
    "MultiheadAttention with a mask": (MultiHead(~LOWER), "linear x 5, attention"),
    "MultiheadAttention with more keys": (MultiHead(add_bias_kv=True), "linear x 5, rearrange x 2, attention"),
    "attention pooling": (Pooling(), "linear x 3, rearrange x 4, attention"),
    "encoder layer, post-norm, ReLU": (
        drawn(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)),
        "linear x 7, attention, add x 2, layer_norm x 2, pointwise",
    ),
    "encoder layer, pre-norm, GELU": (
        drawn(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, activation="gelu")),
        "linear x 7, layer_norm x 2, attention, add x 2, gelu",
    ),
    "encoder": (
        drawn(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)),
        "linear x 13, attention x 2, add x 4, layer_norm x 4, pointwise x 2",
    ),
    "encoder, tokens first": (
        using(lambda x, layer: layer(x.transpose(0, 1)).transpose(0, 1), drawn(nn.TransformerEncoderLayer(16, 2, 32))),
        "linear x 7, attention, add x 2, layer_norm x 2, pointwise",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_torch(name: str) -> None:
    module, expected = MODULES[name]
    assert sorted(made(of_tokens(module)).split(", ")) == sorted(expected.split(", "))


def in_windows(
    size: tuple[int, int] = (2, 3),
    shift: bool = False,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    pad: tuple[int, int] = (0, 0),
    fused: bool = True,
) -> Module:
    """Swin's attention: partition, bias of each head, mask of each window, and back."""

    def attention(x: Tensor) -> Tensor:
        height, width = HEIGHT + pad[0], WIDTH + pad[1]
        rows, columns = height // size[0], width // size[1]
        count, tokens = rows * columns, size[0] * size[1]
        y = F.pad(x.unflatten(1, (HEIGHT, WIDTH)), (0, 0, 0, pad[1], 0, pad[0]))
        y = y.roll((-1, -1), (1, 2)) if shift else y
        y = y.reshape(-1, rows, size[0], columns, size[1], 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, tokens, 16)
        q, k, v = heads(y)
        if fused:
            added = bias
            if mask is not None:
                each = mask[:, None].repeat(x.shape[0], 1, 1, 1)
                added = each if bias is None else each + bias
            z = sdpa(q, k, v, attn_mask=added)
        else:
            scores = q * 8**-0.5 @ k.mT
            scores = scores if bias is None else scores + bias[None]
            if mask is not None:
                scores = scores.view(-1, count, 2, tokens, tokens) + mask[None, :, None]
                scores = scores.view(-1, 2, tokens, tokens)
            z = scores.softmax(-1) @ v
        z = joined(z).reshape(-1, rows, columns, *size, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, 16)
        z = z.roll((1, 1), (1, 2)) if shift else z
        return z[:, :HEIGHT, :WIDTH].reshape(-1, TOKENS, 16)

    return attention


WINDOW_BIAS = constant(2, 6, 6)
SHIFTED = torch.where(constant(4, 6, 6) > 0.5, -100.0, 0.0) * torch.tensor([0, 0, 1, 1])[:, None, None]
WINDOWS: dict[str, tuple[Module, int, tuple[int, ...] | None]] = {
    "windows": (in_windows(), 4, ()),
    "shifted": (in_windows(shift=True), 4, ()),
    "one window": (in_windows((HEIGHT, WIDTH), bias=BIAS), 1, (0,)),
    "bias": (in_windows(bias=WINDOW_BIAS), 4, (0, 0, 0, 0)),
    "mask": (in_windows(shift=True, mask=SHIFTED), 4, (0, 0, 1, 2)),
    "bias and mask": (in_windows(shift=True, bias=WINDOW_BIAS, mask=SHIFTED), 4, (0, 0, 1, 2)),
    "bias and mask by hand": (in_windows(shift=True, bias=WINDOW_BIAS, mask=SHIFTED, fused=False), 4, (0, 0, 1, 2)),
    "padded": (in_windows((3, 4), pad=(2, 2)), 4, ()),
    "padded, with a bias": (in_windows((3, 4), pad=(2, 2), bias=constant(2, 12, 12)), 4, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_attention_in_windows(name: str) -> None:
    module, windows, kinds = WINDOWS[name]
    graph = of_tokens(module)
    names = {n.target for n in graph.module.graph.nodes if n.op == "call_function"}
    assert names <= {floatops.patchify, floatops.linear, floatops.rearrange, floatops.attention}
    _, _, _, heads_of, _, *rest = arguments_of(graph, floatops.attention)
    assert (heads_of, rest[0], rest[2]) == (2, windows, kinds)
    assert (rest[1] is None) == (not kinds)


def test_windows_and_a_grid_share_no_tokens() -> None:
    """MaxViT's grid attention: every window has tokens of the whole image."""

    def attention(x: Tensor) -> Tensor:
        y = x.reshape(-1, 2, 2, 2, 3, 16).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 16)
        z = joined(sdpa(*heads(y))).reshape(-1, 2, 3, 2, 2, 16)
        return z.permute(0, 3, 1, 4, 2, 5).reshape(-1, TOKENS, 16)

    graph = of_tokens(attention)
    assert made(graph) == "linear x 4, rearrange x 4, attention"
    assert arguments_of(graph, floatops.attention)[5] == 6


def rotated(interleaved: bool) -> Module:
    angle = constant(TOKENS, 4)
    spread = (lambda t: t.repeat_interleave(2, -1)) if interleaved else (lambda t: torch.cat([t, t], -1))
    cos, sin = spread(angle.cos()), spread(angle.sin())

    def turned(t: Tensor) -> Tensor:
        if interleaved:
            return torch.stack([-t[..., 1::2], t[..., ::2]], -1).reshape(t.shape)
        return torch.cat([-t[..., 4:], t[..., :4]], -1)

    def attention(x: Tensor) -> Tensor:
        q, k, v = heads(x)
        return joined(sdpa(*(t * cos + turned(t) * sin for t in (q, k)), v))

    return attention


def rotated_but_one(x: Tensor) -> Tensor:
    """EVA-02: the class token keeps its place."""
    angle = constant(TOKENS - 1, 8)

    def turn(t: Tensor) -> Tensor:
        rest = t[:, :, 1:]
        turned = torch.stack([-rest[..., 1::2], rest[..., ::2]], -1).reshape(rest.shape)
        return torch.cat([t[:, :, :1], rest * angle.cos() + turned * angle.sin()], 2)

    q, k, v = heads(x)
    return joined(sdpa(turn(q), turn(k), v))


def cosine(x: Tensor) -> Tensor:
    q, k, v = heads(x)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * constant(2, 1, 1).clamp(max=1).exp()
    return joined((scores + BIAS).softmax(-1) @ v)


def of_channels(x: Tensor) -> Tensor:
    """XCiT: channels attend to channels, with a temperature for each head."""
    q, k, v = (t.mT for t in heads(x))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * constant(2, 1, 1).exp()
    return (scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)


def talking(x: Tensor) -> Tensor:
    """CaiT: heads are mixed before the softmax and behind it."""
    q, k, v = heads(x)
    scores = F.linear((q @ k.mT * 0.3).permute(0, 2, 3, 1), constant(2, 2)).permute(0, 3, 1, 2).softmax(-1)
    return joined(F.linear(scores.permute(0, 2, 3, 1), constant(2, 2, seed=4)).permute(0, 3, 1, 2) @ v)


def linear_attention(x: Tensor) -> Tensor:
    q, k, v = heads(x)
    return joined(F.relu(q) @ (F.relu(k).mT @ v))


def normalized(function: Module) -> Module:
    def attention(x: Tensor) -> Tensor:
        q, k, v = heads(x)
        return joined(sdpa(function(q), function(k), v))

    return attention


SPECIAL: dict[str, tuple[Module, str]] = {
    "rotary": (rotated(False), "linear x 6, multiply x 4, add x 2, attention"),
    "rotary, interleaved": (rotated(True), "linear x 6, multiply x 4, add x 2, attention"),
    "rotary, but one": (
        rotated_but_one, "linear x 6, select_tokens x 6, multiply x 4, add x 2, rearrange x 2, attention"
    ),
    "cosine": (cosine, "linear x 4, rms_norm x 2, attention"),
    "normalized queries": (
        normalized(lambda t: F.layer_norm(t, (8,), constant(8))),
        "linear x 2, rearrange x 4, layer_norm x 2, attention",
    ),
    "of channels": (of_channels, "linear x 2, rearrange x 4, rms_norm x 2, multiply, attention"),
    "talking heads": (talking, "linear x 4, rearrange x 8, product x 2, multiply, softmax"),
    "linear attention": (linear_attention, "linear x 4, pointwise x 2, rearrange x 5, product x 2"),
    "the image to itself": (lambda x: sdpa(x, x, x), "linear, attention"),
    "one head by hand": (lambda x: (x @ x.mT).softmax(-1) @ x, "linear, attention"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_attention_of_other_kinds(name: str) -> None:
    module, expected = SPECIAL[name]
    assert made(of_tokens(module)) == expected


PRODUCTS: dict[str, tuple[Module, str]] = {
    "scores": (lambda x: x @ x.mT, "linear, product"),
    "bmm": (lambda x: torch.bmm(x, x.mT), "linear, product"),
    "weights": (lambda x: (x @ x.mT).softmax(-1), "linear, product, softmax"),
    "biased weights": (lambda x: (x @ x.mT + BIAS[0]).softmax(-1), "linear, product, add, softmax"),
    "masked weights": (
        lambda x: (x @ x.mT).masked_fill(~LOWER, -math.inf).softmax(-1), "linear, product, add, softmax"
    ),
    "gated scores": (
        lambda x: torch.sigmoid(x @ x.mT) @ x, "linear, product x 2, pointwise, rearrange"
    ),
    "softmax": (lambda x: x.softmax(-1), "linear, softmax"),
    "softmax of tokens": (lambda x: x.softmax(1).flatten(1)[:, :4], "linear, rearrange x 2, softmax"),
    "softmax of queries": (lambda x: (x @ x.mT).softmax(1) @ x, "linear, product x 2, rearrange x 3, softmax"),
    "a constant": (lambda x: x @ weight(), "linear x 2"),
    "a constant before": (lambda x: (constant(8, TOKENS) @ x).mT, "linear x 2, rearrange"),
    "a vector": (lambda x: x @ constant(16), "linear x 2, rearrange"),
    "constants of heads": (
        lambda x: x.unflatten(-1, (2, 8)).transpose(1, 2) @ constant(2, 8, 8), "linear, rearrange x 2, product"
    ),
    "addmm": (lambda x: torch.addmm(constant(16), x[:, 0], weight()), "linear x 2, select_tokens"),
    "a linear of tokens": (lambda x: F.linear(x.mT, constant(8, TOKENS)).mT, "linear x 2, rearrange x 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_other_products(name: str) -> None:
    module, expected = PRODUCTS[name]
    assert sorted(made(of_tokens(module)).split(", ")) == sorted(expected.split(", "))


REFUSED: dict[str, tuple[Module, str]] = {
    "a weak mask": (by_hand(lambda s: s.masked_fill(~LOWER, -5.0)), "masked_fill: only zeros, and a mask"),
    "a larger constant": (by_hand(lambda s: s[:, :1] + BIAS), "attention scores meet a larger constant"),
    "images that attend to each other": (
        lambda x: sdpa(*(t.transpose(0, 2) for t in heads(x))), "images of a batch"
    ),
    "logarithm": (lambda x: x.log_softmax(-1), "_log_softmax: no rule"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=f"change: .*{reason}"):
        capture(Embedded(module, tokens=True), SHAPE)


def linear_attention(x: Tensor) -> Tensor:
    """EfficientViT: sums of weighted values and of weights are parts of one product."""
    q, k, v = heads(x)
    q, k = q.relu(), k.relu()
    sums = q @ (k.mT @ F.pad(v, (0, 1), value=1.0))
    return joined(sums[..., :-1] / (sums[..., -1:] + 1))


def test_linear_attention() -> None:
    """The parts of a product are products of their own, each on its own grid."""
    graph = of_tokens(linear_attention)
    dividend, divisor = arguments_of(graph, floatops.divide)
    assert divisor.target is floatops.add
    products = [dividend, divisor.args[0]]
    assert [node.target for node in products] == [floatops.product] * 2
    assert [node.meta["shape"] for node in products] == [(2 * TOKENS, 8), (2 * TOKENS, 1)]
    assert len(graph.module.graph.find_nodes(op="call_function", target=floatops.product)) == 3


@pytest.mark.parametrize(
    "part",
    [lambda s: s[:, :, 2:5], lambda s: s[..., ::3], lambda s: s[:, 1:, 4:, :-2], lambda s: s.flip(-1)[..., 5:6, :]],
)
def test_parts_of_scores_and_of_their_softmax(part: Module) -> None:
    """Some rows and columns of a product are a smaller one; a softmax is over all columns."""
    q, k = (lambda x: heads(x)[0]), (lambda x: heads(x)[1])
    graph = of_tokens(lambda x: (part(q(x) @ k(x).mT * 0.3), part((q(x) @ k(x).mT).softmax(-1))))
    assert {"product", "softmax"} <= set(made(graph).replace(" x 2", "").split(", "))
