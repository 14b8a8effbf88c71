"""The stages of an epilogue in 16 and 32-bit lanes: every int16 and every shift, against the dialect."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect import gelu as gelu_dialect
from intvit.dialect.linear import linear
from intvit.dialect.requantize import add, requantize
from intvit.kernels import gelu as gelu_kernels
from intvit.kernels import pack
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize
from intvit.kernels.gelu import Gelu, bump_of
from intvit.kernels.int16 import Instructions, instructions
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, NARROW, SSE2, WIDE, Isa
from intvit.kernels.product import product

tvm = pytest.importorskip("tvm")

EVERY_INT16 = np.arange(-32768, 32768, dtype=np.int16)
FACTORS = [-32768, -32767, -16385, -16384, -3, -1, 0, 1, 2, 9000, 16383, 16384, 16385, 20011, 24577, 32766, 32767]
COLUMNS = 35
LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}


def factors(limit: int = 32768) -> np.ndarray:
    """The corners, then random ones: two vectors of int32 and a few columns on every x86."""
    random = np.random.default_rng(1).integers(-limit, limit, COLUMNS - len(FACTORS))
    return np.concatenate([FACTORS, random]).clip(-limit, limit).astype(np.int32)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def one(value: int) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.int32)


def channel_inputs(stages: Epilogue, n: int, isa: Isa, **vectors: Any) -> list[np.ndarray]:
    return [pack.channels(vectors[o.name], n, o.dtype, isa) for o in stages.operands if o.name in vectors]


@pytest.mark.parametrize("shift", range(31))
def test_requantization_of_every_int16(machine, run, shift):
    x, mul = np.repeat(EVERY_INT16[:, None], COLUMNS, 1), factors()
    dtype, zero_point = [("int8", -128), ("int16", 5), ("int8", 0), ("int32", 0), ("int8", 127)][shift % 5]
    stages = Epilogue((Requantize(shift, *LIMITS[dtype], pre=0, zero_point=zero_point),), dtype)
    y = run(
        elementwise(COLUMNS, stages, machine[1]),
        [x, *channel_inputs(stages, COLUMNS, machine[1], mul=mul)],
        x.shape,
        dtype,
    )
    want = requantize(tensor(x)[None], tensor(mul), one(0), shift, zero_point, dtype)[0]
    np.testing.assert_array_equal(y, want.numpy())


@pytest.mark.parametrize(
    ("shift", "dtype", "zero_point"),
    [
        (17, "int16", 32767),
        (17, "int16", -30000),
        (21, "int16", 32767),
        (30, "int16", -32768),
        (16, "int8", -100),
        (19, "int32", 7),
        (30, "int8", 127),
    ],
)
@pytest.mark.parametrize("mul", [-32768, 19436])
def test_zero_points_that_leave_16_bits(machine, run, shift, dtype, zero_point, mul):
    x = EVERY_INT16.reshape(1024, 64)
    stages = Epilogue((Requantize(shift, *LIMITS[dtype], pre=0, mul=mul, zero_point=zero_point),), dtype)
    y = run(elementwise(64, stages, machine[1]), [x], x.shape, dtype)
    want = requantize(tensor(x)[None], one(mul), one(0), shift, zero_point, dtype)[0]
    np.testing.assert_array_equal(y, want.numpy())


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 30), st.sampled_from(["int8", "int16", "int32"]), st.data()
)
def test_requantized_product_of_any_shape(machine, run, k, n, shift, dtype, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    zero_point = data.draw(st.integers(-128, 127))
    bias = random.integers(-(2**29), 2**29, n).astype(np.int32)
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((7, k), (n, k)))
    pre, mul = random.integers(0, 31, n).astype(np.int32), random.integers(-32768, 32768, n).astype(np.int32)
    stages = Epilogue((Bias(), Requantize(shift, *LIMITS[dtype], zero_point=zero_point)), dtype)
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += channel_inputs(stages, n, machine[1], pre1=pre, mul1=mul)
    y = run(product(k, n, stages, machine[1], tokens=7), inputs, (7, n), dtype)
    sums = linear(tensor(x)[None], tensor(w), tensor(bias))
    np.testing.assert_array_equal(y, requantize(sums, tensor(mul), tensor(pre), shift, zero_point, dtype)[0].numpy())


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 70), st.integers(0, 30), st.sampled_from(["int16", "int32"]), st.booleans(), st.data())
def test_residual_of_any_shape(machine, run, n, shift, arm_dtype, constants, data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows, k = 5, 20
    x, w = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((rows, k), (n, k)))
    bias = random.integers(-(2**25), 2**25, n).astype(np.int32)
    most = 2**15 if arm_dtype == "int16" else 2**29
    arm = random.integers(-most, most, (rows, n)).astype(arm_dtype)
    arm[0] = -most
    pre, arm_pre = (
        np.full(n, v, np.int32) if constants else random.integers(0, 31, n).astype(np.int32) for v in (11, 0)
    )
    mul, arm_mul = (random.integers(-(2**14), 2**14 + 1, n).astype(np.int32) for _ in range(2))
    fields = dict(pre=11, arm_pre=0) if constants else {}
    stages = Epilogue((Bias(), Add(shift, arm_dtype=arm_dtype, **fields)), "int16")
    inputs = [x, pack.weights(w, machine[1]), pack.bias(bias, w, machine[1])]
    inputs += channel_inputs(stages, n, machine[1], pre1=pre, mul1=mul, arm_pre1=arm_pre, arm_mul1=arm_mul)
    y = run(product(k, n, stages, machine[1], tokens=rows), [*inputs, arm], (rows, n), "int16")
    sums = linear(tensor(x)[None], tensor(w), tensor(bias))
    want = add(sums, tensor(mul), tensor(pre), tensor(arm)[None], tensor(arm_mul), tensor(arm_pre), shift)
    np.testing.assert_array_equal(y, want[0].numpy())


GELUS = [
    Gelu(10, 21, -125, pre=2, mul=19436),
    Gelu(10, 21, -122, pre=1, mul=16703),
    Gelu(11, 21, -119, pre=1, mul=27574),
    Gelu(8, 20, -128, pre=5, mul=32767),
    Gelu(8, 21, -100, pre=0, mul=9000),
    Gelu(13, 21, 0, pre=0, mul=32767),
    Gelu(13, 17, 0, pre=3, mul=1),
    Gelu(10, 21, -120, pre=1, mul=-19436),
    Gelu(10, 22, -120, pre=1, mul=10001),
    Gelu(12, 13, 5, pre=1, mul=16384),
]


@pytest.mark.parametrize("stage", GELUS, ids=str)
def test_gelu_of_every_int16_with_one_scale(machine, run, stage):
    x = EVERY_INT16.reshape(-1, 128)[:, :99]
    x = np.concatenate([x, EVERY_INT16.reshape(-1, 128)[:, 29:]])
    want = gelu_dialect.gelu(
        tensor(x)[None], stage.fraction, one(stage.mul), one(stage.pre), stage.shift, stage.zero_point
    )[0].numpy()
    y = run(elementwise(99, Epilogue((stage,), "int8"), machine[1]), [x], x.shape, "int8")
    np.testing.assert_array_equal(y, want)
    operands = [pack.channels(value, 99, "int16", machine[1]) for value in (stage.mul, stage.zero_point)]
    y = run(elementwise(99, Epilogue((stage.shared,), "int8"), machine[1]), [x, *operands], x.shape, "int8")
    np.testing.assert_array_equal(y, want, err_msg="shared")


def test_both_ways_of_gelu_are_tested():
    assert {stage.fits16 for stage in GELUS} == {True, False}


def test_factors_per_column_prove_nothing():
    assert not replace(GELUS[0], mul=None).fits16 and not Gelu(10, 21, 127, pre=1).fits16
    assert not replace(GELUS[0], pre=None).fits16


@pytest.mark.parametrize("stage", GELUS, ids=str)
def test_gelu_ends_halfway(stage):
    scale = one(stage.mul), one(stage.pre), stage.shift, stage.zero_point
    want = gelu_dialect.gelu(tensor(EVERY_INT16)[None, :, None], stage.fraction, *scale).flatten()
    ends = bool((want[EVERY_INT16 >= 2**14] == 127).all()) and len(set(want[EVERY_INT16 <= -(2**14)].tolist())) == 1
    assert stage.ends_halfway == stage.shared.ends_halfway == (ends and stage.fraction < 13)


def test_both_ends_of_gelu_are_tested():
    assert {stage.ends_halfway for stage in GELUS} == {True, False}
    assert not any(replace(GELUS[0], **{name: None}).ends_halfway for name in ("mul", "pre", "zero_point"))


@pytest.mark.parametrize("stage", [stage for stage in GELUS if stage.ends_halfway], ids=str)
def test_a_requantization_may_end_halfway_before_gelu(machine, run, stage):
    mul = np.resize([m for m in factors(32767) if m == 0 or m >= 2**14], 67).astype(np.int32)
    x = np.repeat(EVERY_INT16[:, None], len(mul), 1)
    stages = Epilogue((Requantize(14, *LIMITS["int16"], pre=0, halfway=True), stage), "int8")
    inputs = [x, *channel_inputs(stages, len(mul), machine[1], mul=mul)]
    y = run(elementwise(len(mul), stages, machine[1]), inputs, x.shape, "int8")
    wide = requantize(tensor(x)[None], tensor(mul), one(0), 14, 0, "int16")
    scale = one(stage.mul), one(stage.pre), stage.shift, stage.zero_point
    np.testing.assert_array_equal(y, gelu_dialect.gelu(wide, stage.fraction, *scale)[0].numpy())


@pytest.mark.parametrize("more", [{"shift": 15}, {"zero_point": 1}, {"high": 127}, {"low": -128}], ids=str)
def test_what_cannot_end_halfway(more):
    with pytest.raises(ValueError, match="not a requantization whose values may be doubled"):
        Requantize(**{"shift": 14, "low": -32768, "high": 32767, **more}, halfway=True)


def test_the_polynomial_stays_within_int16():
    u = np.arange(32768)
    p = np.full_like(u, gelu_kernels.POLYNOMIAL[0])
    for coefficient in gelu_kernels.POLYNOMIAL[1:]:
        p = ((p * u + (1 << 14)) >> 15) + coefficient
        assert (abs(p) < 2**15).all()
    p4 = (((p * p + (1 << 14)) >> 15) ** 2 + (1 << 14)) >> 15
    below = (u * p4 + (1 << 14)) >> 15
    assert below.min() >= 0 and below.max() < 2**11
    assert below[[0, 4096, 32767]].tolist() == [bump_of(v) for v in (0, 4096, 32767)]


STAGES = {
    "requantize": (Requantize(21),),
    "gelu": (Requantize(14, -32768, 32767), Gelu(10, 21, -120, 2, 19436)),
    "gelu that ends halfway": (Requantize(14, -32768, 32767, halfway=True), Gelu(10, 21, -120, 2, 19436)),
}


@pytest.mark.parametrize(
    ("isa", "cpu"), [(AVX512, "x86-64-v4"), (AVX512_VNNI, "sapphirerapids"), (AVX2, "x86-64-v3")], ids=str
)
def test_whole_vectors_are_16_bit_on_x86(isa, cpu):
    """A row of a tile: two sums become one vector that is multiplied once (GELU: six times more, and once in pairs).

    Where GELU ends halfway, that once is a seventh time.
    """
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    counts = {"vpmulhw": 1}, {"vpmulhw": 1, "vpmulhrsw": 6}, {"vpmulhw": 1, "vpmulhrsw": 7, "vpaddsw": 1}
    for (name, more), count in zip(STAGES.items(), counts, strict=True):
        stages = Epilogue((Bias(), *more))
        function = product(64, isa.panel, stages, isa, tokens=3)
        assembly = tvm.compile(function, target=target).mod.inspect_source("asm")
        for instruction, per_row in count.items():
            assert assembly.count(f"{instruction}\t") == 3 * per_row, (name, instruction)


@pytest.mark.parametrize("isa", [AMX, AVX512, AVX512_VNNI, AVX2, SSE2], ids=lambda isa: isa.name)
def test_every_x86_has_named_instructions(isa):
    assert instructions(isa, 2 * isa.lanes).multiply_add and isa.narrow
    assert instructions(isa, isa.lanes) == instructions(WIDE, 8) == instructions(NARROW, 8) == Instructions()


def test_rounding_multiplication_is_one_instruction_on_arm():
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]})
    isa = replace(WIDE, intrinsic="llvm.aarch64.neon.sdot")
    function = elementwise(64, Epilogue(STAGES["gelu"][1:]), isa)
    assert "sqrdmulh\t" in tvm.compile(function, target=target).mod.inspect_source("asm")
