"""Index maps against the PTX ISA's tables of `mma` and `ldmatrix`, element by element, on plain numbers."""

import numpy as np
import pytest

from intvit import nibbles
from intvit.kernels.cuda.attention import Heads
from intvit.kernels.cuda.fragments import (
    CHUNK,
    DEPTH,
    GROUP,
    left_address,
    padded,
    place,
    result_columns,
    result_row,
    right_address,
    swizzled,
)
from intvit.kernels.cuda.product import LARGE, MEDIUM, NARROW, SMALL, Tile, packed_weights

LANES = range(32)
Place = tuple[int, int]
BANKS = 8
"""Groups of 16 bytes that shared memory delivers at once."""


def a_of_m16n8k32(lane: int, i: int) -> Place:
    """Row and column of `a_i`, int8, i in 0..15 (PTX ISA, "Matrix Fragments for mma.m16n8k32")."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 4 or 8 <= i < 12 else group + 8
    column = thread * 4 + (i & 3) if i < 8 else thread * 4 + (i & 3) + 16
    return row, column


def b_of_m16n8k32(lane: int, i: int) -> Place:
    """Row and column of `b_i`, int8, i in 0..7."""
    group, thread = lane >> 2, lane % 4
    return (thread * 4 + (i & 3) if i < 4 else thread * 4 + (i & 3) + 16), group


def c_of_m16n8k32(lane: int, i: int) -> Place:
    """Row and column of `c_i`, int32, i in 0..3."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def from_ldmatrix(lane: int, i: int) -> tuple[int, int]:
    """The lane that gave the address of what byte `i` of a lane's registers is read from, and the byte there.

    Matrix `i // 4` is rows of 16 bytes at the addresses of eight lanes; a lane gets two 16-bit elements of a row.
    """
    matrix, byte = divmod(i, 4)
    return 8 * matrix + lane // 4, 4 * (lane % 4) + byte


def test_left_fragments() -> None:
    for lane in LANES:
        for i in range(16):
            source, byte = from_ldmatrix(lane, i)
            row, chunk = left_address(source)
            assert (row, chunk * CHUNK + byte) == a_of_m16n8k32(lane, i)


def test_two_right_fragments() -> None:
    """Rows in memory are columns of the operand: the weights of a column lie side by side."""
    for lane in LANES:
        for i in range(16):
            source, byte = from_ldmatrix(lane, i)
            column, chunk = right_address(source)
            side, rest = divmod(i, 8)
            k, n = b_of_m16n8k32(lane, rest)
            assert (column, chunk * CHUNK + byte) == (side * 8 + n, k)


def test_a_lane_holds_neighbouring_columns_of_a_group() -> None:
    """Of four products side by side, whose columns are those of the packed weights."""
    column_at = {place(column): column for column in range(GROUP)}
    seen = []
    for lane in LANES:
        for half in range(2):
            held = []
            for product in range(4):
                for element in range(2):
                    row, column = c_of_m16n8k32(lane, half * 2 + element)
                    assert row == result_row(lane) + 8 * half
                    held.append(column_at[product * 8 + column])
            first = result_columns(lane)
            assert held == list(range(first, first + 8))
            seen += [(result_row(lane) + 8 * half, column) for column in held]
    assert sorted(seen) == [(row, column) for row in range(16) for column in range(GROUP)]


def test_places_of_columns_stay_in_their_group() -> None:
    places = [place(column) for column in range(10 * GROUP)]
    assert sorted(places) == list(range(10 * GROUP))
    assert all(place // GROUP == column // GROUP for column, place in enumerate(places))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 64), (64, 65), (197, 130)])
def test_packed_weights_are_found_again(n: int, k: int) -> None:
    w = np.random.default_rng(0).integers(-128, 128, (n, k)).astype(np.int8)
    packed = packed_weights(w)
    assert packed.shape[0] % GROUP == packed.shape[1] % 64 == 0
    found = packed[[place(column) for column in range(packed.shape[0])]]
    assert np.array_equal(found[:n, :k], w)
    assert not found[n:].any() and not found[:, k:].any()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (40, 64), (64, 65), (197, 130)])
def test_packed_weights_of_four_bits_are_found_again(n: int, k: int) -> None:
    w = np.random.default_rng(0).integers(-8, 8, (n, k)).astype(np.int8)
    packed = packed_weights(w, bits=4)
    whole = packed_weights(w)
    assert packed.shape == (whole.shape[0], whole.shape[1] // 2)
    halves = np.stack([part.reshape(len(packed), -1, CHUNK) for part in nibbles.apart(packed)], 2)
    assert np.array_equal(halves.reshape(whole.shape), whole)


def test_halves_of_four_bits_are_right_fragments() -> None:
    """A lane's register of 16 packed bytes has a fragment's first four entries in low halves, and its other four."""
    w = np.zeros((GROUP, DEPTH), np.int8)
    for lane in LANES:
        for i in range(16):
            source, byte = from_ldmatrix(lane, i)
            for high in range(2):
                k, n = b_of_m16n8k32(lane, 4 * high + i % 4)
                w[:] = 0
                w[[place(column) for column in range(GROUP)].index(8 * (i // 4) + n), k] = 1
                assert nibbles.apart(packed_weights(w, bits=4))[high][source, byte] == 1


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tile", [LARGE, NARROW, MEDIUM, SMALL], ids=["large", "narrow", "medium", "small"])
def test_swizzled_chunks_meet_no_bank_twice(tile: Tile, bits: int) -> None:
    depth = tile.depth * bits // 8
    chunks = depth // CHUNK
    for first in range(0, tile.rows + tile.columns, 8):
        rows = range(first, first + 8)
        for row in rows:
            assert sorted(swizzled(row, chunk, chunks) for chunk in range(chunks)) == list(range(chunks))
        for chunk in range(chunks):
            addresses = [row * depth + swizzled(row, chunk, chunks) * CHUNK for row in rows]
            assert len({address // CHUNK % BANKS for address in addresses}) == BANKS


@pytest.mark.parametrize("size", range(1, 129))
def test_rows_of_queries_keys_and_values_meet_no_bank_twice(size: int) -> None:
    heads = Heads(1, 64, 64, size, size, (padded(size, 16),) * 4)
    for pitch, used in ((heads.pitch, heads.depth), (heads.value_pitch, heads.value_chunks * CHUNK)):
        assert pitch >= used and pitch % CHUNK == 0
        for chunk in range(used // CHUNK):
            assert len({(row * pitch + chunk * CHUNK) // CHUNK % BANKS for row in range(8)}) == BANKS
    assert heads.depth % DEPTH == 0 and heads.depth >= size


@pytest.mark.parametrize("tile", [LARGE, NARROW, MEDIUM, SMALL], ids=["large", "narrow", "medium", "small"])
def test_warps_divide_a_tile_into_whole_fragments(tile: Tile) -> None:
    rows, columns = tile.own
    assert rows * tile.warps[0] == tile.rows and rows % 16 == 0
    assert columns * tile.warps[1] == tile.columns and columns % GROUP == 0
    assert tile.depth % (DEPTH * tile.warps[2]) == 0
    parts, packed = tile.warps[2] - 1, (tile.rows + tile.columns // 2) * tile.depth * tile.stages
    assert parts * rows * columns * 4 * tile.warps[0] * tile.warps[1] <= packed, "parts of K are added up there"
