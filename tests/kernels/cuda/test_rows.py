"""`Rows` deals out each group of neighbours of each row to one thread, and blocks cover all rows of any batch."""

import numpy as np
import pytest
from tvm.tirx.script import builder as T

from intvit.kernels.cuda.fragments import NEIGHBOURS
from intvit.kernels.cuda.launch import device_kernel
from intvit.kernels.cuda.rows import THREADS, Rows


@pytest.mark.parametrize("columns", [1, 8, 37, 192, 1000, 1024, 1025, 2100])
def test_each_group_once(device, columns):
    """Counted by the threads: a group that two of them have would be 2."""
    rows = Rows(columns)

    def body(block, y):
        def count(row, column):
            at = row * rows.items + (column >> 3)
            T.buffer_store(y, y[at] + 1, [at])

        rows.visit(block, count)

    kernel = device_kernel("count", [("y", "int32")], body, threads=THREADS, per=rows.per, times=rows.times)
    for count in (1, 2, rows.per, rows.per + 1, 5 * rows.per + 3):
        shape = (count, rows.items)
        start = np.full(shape, 77)
        assert np.array_equal(device.run(kernel, [], shape, "int32", count), start + 1)


@pytest.mark.parametrize("columns", [1, 8, 37, 192, 768, 1000, 1024, 1025, 2100])
def test_few_threads_are_idle(columns):
    rows = Rows(columns)
    assert rows.items * NEIGHBOURS >= columns > (rows.items - 1) * NEIGHBOURS
    assert rows.per * rows.items <= rows.times * THREADS < rows.per * rows.items + rows.items + THREADS
