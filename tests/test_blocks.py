"""The table of a movement as kernels read it: blocks are joined, and most tables are sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.blocks import Blocks

GRID = np.arange(64).reshape(8, 8)


def test_neighbours_are_joined() -> None:
    rows = np.array([2, 0, 1])[:, None] * 6 + np.arange(6)
    found = Blocks.of([(3, 12)], rows, 2)
    assert found.chunk == 12 and found.index.tolist() == [[2], [0], [1]]


def test_blocks_that_do_not_begin_alike_are_not_joined() -> None:
    found = Blocks.of([(3, 12)], np.array([[1, 2, 5, 0]]), 2)
    assert found.chunk == 2 and found.index.tolist() == [[1, 2, 5, 0]]


def test_no_block_is_longer_than_a_row_of_any_tensor() -> None:
    found = Blocks.of([(4, 12), (1, 4)], np.arange(24).reshape(4, 6), 2)
    assert found.chunk == 4 and found.ends == (12, 13)


@pytest.mark.parametrize(
    ("name", "shapes", "index", "chunk", "run"),
    [
        ("windows", [(64, 5)], GRID.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(-1, 1), 5, 1),
        ("shifted windows", [(64, 5)], np.roll(GRID, 3, (0, 1)).reshape(-1, 1), 5, 1),
        ("merged patches", [(64, 5)], GRID.reshape(4, 2, 4, 2).transpose(0, 2, 3, 1).reshape(-1, 4), 5, 1),
        ("transpose", [(8, 8)], GRID.T, 1, 8),
        ("shuffled channels", [(8, 8)], GRID[:, [3, 0, 1, 2, 7, 6, 5, 4]], 1, 1),
        ("channels of two alike", [(4, 3), (4, 3)], np.arange(4)[:, None] + [0, 4], 3, 1),
    ],
)
def test_sums(name: str, shapes: list[tuple[int, int]], index: np.ndarray, chunk: int, run: int) -> None:
    found = Blocks.of(shapes, index, chunk)
    offsets = found.offsets([channels for _, channels in shapes])
    assert offsets.is_sum and offsets.run == run, name
    assert offsets.rows.shape == (len(index),) and offsets.columns.shape == (1, found.index.shape[1])


def test_other_tables_are_whole() -> None:
    offsets = Blocks.of([(8, 8)], np.array([[0, 9], [4, 5], [17, 2]]), 1).offsets([8])
    assert not offsets.is_sum and offsets.columns.shape == (3, 2)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_offsets_are_where_the_blocks_begin(data: st.DataObject, seed: int, chunk: int) -> None:
    """In memory whose rows have elements behind those that count, which no offset meets."""
    random = np.random.default_rng(seed)
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
    shapes = [(tokens, blocks * chunk) for tokens, blocks in sizes]
    widths = [channels + data.draw(st.integers(0, 3)) for _, channels in shapes]
    index = random.integers(
        0, sum(t * k for t, k in sizes), (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    )
    parts = [np.full((t, width), -1) for (t, _), width in zip(shapes, widths, strict=True)]
    count = 0
    for part, (tokens, channels) in zip(parts, shapes, strict=True):
        part[:, :channels] = np.arange(count, count + tokens * channels).reshape(tokens, channels)
        count += tokens * channels
    memory = np.concatenate([part.ravel() for part in parts])
    blocks = Blocks.of(shapes, index, chunk)
    offsets = blocks.offsets(widths)
    begins = offsets.rows[:, None] + np.broadcast_to(offsets.columns, blocks.index.shape)
    found = memory[begins[:, :, None] + np.arange(blocks.chunk)].reshape(len(index), -1)
    assert np.array_equal(found, (index[:, :, None] * chunk + np.arange(chunk)).reshape(len(index), -1))
