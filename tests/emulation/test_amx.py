"""AMX kernels that TVM built, in this process, against numpy bit by bit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emulation

tvm = pytest.importorskip("tvm")
from tvm import tirx  # noqa: E402
from tvm.target import Target  # noqa: E402
from tvm.tirx.script import builder as T  # noqa: E402

from intvit.kernels.arith import load, store  # noqa: E402
from intvit.kernels.function import Tensor, function, scratch, symbol  # noqa: E402

# Not "sapphirerapids": the code around the tiles must run on any x86-64, and that CPU's may hold AVX512-FP16.
FEATURES = ["+amx-tile", "+amx-int8"]
TARGET = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64", "mattr": FEATURES})
FORMS = {"ssd": (np.int8, np.int8), "sud": (np.int8, np.uint8), "usd": (np.uint8, np.int8), "uud": (np.uint8, np.uint8)}


def amx(name: str, *operands: Any) -> None:
    """One instruction; Python numbers are tiles."""
    tiles = [tirx.IntImm("int8", x) if isinstance(x, int) else x for x in operands]
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *tiles))


def int64(value: int) -> Any:
    return tirx.IntImm("int64", value)


def compiled(tensors: list[Tensor], body: Callable[..., None]) -> Callable[..., None]:
    """`body` as a function over numpy arrays, which it changes in place."""
    kernel = tvm.compile(function("kernel", tensors, body), target=TARGET)["kernel"]
    return lambda *arrays: kernel(*map(tvm.runtime.from_dlpack, arrays))


def aligned(x: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes, which TVM wants."""
    memory = np.zeros(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def configuration(rows: list[int], row_bytes: list[int]) -> np.ndarray:
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16 : 16 + 2 * len(row_bytes)].view(np.uint16)[:] = row_bytes
    config[48 : 48 + len(rows)] = rows
    return aligned(config)


def tile_product(a: np.ndarray, b: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """int32 [M, N] `sums` + 8-bit [M, 4 K] `a` . 8-bit [K, 4 N] `b`, modulo 2^32."""
    k, n = len(b), b.shape[1] // 4
    columns = b.reshape(k, n, 4).transpose(0, 2, 1).reshape(4 * k, n).astype(np.int64)
    return (sums + a.astype(np.int64) @ columns).astype(np.int32)


@pytest.fixture(scope="module", autouse=True)
def emulator() -> Any:
    return emulation.install()


@pytest.fixture(scope="module", params=FORMS)
def step(request) -> tuple[str, Callable[..., None]]:
    """sums += a . b with shapes and strides of the caller: the pitches are bytes, the rest are rows of bytes."""

    def body(config, pitches, a, b, sums):
        amx("ldtilecfg", T.address_of(config[0]))
        amx("tileloadd64", 6, T.address_of(sums[0]), pitches[2])
        amx("tileloadd64", 3, T.address_of(a[0]), pitches[0])
        amx("tileloaddt164", 5, T.address_of(b[0]), pitches[1])
        amx(f"tdpb{request.param}", 6, 3, 5)
        amx("tilestored64", 6, T.address_of(sums[0]), pitches[2])
        amx("tilerelease")

    lengths = {name: symbol(f"{name}_length") for name in ("a", "b", "sums")}
    tensors = [Tensor("config", (64,), "uint8"), Tensor("pitches", (3,), "int64")]
    tensors += [Tensor(name, (length,), "uint8") for name, length in lengths.items()]
    return request.param, compiled(tensors, body)


def check_step(step: tuple[str, Callable[..., None]], a: np.ndarray, b: np.ndarray, sums: np.ndarray, gap: int) -> None:
    """One product, rows `gap` bytes apart in memory; nothing but the sums may change."""
    form, kernel = step
    a_type, b_type = FORMS[form]
    rows, row_bytes = [0] * 8, [0] * 8
    memories = []
    for tile, matrix in ((3, a), (5, b), (6, sums)):
        lines = matrix.view(np.uint8)
        rows[tile], row_bytes[tile] = lines.shape
        memory = np.full((len(lines) + 1, lines.shape[1] + gap), 101, np.uint8)
        memory[: len(lines), : lines.shape[1]] = lines
        memories.append(aligned(memory))
    pitches = np.array([memory.shape[1] for memory in memories])
    expected = [memory.copy() for memory in memories]
    new = tile_product(a.view(a_type), b.view(b_type), sums)
    expected[2][: len(sums), : row_bytes[6]] = np.ascontiguousarray(new).view(np.uint8)
    kernel(configuration(rows, row_bytes), aligned(pitches), *(memory.reshape(-1) for memory in memories))
    for memory, wanted in zip(memories, expected, strict=True):
        np.testing.assert_array_equal(memory, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 16), st.integers(0, 70), st.integers(0, 2**31))
def test_any_shape_and_stride(step, m, k, n, gap, seed):
    random = np.random.default_rng(seed)
    a, b = (random.integers(0, 256, shape, np.uint8) for shape in ((m, 4 * k), (k, 4 * n)))
    sums = random.integers(-(2**31), 2**31, (m, n), np.int32)
    check_step(step, a, b, sums, gap)


@pytest.mark.parametrize("start", [-(2**31), -1, 0, 2**31 - 1])
@pytest.mark.parametrize("right", [0, 127, 128, 255])
@pytest.mark.parametrize("left", [0, 127, 128, 255])
def test_extremes_wrap(step, left, right, start):
    a, b = np.full((16, 64), left, np.uint8), np.full((16, 64), right, np.uint8)
    check_step(step, a, b, np.full((16, 16), start, np.int32), 0)


def test_stride_is_signed_and_may_be_zero():
    """Rows from the last to the first, and one row in every row of the tile."""

    def body(config, x, reverse, repeat):
        amx("ldtilecfg", T.address_of(config[0]))
        amx("tileloadd64", 0, T.address_of(x[15, 0]), int64(-64))
        amx("tileloadd64", 7, T.address_of(x[3, 0]), int64(0))
        amx("tilestored64", 0, T.address_of(reverse[0, 0]), int64(64))
        amx("tilestored64", 7, T.address_of(repeat[0, 0]), int64(64))
        amx("tilerelease")

    tensors = [Tensor("config", (64,), "uint8"), *(Tensor(f"x{i}", (16, 64), "uint8") for i in range(3))]
    x, reverse, repeat = (aligned(np.zeros((16, 64), np.uint8)) for _ in range(3))
    x[:] = np.random.default_rng(1).integers(0, 256, x.shape)
    compiled(tensors, body)(configuration([16] * 8, [64] * 8), x, reverse, repeat)
    np.testing.assert_array_equal(reverse, x[::-1])
    np.testing.assert_array_equal(repeat, np.repeat(x[3:4], 16, 0))


def test_state_between_instructions(emulator):
    """LDTILECFG and TILEZERO clear, STTILECFG returns what was loaded, TILERELEASE forgets; each is counted once."""

    def body(config, x, y, stored):
        amx("ldtilecfg", T.address_of(config[0]))
        amx("tileloadd64", 1, T.address_of(x[0, 0]), int64(64))
        amx("tileloadd64", 2, T.address_of(x[0, 0]), int64(64))
        amx("tilezero", 1)
        amx("tilestored64", 1, T.address_of(y[0, 0, 0]), int64(64))
        amx("tilestored64", 2, T.address_of(y[1, 0, 0]), int64(64))
        amx("ldtilecfg", T.address_of(config[0]))
        amx("tilestored64", 2, T.address_of(y[2, 0, 0]), int64(64))
        amx("sttilecfg", T.address_of(stored[0, 0]))
        amx("tilerelease")
        amx("sttilecfg", T.address_of(stored[1, 0]))

    tensors = [Tensor("config", (64,), "uint8"), Tensor("x", (16, 64), "uint8")]
    kernel = compiled([*tensors, Tensor("y", (3, 16, 64), "uint8"), Tensor("stored", (2, 64), "uint8")], body)
    config = configuration([16] * 8, [64] * 8)
    x, y = aligned(np.full((16, 64), 7, np.uint8)), aligned(np.full((3, 16, 64), 9, np.uint8))
    stored = aligned(np.full((2, 64), 9, np.uint8))
    before = emulator.amx_emulated()
    kernel(config, x, y, stored)
    assert emulator.amx_emulated() - before == (0 if emulation.native() else 11)
    assert (y[0] == 0).all() and (y[1] == 7).all() and (y[2] == 0).all()
    np.testing.assert_array_equal(stored, [config, np.zeros_like(config)])


TASKS, STEPS = 24, 5


def blocks(config, a, b, bias, y):
    """Each task: 32 x 32 sums in four tiles over STEPS steps, then + bias from where the tiles were stored."""
    with T.parallel(0, TASKS) as task:
        sums = scratch((32, 32), "int32")
        amx("ldtilecfg", T.address_of(config[0]))
        for tile in range(4):
            amx("tilezero", tile)
        with T.serial(0, STEPS) as k:
            for half in range(2):
                amx("tileloadd64", 4 + half, T.address_of(a[task, 16 * half, k * 64]), int64(64 * STEPS))
                amx("tileloadd64", 6 + half, T.address_of(b[task, k, half, 0, 0]), int64(64))
            for tile in range(4):
                amx("tdpbusd", tile, 4 + tile // 2, 6 + tile % 2)
        for tile in range(4):
            amx("tilestored64", tile, T.address_of(sums[16 * (tile // 2), 16 * (tile % 2)]), int64(128))
        amx("tilerelease")
        with T.serial(0, 32) as row, T.serial(0, 2) as half:
            store(y, (task, row, half * 16), load(sums, (row, half * 16), 16) + load(bias, (half * 16,), 16))


def test_eight_tiles_in_many_threads():
    """TVM's threads and Python's, each with contents of its own."""
    random = np.random.default_rng(2)
    tensors = [
        Tensor("config", (64,), "uint8"),
        Tensor("a", (TASKS, 32, 64 * STEPS), "uint8"),
        Tensor("b", (TASKS, STEPS, 2, 16, 64), "int8"),
        Tensor("bias", (32,), "int32"),
        Tensor("y", (TASKS, 32, 32), "int32"),
    ]
    kernel = compiled(tensors, blocks)

    def call(seed: int) -> None:
        random = np.random.default_rng(seed)
        a = aligned(random.integers(0, 256, (TASKS, 32, 64 * STEPS), np.uint8))
        b = aligned(random.integers(-128, 128, (TASKS, STEPS, 2, 16, 64), np.int8))
        bias = aligned(random.integers(-(2**31), 2**31, 32, np.int32))
        y = aligned(np.zeros((TASKS, 32, 32), np.int32))
        for _ in range(5):
            y[:] = 0
            kernel(configuration([16] * 8, [64] * 8), a, b, bias, y)
            for task in range(TASKS):
                panels = [b[task, :, half].reshape(-1, 64) for half in range(2)]
                wanted = [tile_product(a[task], panel, bias[None, 16 * i :][:, :16]) for i, panel in enumerate(panels)]
                np.testing.assert_array_equal(y[task], np.hstack(wanted))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, random.integers(0, 2**31, 8)))
