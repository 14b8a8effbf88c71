"""Matrices of an attention as windows and heads, and the kinds of bias of its windows."""

import pytest
import torch
from torch import fx

from intvit.frontend.matrices import Grouping, kinds_of
from intvit.frontend.values import PROBE, NotCanonical, Scores, View, whole

HEADS, WINDOWS, TOKENS, SIZE = 2, 3, 4, 5
ORDER = torch.arange(PROBE * WINDOWS * HEADS).reshape(PROBE, WINDOWS, HEADS)


def matrices(view: View) -> View:
    """`[B, W·T, H·D]` as matrices `[B·W·H, T, D]`, windows before heads."""
    return view.move(
        lambda t: t.unflatten(1, (WINDOWS, TOKENS)).unflatten(3, (HEADS, SIZE)).transpose(2, 3).flatten(0, 2)
    )


@pytest.fixture
def view() -> View:
    return matrices(whole(fx.Graph().placeholder("x"), WINDOWS * TOKENS, HEADS * SIZE))


def grouping(view: View, numbers: torch.Tensor) -> Grouping:
    """Of matrices that lie in the order `numbers`."""
    shuffled = view.move(lambda t: t[numbers.flatten()])
    return Grouping.of(Scores(shuffled, shuffled, torch.arange(numbers.numel()).reshape(numbers.shape)))


def test_matrices_of_the_same_tokens_are_heads(view: View) -> None:
    found = grouping(view, ORDER)
    assert (found.windows, found.heads) == (WINDOWS, HEADS)
    assert torch.equal(found.place, ORDER)


def test_windows_and_heads_in_any_order(view: View) -> None:
    numbers = ORDER.permute(2, 0, 1)
    found = grouping(view, numbers)
    assert (found.windows, found.heads) == (WINDOWS, HEADS)
    tokens = view.index[numbers.flatten()[found.place]] // view.channels
    assert bool((tokens == tokens[:, :, :1]).all())


def test_matrices_of_rows_that_are_no_tokens_are_heads_by_their_last_axis(view: View) -> None:
    turned = view.move(lambda t: t.mT)
    found = Grouping.of(Scores(turned, turned, ORDER.flatten(1)))
    assert (found.windows, found.heads) == (1, WINDOWS * HEADS)


def test_images_that_attend_to_each_other_are_refused(view: View) -> None:
    with pytest.raises(NotCanonical, match="mixes the images"):
        grouping(view, torch.cat([ORDER[:1], ORDER[:1]]))


def test_factors_of_heads(view: View) -> None:
    found = grouping(view, ORDER)
    by_head = torch.tensor([0.5, 2.0]).repeat(PROBE * WINDOWS)
    assert found.has_factors_by_head(0.5) and found.by_head(0.5) == 0.5
    assert found.has_factors_by_head(by_head) and found.by_head(by_head) == (0.5, 2.0)
    assert found.by_head(torch.full((PROBE * WINDOWS * HEADS,), 0.5)) == 0.5
    assert not found.has_factors_by_head(torch.arange(PROBE * WINDOWS * HEADS).float())


def test_spread_is_the_inverse_of_the_cut(view: View) -> None:
    found = grouping(view, ORDER.permute(2, 0, 1))
    numbers = torch.arange(PROBE * WINDOWS * HEADS * TOKENS * SIZE).reshape(-1, TOKENS, SIZE)
    together = numbers[found.place].transpose(2, 3).flatten(3).flatten(1, 2)
    cut = whole(view.base, WINDOWS * TOKENS, HEADS * SIZE).moved(together)
    assert torch.equal(found.spread(cut).index, numbers)


def test_equal_rows_are_of_one_kind() -> None:
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [2.0, -torch.inf], [2.0, 3.0]])
    assert kinds_of(rows).tolist() == [0, 1, 0, 2, 1]
