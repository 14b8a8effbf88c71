"""The pool of constants: each content once, where `add` said."""

from pathlib import Path

import numpy as np

from intvit.constants import ConstantPool
from intvit.memory import ALIGNMENT


def test_arrays_lie_where_add_said(tmp_path: Path) -> None:
    pool = ConstantPool()
    random = np.random.default_rng(0)
    arrays = [random.integers(-100, 100, n).astype(t) for n in (1, 64, 65, 1000) for t in (np.int8, np.int16, np.int32)]
    offsets = [pool.add(array) for array in arrays]
    pool.write(tmp_path / "constants.bin")
    content = (tmp_path / "constants.bin").read_bytes()
    assert len(content) == pool.size
    for offset, array in zip(offsets, arrays, strict=True):
        assert offset % ALIGNMENT == 0
        assert content[offset : offset + array.nbytes] == array.tobytes()


def test_equal_contents_have_one_place() -> None:
    pool = ConstantPool()
    matrix = np.arange(12, dtype=np.int32).reshape(3, 4)
    first = pool.add(matrix)
    size = pool.size
    assert pool.add(matrix.T.copy().T) == first == pool.add(matrix.reshape(-1)) and pool.size == size
    assert pool.add(matrix + 1) != first
