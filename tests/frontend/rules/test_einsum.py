"""`einsum` is read as products of matrices: attention is found in it, whatever its letters."""

from collections.abc import Callable

import pytest
import torch
from spelled import TOKENS, constant, made, of_tokens
from torch import Tensor, einsum

Module = Callable[[Tensor], Tensor]
FLAT = constant(48, 16) * 0.3


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values `[B, T, heads, D]`."""
    return torch.nn.functional.linear(x, FLAT).unflatten(-1, (3, 2, 8)).unbind(2)


def attention(scores: str, result: str, heads_first: bool) -> Module:
    def run(x: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) if heads_first else t for t in split(x))
        found = einsum(result, einsum(scores, q, k).mul(0.3).softmax(-1), v)
        return (found.transpose(1, 2) if heads_first else found).flatten(2)

    return run


SPELLINGS = {
    "heads first": attention("bhid,bhjd->bhij", "bhij,bhjd->bhid", True),
    "with spaces": attention("b h i d, b h j d -> b h i j", "b h i j, b h j d -> b h i d", True),
    "with dots": attention("...id,...jd->...ij", "...ij,...jd->...id", True),
    "tokens first": attention("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", False),
    "keys first": attention("bkhd,bqhd->bhkq", "bhqk,bkhd->bqhd", False),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_attention(name: str) -> None:
    assert made(of_tokens(SPELLINGS[name])) == "linear x 4, attention"


def relative(x: Tensor) -> Tensor:
    """Scores with a part of their own for each query."""
    q, k, v = (t.transpose(1, 2) for t in split(x))
    scores = q @ k.mT * 0.3 + einsum("bhtd,tsd->bhts", q, constant(TOKENS, TOKENS, 8) * 0.1)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


OTHERS: dict[str, tuple[Module, str]] = {
    "a linear": (lambda x: einsum("btc,oc->bto", x, constant(8, 16)), "linear x 2"),
    "a linear of tokens": (lambda x: einsum("btc,ts->bsc", x, constant(TOKENS, 8)), "linear x 2, rearrange x 2"),
    "a linear of each head": (
        lambda x: einsum("bthd,hde->bthe", x.unflatten(-1, (4, 4)), constant(4, 4, 4)).flatten(2),
        "linear, rearrange x 3, product",
    ),
    "the constant first": (
        lambda x: einsum("hde,bthd->bthe", constant(4, 4, 4), x.unflatten(-1, (4, 4))).flatten(2),
        "linear, rearrange x 3, product",
    ),
    "a vector": (lambda x: einsum("btc,c->bt", x, constant(16)), "linear x 2, rearrange"),
    "products of rows": (lambda x: einsum("btc,btc->bt", x, x), "linear, product, rearrange"),
    "relative": (relative, "linear x 2, rearrange x 7, product x 3, multiply, add, softmax"),
    "a permutation": (lambda x: einsum("btc->bct", x), "linear, rearrange"),
    "a sum": (lambda x: einsum("btc->bt", x), "linear, rearrange, pool, multiply"),
    "by elements": (lambda x: einsum("btc,btc->btc", x, x), "linear, pointwise"),
    "three": (lambda x: einsum("btc,bsc,bsd->btd", x, x, x), "linear, product x 2, rearrange"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_forms(name: str) -> None:
    module, expected = OTHERS[name]
    assert sorted(made(of_tokens(module)).split(", ")) == sorted(expected.split(", "))
