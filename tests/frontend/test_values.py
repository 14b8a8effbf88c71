"""What a tensor is known to be: index maps and their factors, scores, and the axes of rows and channels."""

import pytest
import torch
from torch import fx

from intvit.frontend.values import (
    PROBE,
    ZERO,
    Constant,
    Layout,
    Mapped,
    Norm,
    NotCanonical,
    Probabilities,
    Scores,
    View,
    batch_axis,
    constant_along,
    in_one_image,
    shape_of,
    whole,
)

TOKENS, CHANNELS = 6, 4


@pytest.fixture
def node() -> fx.Node:
    return fx.Graph().placeholder("x")


@pytest.fixture
def view(node: fx.Node) -> View:
    return whole(node, TOKENS, CHANNELS)


def scores(view: View, order: torch.Tensor) -> Scores:
    """Heads of two channels, `[2 · heads, T, T]`, in some order."""
    q = view.move(lambda t: t.unflatten(-1, (2, 2)).transpose(1, 2).flatten(0, 1))
    return Scores(q, q, order)


class TestView:
    def test_a_whole_view_is_its_base(self, view: View) -> None:
        assert view.is_whole() and view.index.shape == (PROBE, TOKENS, CHANNELS)
        assert view.move(lambda t: t.mT.flip(1)).is_whole()

    def test_parts_paddings_and_repetitions_are_not_whole(self, view: View) -> None:
        assert not view.move(lambda t: t[:, 1:]).is_whole()
        assert not view.move(lambda t: torch.cat([t[:, :-1], t[:, :1]], 1)).is_whole()
        assert not view.moved(torch.full_like(view.index, ZERO)).is_whole()

    def test_factors_move_with_their_elements(self, view: View) -> None:
        factor = torch.rand(TOKENS, CHANNELS)
        moved = View(view.base, view.shape, view.index, factor).move(lambda t: t.flip(1).mT)
        assert isinstance(moved.factor, torch.Tensor)
        values = torch.rand(PROBE, TOKENS, CHANNELS)
        assert torch.equal(values.flatten()[moved.index] * moved.factor, (values * factor).flip(1).mT)

    def test_the_same_elements_in_the_same_order(self, view: View) -> None:
        assert view.same_elements(whole(view.base, TOKENS, CHANNELS))
        assert not view.same_elements(view.move(lambda t: t.flip(1)))
        assert not view.same_elements(whole(fx.Graph().placeholder("y"), TOKENS, CHANNELS))


class TestOneImage:
    def test_padding_stays(self, view: View) -> None:
        local = in_one_image(view.moved(torch.nn.functional.pad(view.index, (0, 0, 1, 0), value=ZERO)))
        assert local[0].tolist() == [ZERO] * CHANNELS
        assert local[1:].flatten().tolist() == list(range(TOKENS * CHANNELS))

    def test_mixed_images_are_refused(self, view: View) -> None:
        mixed = [view.index.flip(0), view.index[:1].expand_as(view.index), view.index.roll(1, 0)]
        for index in mixed:
            with pytest.raises(NotCanonical, match="mixed or repeated"):
                in_one_image(view.moved(index))


class TestBatchAxis:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_it_is_found_wherever_it_lies(self, view: View, axis: int) -> None:
        assert batch_axis(view.move(lambda t: t.movedim(0, axis))) == axis

    def test_padding_and_moved_tokens_do_not_hide_it(self, view: View) -> None:
        turned = torch.nn.functional.pad(view.index.flip(1).transpose(0, 1), (0, 1, 0, 0, 2, 0), value=ZERO)
        assert batch_axis(view.moved(turned)) == 1

    def test_without_one_it_is_the_first(self, view: View) -> None:
        assert batch_axis(view.move(lambda t: t.flatten(0, 1))) == 0


class TestScores:
    def test_matrices_move_as_they_are(self, view: View) -> None:
        found = scores(view, torch.arange(4).reshape(2, 2))
        moved = found.move(lambda t: t.transpose(0, 1).flatten(0, 1))
        assert moved is not None
        assert moved.order.tolist() == [0, 2, 1, 3]
        assert moved.shape == (4, TOKENS, TOKENS)

    def test_what_takes_matrices_apart_is_no_movement_of_them(self, view: View) -> None:
        found = scores(view, torch.arange(4).reshape(2, 2))
        assert found.move(lambda t: t.mT) is None
        assert found.move(lambda t: t.flatten(-2)) is None
        assert found.move(lambda t: t.transpose(1, 2)) is None
        assert Probabilities(found).move(lambda t: t[..., 1:]) is None  # the softmax is over all of a row

    def test_rows_and_columns_of_matrices(self, view: View) -> None:
        found = scores(view, torch.arange(4).reshape(2, 2)).move(lambda t: t[..., 2:, ::2])
        assert found is not None and found.shape == (2, 2, TOKENS - 2, TOKENS // 2)

    def test_values_matrix_by_matrix(self, view: View) -> None:
        order = torch.tensor([[2, 0], [3, 1]])
        found = scores(view, order).by_matrix(order * 10)
        assert found.tolist() == [0, 10, 20, 30]

    def test_transposed_probabilities(self, view: View) -> None:
        found = Probabilities(scores(view, torch.arange(4).reshape(2, 2)))
        turned = found.move(lambda t: t.mT)
        assert turned is not None and turned.transposed
        again = turned.move(lambda t: t.transpose(0, 1).mT)
        assert again is not None and not again.transposed
        assert again.scores.order.tolist() == [[0, 2], [1, 3]]


class TestLayout:
    def test_channels_are_what_stays_in_a_row(self, view: View) -> None:
        found = Layout.of(view.move(lambda t: t.mT.unflatten(2, (2, 3))))
        assert found.channels == (1,)

    def test_rows_and_back(self, view: View) -> None:
        turned = view.move(lambda t: t.unflatten(2, (2, 2)).permute(0, 3, 1, 2).flip(2))
        layout = Layout.of(turned)
        rows = layout.rows(turned.index)
        assert layout.channels == (1, 3) and rows.shape == (PROBE, TOKENS, CHANNELS)
        assert torch.equal(layout.back(rows), turned.index)

    def test_without_channels_the_last_axis_is_theirs(self, view: View) -> None:
        assert Layout.of(view.move(lambda t: t[:, :, :1])).channels == (2,)


def test_the_shape_of_any_value(view: View) -> None:
    matrices = scores(view, torch.arange(4).reshape(2, 2))
    assert shape_of(Constant(torch.zeros(3, 2))) == (3, 2)
    assert shape_of(Mapped(view, (("neg", "x"),))) == shape_of(view) == (PROBE, TOKENS, CHANNELS)
    assert shape_of(Norm(view)) == (PROBE, TOKENS, 1)
    assert shape_of(Probabilities(matrices, transposed=True)) == (2, 2, TOKENS, TOKENS)


def test_constant_along() -> None:
    x = torch.arange(3).reshape(1, 3).expand(2, 3)
    assert constant_along(x, 0) and not constant_along(x, 1) and not constant_along(x, 0, 1)
