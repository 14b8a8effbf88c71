"""`product` with weights of 4 bits, packed two to a byte, against `intvit::linear`, and how they are packed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit import nibbles
from intvit.dialect.linear import linear
from intvit.dialect.requantize import requantize
from intvit.kernels import epilogue, pack
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, DOTPROD, NARROW, SSE2, WIDE, Isa
from intvit.kernels.product import cuts, product

ALL = (AMX, AVX512_VNNI, AVX512, AVX2, SSE2, WIDE, DOTPROD, NARROW)
SUMS = epilogue.Epilogue((epilogue.Bias(),), "int32")


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def integers(random: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    return random.integers(low, high + 1, shape).astype(np.int8)


def reference(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> torch.Tensor:
    return linear(tensor(x)[None], tensor(w), tensor(bias))


def operands(x: np.ndarray, w: np.ndarray, bias: np.ndarray, isa: Isa) -> list[np.ndarray]:
    return [x, pack.weights(w, isa, bits=4), pack.bias(bias, w, isa)]


def unpacked(packed: np.ndarray, n: int, k: int, isa: Isa) -> np.ndarray:
    """Packed weights as the matrix that they are."""
    panels, loads, _ = packed.shape
    steps = np.stack(nibbles.apart(packed), 2).reshape(panels, 2 * loads, isa.columns, isa.neighbours)
    return steps.transpose(0, 2, 1, 3).reshape(panels * isa.columns, -1)[:n, :k]


@pytest.mark.parametrize("isa", ALL, ids=lambda isa: isa.name)
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 130), k=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_packing_and_back(isa: Isa, n: int, k: int, seed: int) -> None:
    w = integers(np.random.default_rng(seed), (n, k), -8, 7)
    packed = pack.weights(w, isa, bits=4)
    assert packed.dtype == np.int8 and packed.shape == pack.packed_shape(n, k, isa, bits=4)
    np.testing.assert_array_equal(unpacked(packed, n, k, isa), w)
    both = sum(int(half.astype(np.int64).sum()) for half in nibbles.apart(packed))
    assert both == w.sum(dtype=np.int64), "what is padded is zero"


@pytest.mark.parametrize("isa", ALL, ids=lambda isa: isa.name)
def test_packed_weights_take_half(isa: Isa) -> None:
    w = np.zeros((576, 192), np.int8)
    assert 2 * pack.weights(w, isa, bits=4).nbytes == pack.weights(w, isa).nbytes == w.nbytes


def test_one_weight_beyond_four_bits_decides() -> None:
    w = integers(np.random.default_rng(0), (9, 11), -8, 7)
    assert pack.weight_bits(w) == 4
    for value in (8, -9):
        w[8, 10] = value
        assert pack.weight_bits(w) == 8
        with pytest.raises(ValueError, match="4 bits hold"):
            pack.weights(w, AVX2, bits=4)
    deep = np.zeros((1, pack.MOST_DEPTH + 1), np.int8)
    assert (pack.weight_bits(deep[:, 1:]), pack.weight_bits(deep)) == (4, 8)
    with pytest.raises(ValueError, match="no product of depth 65537 with weights of 4 bits"):
        product(pack.MOST_DEPTH + 1, 1, SUMS, AVX2, bits=4)
    with pytest.raises(ValueError, match="no product of depth 8 with weights of 2 bits"):
        product(8, 8, SUMS, AVX2, bits=2)


EXTREMES = {"random": (-8, 7), "lowest": (-8, -8), "highest": (7, 7)}


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1, 1), (5, 7, 33), (3, 2, 100), (20, 4095, 40), (197, 192, 96)])
def test_sums(machine, run, rows, k, n):
    random = np.random.default_rng(rows + k + n)
    bias = random.integers(-(2**31) + 2**28, 2**31 - 2**28, n).astype(np.int32)
    function = product(k, n, SUMS, machine[1], tokens=rows, bits=4)
    for kind, limits in EXTREMES.items():
        w = integers(random, (n, k), *limits)
        for ends in ((-128, 127), (-128, -128), (127, 127)):
            x = integers(random, (rows, k), *ends)
            y = run(function, operands(x, w, bias, machine[1]), (rows, n), "int32")
            np.testing.assert_array_equal(y, reference(x, w, bias)[0].numpy(), err_msg=f"{kind} {ends}")


def test_the_largest_sums(machine, run):
    """What is summed up is up to 16 times the weights, and 128 more than the pixels."""
    k, isa = pack.MOST_DEPTH, machine[1]
    function = product(k, 3, SUMS, isa, tokens=1, bits=4)
    w, bias = np.repeat(np.array([[-8], [7], [-8]], np.int8), k, 1), np.array([5, -7, 2**30], np.int32)
    for value in (-128, 127):
        x = np.full((1, k), value, np.int8)
        y = run(function, operands(x, w, bias, isa), (1, 3), "int32")
        np.testing.assert_array_equal(y, reference(x, w, bias)[0].numpy())


def test_every_cut(machine, run):
    rows, k, n = 40, 50, 70
    random = np.random.default_rng(k)
    x, w = integers(random, (rows, k), -128, 127), integers(random, (n, k), -8, 7)
    bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
    want = reference(x, w, bias)[0].numpy()
    for cut in {RULE, *cuts(rows, k, n, machine[1])[:3], Cut(None, 1)}:
        y = run(
            product(k, n, SUMS, machine[1], tokens=rows, cut=cut, bits=4),
            operands(x, w, bias, machine[1]),
            (rows, n),
            "int32",
        )
        np.testing.assert_array_equal(y, want, err_msg=str(cut))


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 80), st.integers(1, 40), st.data())
def test_any_shape_and_requantization(machine, run, rows, k, n, tokens, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    shift, zero_point = data.draw(st.integers(0, 15)), data.draw(st.integers(-128, 127))
    x, w = integers(random, (rows, k), -128, 127), integers(random, (n, k), -8, 7)
    bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
    pre, mul = random.integers(0, 14, n).astype(np.int32), random.integers(-32767, 32768, n).astype(np.int32)
    stages = epilogue.Epilogue((epilogue.Bias(), epilogue.Requantize(shift, zero_point=zero_point)), "int8")
    inputs = operands(x, w, bias, machine[1])
    inputs += [pack.channels(v, n, o.dtype, machine[1]) for v, o in zip((pre, mul), stages.operands[1:], strict=True)]
    y = run(product(k, n, stages, machine[1], tokens=tokens, bits=4), inputs, (rows, n), "int8")
    want = requantize(reference(x, w, bias), tensor(mul), tensor(pre), shift, zero_point, "int8")
    np.testing.assert_array_equal(y, want[0].numpy())


def test_sums_without_a_bias(machine, run):
    if machine[1].zero:
        pytest.skip("sums begin with a bias here")
    random = np.random.default_rng(3)
    x, w = integers(random, (9, 70), -128, 127), integers(random, (40, 70), -8, 7)
    function = product(70, 40, epilogue.Epilogue((), "int32"), machine[1], tokens=9, bits=4)
    y = run(function, [x, pack.weights(w, machine[1], bits=4)], (9, 40), "int32")
    np.testing.assert_array_equal(y, x.astype(np.int32) @ w.T.astype(np.int32))
