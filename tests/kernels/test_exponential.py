"""The 16-bit forms of Shiftmax's exponentials, on every int16 that is not positive."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tvm.tirx.script import builder as T

from intvit.dialect import attention as dialect
from intvit.kernels import exponential as kernels
from intvit.kernels.arith import Buffer, Expr, load, store
from intvit.kernels.function import Tensor, function
from intvit.kernels.isa import Isa
from intvit.softmax_levels import SoftmaxLevels

EVERY = np.arange(-(1 << 15), 1, dtype=np.int16)


def over_lanes(name: str, count: int, isa: Isa, apply: Callable[[Expr, Buffer], Expr]):
    """`y = apply(x, mul)`, whole vectors of int16 at a time."""
    lanes = isa.wide.lanes * isa.wide.group

    def body(x: Buffer, mul: Buffer, y: Buffer) -> None:
        with T.serial(count // lanes) as i:
            store(y, (i * lanes,), apply(load(x, (i * lanes,), lanes), mul))

    tensors = [Tensor("x", (count,), "int16"), Tensor("mul", (1,), "int16"), Tensor("y", (count,), "int16")]
    return function(name, tensors, body)


def every(isa: Isa) -> np.ndarray:
    """All arguments, up to whole vectors."""
    lanes = isa.wide.lanes * isa.wide.group
    return np.concatenate([EVERY, np.zeros(-len(EVERY) % lanes, np.int16)])


@pytest.mark.parametrize("bits", range(8, 16))
def test_exponentials(machine, run, bits):
    isa = machine[1].vector
    x = every(isa)
    y = run(
        over_lanes("exponentials", len(x), isa, lambda t, mul: kernels.exponentials(t, bits, isa.wide)),
        [x, np.zeros(1, np.int16)],
        x.shape,
        "int16",
    )
    np.testing.assert_array_equal(y, dialect.exponentials(torch.from_numpy(x.astype(np.int32)), bits).numpy())


@pytest.mark.parametrize("levels", [(1, 256), (1, 2), (93, 64), (128, 16), (300, 256), (2047, 3), (2048, 256)], ids=str)
def test_levels(machine, run, levels):
    """What lies beyond 16 bits is another number than the dialect's, and weighs as little."""
    isa, found = machine[1].vector, SoftmaxLevels(*levels)
    x = every(isa)
    function = over_lanes("levels", len(x), isa, lambda t, mul: kernels.on_levels(t, found, isa.wide))
    y = run(function, [x, np.zeros(1, np.int16)], x.shape, "int16").astype(np.int32)
    want = dialect.on_levels(torch.from_numpy(x.astype(np.int32)), *levels).numpy()
    near = want > -(1 << 14)
    np.testing.assert_array_equal(y[near], want[near])
    assert (y[~near] <= -(1 << 14)).all() and near.any() and not near.all()


@pytest.mark.parametrize("shift", [0, 1, 9, 14, 15, 16, 17, 18, 24, 30])
def test_log2_units(machine, run, shift):
    isa = machine[1].vector
    x = every(isa)
    units = over_lanes(
        "log2_units", len(x), isa, lambda below, mul: kernels.log2_units(below, load(mul, (0,), 1), shift, isa.wide)
    )
    for mul in (0, 1, 2, 255, 16384, 20001, 32766, 32767):
        want = (x.astype(np.int64) * mul + ((1 << shift) >> 1)) >> shift
        y = run(units, [x, np.array([mul], np.int16)], x.shape, "int16")
        np.testing.assert_array_equal(y, np.maximum(want, -(1 << 15)))


def test_constants_are_the_dialect_s():
    assert kernels.CURVATURE == dialect.CURVATURE
