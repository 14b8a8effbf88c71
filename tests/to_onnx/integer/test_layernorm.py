"""`layernorm` in ONNX Runtime equals the reference."""

import numpy as np
import onnx
import pytest
from graphs import PATTERNS, SEEDS, Array, Graph, filled, row, session
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.dialect.layernorm import MAX_EPS
from intvit.errors import IntvitError
from intvit.passes.lower_layernorm import scaled_eps
from intvit.to_onnx.integer import layernorm
from intvit.to_onnx.scope import Scope

QUICK = settings(max_examples=60, deadline=None)
CHANNELS = st.sampled_from((1, 2, 3, 7, 64, 192, 333))
EPS = st.sampled_from((0, 1, 2, 1 << 17, 1 << 28, MAX_EPS))
MIN_SHIFTS = st.integers(-15, 16)
MOST_BIAS = 1 << 29


def check(x: Array, multiplier: Array, bias: Array, *rest: object, keep_functions: bool = False) -> None:
    graph = Graph()
    graph.check(graph.call("layernorm", graph.operand(x), multiplier, bias, *rest), keep_functions=keep_functions)


def of_kinds(seed: int, channels: int) -> Array:
    """`[2, 12, channels]`: rows of every pattern, few levels, one outlier of each size, constant, nearly constant."""
    random = np.random.default_rng(seed)
    rows = [filled(random, (channels,), "int16", pattern) for pattern in PATTERNS]
    rows += [np.full(channels, random.integers(-(1 << 15), 1 << 15), np.int16) for _ in range(5)]
    rows[-1][0] += 1 if rows[-1][0] < 0 else -1
    rows[-2][-1] = random.integers(-(1 << 15), 1 << 15)
    rows[-3][: channels // 3] = random.integers(-(1 << 15), 1 << 15)
    rows[-4] = (
        random.normal(0, 2.0 ** random.integers(0, 15), channels).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)
    )
    return np.stack([rows, rows[::-1]])


def outliers(channels: int) -> Array:
    """`[1, 60, channels]`: zeros and one outlier, of every size."""
    x = np.zeros((1, 60, channels), np.int16)
    x[0, :, 0] = np.exp2(np.arange(1, 61) / 4.0).astype(np.int16)
    return x


@QUICK
@given(
    st.data(), SEEDS, CHANNELS, EPS, MIN_SHIFTS, st.integers(0, 30), st.sampled_from(("int8", "int16")), st.booleans()
)
def test_layernorm(
    data: st.DataObject, seed: int, n: int, eps: int, min_shift: int, shift: int, dtype: str, keep: bool
) -> None:
    random = np.random.default_rng(seed)
    count = data.draw(st.sampled_from((1, n)))
    limit = data.draw(st.sampled_from((1, 1 << 8, (1 << 15) - 1))) >> (shift == 30)
    most = data.draw(st.sampled_from((0, 1 << 12, MOST_BIAS - 1)))
    multiplier, bias = random.integers(-limit, limit + 1, count), random.integers(-most, most + 1, count)
    check(of_kinds(seed, n), row(multiplier), row(bias), shift, eps, min_shift, dtype, keep_functions=keep)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("channels", [4095, 4096, 4097, 5000, 32_767])
def test_many_channels(channels: int, dtype: str) -> None:
    """From 4097 on a row may be saturated."""
    x = np.concatenate([of_kinds(channels, channels)[:1], outliers(channels)], 1)
    check(x, row(32_767), row(0), 8 if dtype == "int8" else 0, 0, -15, dtype)
    between = 24 * (1 << 20) - 1 - (1 << 19) - 32_767 * 32_767
    check(x, row(32_767), row(between), 20, 0, -15, dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("min_shift", range(-15, 17))
@pytest.mark.parametrize("eps", [0, 1, 5, (1 << 17) - 1, 1 << 28, 3 << 28, MAX_EPS])
def test_every_min_shift(min_shift: int, eps: int, dtype: str) -> None:
    """Coarse variances are too small, so that rows are saturated; large ones come with large half steps."""
    x = np.concatenate([of_kinds(i, n).reshape(1, -1, n)[:, :, :2] for i, n in ((0, 2), (1, 16), (2, 31))], 1)
    wide = np.concatenate([of_kinds(3, 31)[:1], outliers(31)], 1)
    for part in (x, wide):
        check(part, row(32_767), row(5), 24 if dtype == "int8" else 16, eps, min_shift, dtype)


def test_the_largest_sums() -> None:
    """Rows with one outlier: the sum that is shifted leaves 32 bits where `2^a` is added before the shift."""
    found = 0
    for p in range(5, 18):
        for part in (0.55, 0.8, 0.999):
            min_shift, eps = scaled_eps(1.0, 2.0 ** -(14 + p) * part**0.5, 1)
            x = np.full((1, 2, 30_000), -(1 << 15), np.int16)
            x[0, 0, 0], x[0, 1, :-1] = (1 << 15) - 1, (1 << 15) - 1
            check(x, row(32_767), row(0), 0, eps, min_shift, "int16")
            check(x, row(32_767), row(0), 0, eps, min_shift, "int8")
            found += layernorm.rounds_late(eps, min_shift)
    assert found > 30


def test_what_quantize_gives_is_not_clipped() -> None:
    for scale in np.exp2(np.linspace(-60, 30, 400)):
        for eps in (1e-3, 1e-5, 1e-6, 1e-12, 0.0):
            min_shift, integer = scaled_eps(eps, float(scale), 384)
            reaches = eps * 384 / scale**2 < 1e18
            assert not (reaches and layernorm.saturates(384, integer, min_shift))


def test_reciprocal_roots() -> None:
    """Of all bit lengths, of squares and their neighbours, where a Newton step could end beside the root."""
    import torch

    from intvit.dialect.layernorm import reciprocal_root

    random = np.random.default_rng(0)
    roots = np.arange(1 << 14, 1 << 15, dtype=np.int64)
    squares = (roots**2)[:, None] + np.array([-1, 0, 1])
    between = roots**2 + roots
    spread = np.exp2(random.uniform(0, 31, 40_000)).astype(np.int64)
    v = np.unique(np.concatenate([squares.ravel(), between, between + 1, spread, [1, 2, 3, 2**31 - 1]]))
    scope = Scope.graph(21)
    g, steps = layernorm.reciprocal_root(scope, "v")
    info = onnx.helper.make_tensor_value_info
    outputs = [info(name, onnx.TensorProto.INT64, ["n"]) for name in (g, steps)]
    model = scope.model([info("v", onnx.TensorProto.INT64, ["n"])], outputs, "roots")
    found, j = session(model).run(None, {"v": v})
    wanted, p = reciprocal_root(torch.from_numpy(v.astype(np.int32)), torch.zeros(len(v), dtype=torch.int32))
    assert np.array_equal(found, wanted.numpy())
    assert np.array_equal(j - 14, p.numpy())


def test_32_bits_are_refused() -> None:
    with pytest.raises(IntvitError, match="must have 8 or 16 bits"):
        check(of_kinds(0, 8), row(9), row(0), 2, 0, -15, "int32")
