"""Which channels must share a grid because a movement brings values of one into the other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.grid import Grid
from intvit.movement import Classes


def rows(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)[:, None]


def test_rows_that_are_moved_whole_keep_their_channels() -> None:
    classes = Classes.of([(4, 6)], rows(3, 1, 1), chunk=6)
    assert len(classes.result.unique()) == 6
    assert torch.equal(classes.sources[0], classes.result)


def test_rows_of_two_tensors_share_their_channels() -> None:
    classes = Classes.of([(4, 6), (2, 6)], rows(0, 5), chunk=6)
    assert torch.equal(classes.sources[0], classes.result) and torch.equal(classes.sources[1], classes.result)


def test_a_tensor_that_is_not_read_is_on_its_own() -> None:
    classes = Classes.of([(4, 6), (2, 6)], rows(0, 1), chunk=6)
    assert not set(classes.sources[1].tolist()) & set(classes.result.tolist())


def test_a_transpose_makes_all_one() -> None:
    index = torch.arange(12).reshape(3, 4).T
    classes = Classes.of([(3, 4)], index, chunk=1)
    assert classes.result.unique().numel() == 1 and classes.largest(torch.tensor([1.0, 5.0, 2.0])).tolist() == [5.0]


def test_blocks_that_change_places() -> None:
    """Two halves of the channels are exchanged in some rows: channel i meets channel i + 2."""
    index = torch.tensor([[0, 1], [3, 2]])
    classes = Classes.of([(2, 4)], index, chunk=2)
    assert classes.result[0] == classes.result[2] != classes.result[1] == classes.result[3]
    assert classes.largest(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [3.0, 4.0, 3.0, 4.0]


def test_merged_patches_meet_the_channels_of_each_other() -> None:
    """Four tokens become one row: each channel of the source meets four of the result, which share its grid."""
    classes = Classes.of([(8, 3)], torch.arange(8).reshape(2, 4), chunk=3)
    assert classes.result.reshape(4, 3).eq(classes.sources[0]).all()


def test_channels_of_a_head_share_a_grid() -> None:
    classes = Classes.of([(4, 6)], rows(0, 2), chunk=6, groups=2)
    assert classes.result.tolist() == [classes.result[0]] * 3 + [classes.result[3]] * 3
    assert classes.result[0] != classes.result[3]


def test_the_grid_of_a_source() -> None:
    classes = Classes.of([(2, 4), (1, 4)], torch.tensor([[0, 1], [3, 2]]), chunk=2)
    scale = torch.tensor([3.0, 4.0, 3.0, 4.0], dtype=torch.float64)
    grid = Grid(scale, torch.zeros(1, dtype=torch.float64), "int8")
    assert classes.of_source(0, grid).scale.tolist() == [3.0, 4.0, 3.0, 4.0]
    assert (classes.of_source(1, grid).scale > 0).all()  # nothing of it is read: any grid does
    one = Grid(scale[:1], torch.zeros(1, dtype=torch.float64), "int8")
    assert classes.of_source(0, one) is one


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_moved_has_one_grid(data: st.DataObject) -> None:
    """Every element of the result lies on the grid of the source that it comes from."""
    chunk = data.draw(st.sampled_from([1, 2]))
    shapes = [(data.draw(st.integers(1, 4)), chunk * data.draw(st.integers(1, 3))) for _ in range(2)]
    blocks = sum(t * c // chunk for t, c in shapes)
    columns = data.draw(st.integers(1, 4))
    size = data.draw(st.integers(1, 4)) * columns
    index = torch.tensor(data.draw(st.lists(st.integers(0, blocks - 1), min_size=size, max_size=size)))
    index = index.reshape(-1, columns)
    classes = Classes.of(shapes, index, chunk)
    labels = torch.cat([own.expand(t, -1).flatten() for own, (t, _) in zip(classes.sources, shapes, strict=True)])
    elements = (index[:, :, None] * chunk + torch.arange(chunk)).flatten(1)
    assert torch.equal(labels[elements], classes.result.expand(len(index), -1))
