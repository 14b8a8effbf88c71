"""`product` against `intvit::linear` and the stages of its epilogue against their own operations, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.gelu import gelu
from intvit.dialect.linear import linear
from intvit.dialect.requantize import add, requantize
from intvit.kernels import epilogue, pack
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.gelu import Gelu
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, NARROW, SSE2, WIDE
from intvit.kernels.product import column_splits, cuts, product, tile_rows

EXTREMES = ("random", "lowest", "highest", "outlier")


def int8(random: np.random.Generator, shape: tuple[int, ...], kind: str = "random") -> np.ndarray:
    x = random.integers(-128, 128, shape).astype(np.int8)
    if kind in ("lowest", "highest"):
        x[:] = -128 if kind == "lowest" else 127
    elif kind == "outlier":
        x[:], x[..., 0] = 0, -128
    return x


def dyadic(random: np.random.Generator, n: int, limit: int = 32767) -> tuple[np.ndarray, np.ndarray]:
    return random.integers(0, 14, n).astype(np.int32), random.integers(-limit, limit + 1, n).astype(np.int32)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def sums(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> torch.Tensor:
    return linear(tensor(x)[None], tensor(w), tensor(bias))


SHAPES = [
    *((1, 1, 1), (5, 7, 33), (3, 2, 100), (20, 4096, 40), (197, 192, 96), (40, 50, 70)),
    *((20, 80, 40), (64, 3, 40)),  # a tile reads behind the tensor's last line of cache
    *((1, 8, 2), (5, 40, 1)),  # of a vector of columns hardly any
]


@pytest.mark.parametrize(("rows", "k", "n"), SHAPES)
def test_sums(machine, run, rows, k, n):
    random = np.random.default_rng(rows + k + n)
    bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
    function = product(k, n, epilogue.Epilogue((epilogue.Bias(),), "int32"), machine[1], tokens=rows)
    for kind in EXTREMES:
        x, w = int8(random, (rows, k), kind), int8(random, (n, k), kind)
        inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
        y = run(function, inputs, (rows, n), "int32")
        np.testing.assert_array_equal(y, sums(x, w, bias)[0].numpy(), err_msg=kind)


@pytest.mark.parametrize(("tokens", "n"), [(8, 1), (8, 2), (3, 2), (13, 4)])
def test_few_columns_of_any_tile(machine, run, tokens, n):
    random = np.random.default_rng(n)
    for rows, k in ((1, 8), (5, 40), (tokens, 96)):
        x, w = int8(random, (rows, k)), int8(random, (n, k))
        bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
        function = product(k, n, epilogue.Epilogue((epilogue.Bias(),), "int32"), machine[1], tokens=tokens)
        y = run(function, [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])], (rows, n), "int32")
        np.testing.assert_array_equal(y, sums(x, w, bias)[0].numpy())


@pytest.mark.parametrize(("rows", "k", "n"), [(99, 200, 200), (40, 50, 70)])
def test_every_cut(machine, run, rows, k, n):
    random = np.random.default_rng(k)
    x, w, bias = int8(random, (rows, k)), int8(random, (n, k)), random.integers(-(2**20), 2**20, n).astype(np.int32)
    want = sums(x, w, bias)[0].numpy()
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    stages = epilogue.Epilogue((epilogue.Bias(),), "int32")
    tried = cuts(rows, k, n, machine[1])
    assert tried[0] == RULE and len(set(tried)) == len(tried) > 1
    for cut in tried:
        y = run(product(k, n, stages, machine[1], tokens=rows, cut=cut), inputs, (rows, n), "int32")
        np.testing.assert_array_equal(y, want, err_msg=str(cut))


@pytest.mark.parametrize(
    ("isa", "cut"),
    [(AVX2, Cut(100)), (AVX2, Cut(-1)), (AVX2, Cut(None, 4)), (AVX2, Cut(None, -1)), (AMX, Cut(14))],
    ids=str,
)
def test_cuts_that_cannot_be(isa, cut):
    stages = epilogue.Epilogue((epilogue.Bias(),), "int32")
    with pytest.raises(ValueError, match=f"a product of 64 by 96 on {isa.name} cannot be cut into"):
        product(64, 96, stages, isa, cut=cut)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 80), st.integers(1, 40), st.data())
def test_any_shape_and_requantization(machine, run, rows, k, n, tokens, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    shift, zero_point = data.draw(st.integers(0, 15)), data.draw(st.integers(-128, 127))
    dtype = data.draw(st.sampled_from(["int8", "int16"]))
    x, w, (pre, mul) = int8(random, (rows, k)), int8(random, (n, k)), dyadic(random, n)
    low, high = (-128, 127) if dtype == "int8" else (-32768, 32767)
    stages = epilogue.Epilogue((epilogue.Bias(), epilogue.Requantize(shift, low, high, zero_point=zero_point)), dtype)
    inputs = [x, pack.weights(w, machine[1]), pack.bias(np.zeros(n, np.int32), w, machine[1])]
    inputs += [pack.channels(v, n, o.dtype, machine[1]) for v, o in zip((pre, mul), stages.operands[1:], strict=True)]
    y = run(product(k, n, stages, machine[1], tokens=tokens), inputs, (rows, n), dtype)
    acc = sums(x, w, np.zeros(n, np.int32))
    np.testing.assert_array_equal(y, requantize(acc, tensor(mul), tensor(pre), shift, zero_point, dtype)[0].numpy())


@pytest.mark.parametrize("n", [96, 75])
def test_residual(machine, run, n):
    random = np.random.default_rng(n)
    rows, k, shift = 23, 65, 13
    x, w = int8(random, (rows, k)), int8(random, (n, k))
    bias = random.integers(-(2**20), 2**20, n).astype(np.int32)
    arm = random.integers(-32768, 32768, (rows, n)).astype(np.int16)
    (pre, mul), (arm_pre, arm_mul) = dyadic(random, n, 2**14), dyadic(random, n, 2**14)
    stages = epilogue.Epilogue((epilogue.Bias(), epilogue.Add(shift)), "int16")
    vectors = dict(pre1=pre, mul1=mul, arm_pre1=arm_pre, arm_mul1=arm_mul)
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += [
        arm if o.per == "row" else pack.channels(vectors[o.name], n, o.dtype, machine[1]) for o in stages.operands[1:]
    ]
    y = run(product(k, n, stages, machine[1], tokens=rows), inputs, (rows, n), "int16")
    want = add(tensor(arm)[None], tensor(arm_mul), tensor(arm_pre), sums(x, w, bias), tensor(mul), tensor(pre), shift)
    np.testing.assert_array_equal(y, want[0].numpy())


@pytest.mark.parametrize("n", [64, 39])
def test_gelu_after_a_product(machine, run, n):
    random = np.random.default_rng(n)
    rows, k, fraction = 30, 48, 11
    x, w = int8(random, (rows, k)), int8(random, (n, k))
    bias = random.integers(-(2**16), 2**16, n).astype(np.int32)
    pre, mul = random.integers(0, 5, n).astype(np.int32), random.integers(0, 32768, n).astype(np.int32)
    pre2, mul2 = random.integers(0, 9, n).astype(np.int32), random.integers(-32767, 32768, n).astype(np.int32)
    stages = epilogue.Epilogue(
        (epilogue.Bias(), epilogue.Requantize(15, -32768, 32767), Gelu(fraction, 12, zero_point=-100)), "int8"
    )
    vectors = dict(pre1=pre, mul1=mul, pre2=pre2, mul2=mul2)
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += [pack.channels(vectors[o.name], n, o.dtype, machine[1]) for o in stages.operands[1:]]
    y = run(product(k, n, stages, machine[1], tokens=rows), inputs, (rows, n), "int8")
    middle = requantize(sums(x, w, bias), tensor(mul), tensor(pre), 15, 0, "int16")
    np.testing.assert_array_equal(y, gelu(middle, fraction, tensor(mul2), tensor(pre2), 12, -100)[0].numpy())


def test_one_function_serves_every_number_of_rows(machine):
    tvm = pytest.importorskip("tvm")
    random = np.random.default_rng(1)
    k, n = 40, 48
    w = int8(random, (n, k))
    function = product(k, n, epilogue.Epilogue((epilogue.Bias(),), "int32"), machine[1], tokens=9)
    kernel = tvm.compile(function, target=machine[0])["product"]
    packed = tvm.runtime.tensor(pack.weights(w, machine[1]))
    bias = tvm.runtime.tensor(pack.bias(np.zeros(n, np.int32), w, machine[1]))
    for rows in (1, 8, 9, 10, 31):
        x = int8(random, (rows, k))
        y = tvm.runtime.empty((rows, n), "int32")
        kernel(tvm.runtime.tensor(x), packed, bias, y)
        np.testing.assert_array_equal(y.numpy(), x.astype(np.int32) @ w.T.astype(np.int32))


@pytest.mark.parametrize("isa", [AVX512_VNNI, AVX512, AVX2, SSE2, WIDE, NARROW], ids=lambda isa: isa.name)
@pytest.mark.parametrize(
    ("tokens", "k", "n"), [(197, 192, 576), (197, 768, 192), (1, 192, 1000), (49, 96, 288), (1370, 384, 384)]
)
def test_two_threads_share_evenly(isa, tokens, k, n):
    tile = tile_rows(tokens, k, isa)
    panels = -(-n // isa.panel)
    splits = column_splits(tokens, tile, k, panels, isa)
    tasks = -(-tokens // tile) * splits
    ideal = tokens * panels / 2
    assert -(-tasks // 2) * tile * (panels // splits) <= 1.1 * ideal


@pytest.mark.parametrize("tokens", [1, 17, 49, 192, 197, 257, 577, 1370, 3136])
def test_two_threads_share_tiles_of_rows_evenly(tokens):
    rows = tile_rows(tokens, 384, AMX)
    tiles, own = -(-tokens // 16), rows // 16
    tasks = -(-tiles // own)
    assert rows % 16 == 0 and 2 <= own <= 12
    assert -(-tasks // 2) * own <= max(2, 1.1 * tiles / 2 + 1)


def test_packing_is_no_larger_than_the_weights():
    w = np.zeros((576, 192), np.int8)
    for isa in (AVX512_VNNI, AVX512, AVX2, SSE2, WIDE, NARROW):
        assert pack.weights(w, isa).nbytes == w.nbytes


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(TypeError, match="int8 matrix"):
        pack.weights(np.zeros((4, 4), np.int16), AVX2)
    with pytest.raises(ValueError, match="does not fit int16"):
        pack.channels([40000], 3, "int16", AVX2)


def test_sums_without_a_bias_need_16_bit_operands():
    with pytest.raises(ValueError, match="begins with a bias"):
        product(8, 8, epilogue.Epilogue((), "int32"), AVX512_VNNI)
