"""The emulator against numpy, and that it sees what it is there to see: races, waits and barriers that are missing."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from emulation.simt import Kernels, SimtError, UnknownInstruction, translate

WARP = 32
HELPERS = r"""
__forceinline__ __device__ void mma_tall(uint32_t& d0, uint32_t& d1, uint32_t& d2, uint32_t& d3,
    uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.@A.@B.s32 "
    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
    : "+r"(d0), "+r"(d1), "+r"(d2), "+r"(d3) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__forceinline__ __device__ void mma_flat(int32_t& d0, int32_t& d1, uint32_t a, uint32_t b) {
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.@A.@B.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
    : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));
}
__forceinline__ __device__ void load_4(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
    : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3) : "r"(p) : "memory");
}
__forceinline__ __device__ void load_2(uint32_t& r0, uint32_t& r1, uint32_t p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r0), "=r"(r1) : "r"(p) : "memory");
}
__forceinline__ __device__ void load_transposed(uint32_t& r0, uint32_t p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r0) : "r"(p) : "memory");
}
__forceinline__ __device__ void copy_16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :  : "r"(to), "l"(from), "r"(bytes) : "memory");
}
__forceinline__ __device__ void copy_4(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :  : "r"(to), "l"(from) : "memory");
}
__forceinline__ __device__ void commit() {
  asm volatile("cp.async.commit_group;" :  : );
}
__forceinline__ __device__ void wait_1() {
  asm volatile("cp.async.wait_group 1;" :  :  : "memory");
}
__forceinline__ __device__ void wait_0() {
  asm volatile("cp.async.wait_group 0;" :  :  : "memory");
}
__forceinline__ __device__ void pick(int32_t& d, int32_t a, int32_t b, uint32_t c) {
  asm volatile("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
}
__forceinline__ __device__ void dot(int32_t& d, int32_t a, uint32_t b, int32_t c) {
  asm volatile("dp4a.s32.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
}
__forceinline__ __device__ void barrier() {
    __syncthreads();
}
__forceinline__ __device__ unsigned int address(void* p) {
    return __cvta_generic_to_shared(p);
}
"""


@functools.cache
def kernels(parameters: str, body: str, types: str = "s8 s8", threads: int = 128) -> Kernels:
    """The kernel `k` with the helpers above, for `mma` of the given types, in the form that TVM writes."""
    a, b = types.split()
    header = f'extern "C" __global__ void __launch_bounds__({threads}) k({parameters})'
    text = HELPERS.replace("@A", a).replace("@B", b) + f"{header};\n{header} {{\n  {body}\n}}\n"
    return Kernels("#include <cuda.h>\n" + text)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbers(kind: str, *shape: int) -> np.ndarray:
    dtype = {"s8": np.int8, "u8": np.uint8}[kind]
    return rng(3).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("types", ["s8 s8", "u8 s8", "s8 u8", "u8 u8"])
def test_tall_product(types: str) -> None:
    """Fragments through ldmatrix: rows of A as 8x16-byte tiles, columns of B as rows of its transpose."""
    body = """extern __shared__ __align__(64) uchar m[];
  __shared__ alignas(64) signed char t[256];
  int lane = (int)threadIdx.x;
  *(int4*)(m + lane * 16) = *(int4*)(a + lane * 16);
  if (lane < 16) { *(int4*)(t + lane * 16) = *(int4*)(b + lane * 16); }
  barrier();
  alignas(64) uint f[4]; alignas(64) uint g[2]; alignas(64) uint d[4];
  for (int i = 0; i < 4; ++i) { d[i] = (uint)c[((lane / 4) + (i / 2) * 8) * 8 + (lane % 4) * 2 + i % 2]; }
  load_4(f[0], f[1], f[2], f[3], address((&(m[(lane % 16) * 32 + lane / 16 * 16]))));
  load_2(g[0], g[1], address((&(t[(lane % 8) * 32 + lane / 8 % 2 * 16]))));
  mma_tall(d[0], d[1], d[2], d[3], f[0], f[1], f[2], f[3], g[0], g[1]);
  for (int i = 0; i < 4; ++i) { c[((lane / 4) + (i / 2) * 8) * 8 + (lane % 4) * 2 + i % 2] = (int)d[i]; }"""
    one, other = types.split()
    a, b = numbers(one, 16, 32), numbers(other, 8, 32)
    c = rng(1).integers(-(1 << 31), (1 << 31) - 1, (16, 8), np.int32, endpoint=True)
    exact = c.astype(np.int64) + a.astype(np.int64) @ b.T.astype(np.int64)
    kernel = kernels("signed char* __restrict__ a, signed char* __restrict__ b, int* __restrict__ c", body, types, 32)
    kernel.launch("k", 1, WARP, 512, a, b, c)
    np.testing.assert_array_equal(c, exact.astype(np.int32))  # sums wrap


@pytest.mark.parametrize("types", ["s8 s8", "u8 s8"])
def test_flat_product(types: str) -> None:
    body = """int lane = (int)threadIdx.x; int d[2]; d[0] = 0; d[1] = 0;
  mma_flat(d[0], d[1], *(uint*)(a + lane * 4), *(uint*)(b + lane * 4));
  *(int2*)(c + lane * 2) = make_int2(d[0], d[1]);"""
    one, other = types.split()
    a, b, c = numbers(one, 8, 16), numbers(other, 8, 16), np.zeros((8, 8), np.int32)
    kernels("signed char* a, signed char* b, int* c", body, types, 32).launch("k", 1, WARP, 0, a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.T.astype(np.int32))


def test_transposed_load() -> None:
    body = """__shared__ short m[64]; uint r[1];
  *(int*)(m + threadIdx.x * 2) = *(int*)(x + threadIdx.x * 2);
  __syncwarp();
  load_transposed(r[0], address((&(m[threadIdx.x % 8 * 8]))));
  *(uint*)(y + threadIdx.x * 2) = r[0];"""
    x = rng().integers(-32768, 32767, (8, 8), np.int16)
    y = np.zeros_like(x)
    kernels("short* x, short* y", body, threads=32).launch("k", 1, WARP, 0, x, y)
    np.testing.assert_array_equal(y, x.T)


COPY = """extern __shared__ uchar m[]; int t = (int)threadIdx.x;
  copy_16(address((&(m[t * 16]))), (&(x[t * 16])), ((t < n) ? (uint)16 : (uint)3));
  commit();
  copy_4(address((&(m[2048 + t * 4]))), (&(x[t * 4])));
  commit();
  @wait
  for (int i = 0; i < 16; ++i) { y[t * 16 + i] = (signed char)m[(@read) * 16 + i]; }"""


def copied(wait: str, read: str, seed: int) -> np.ndarray:
    kernel = kernels("signed char* x, signed char* y, int n", COPY.replace("@wait", wait).replace("@read", read))
    x, y = numbers("s8", 2048), np.zeros(2048, np.int8)
    kernel.launch("k", 1, 128, 2048 + 512, x, y, 100, seed=seed)
    return y.reshape(128, 16)


def test_asynchronous_copies() -> None:
    x = numbers("s8", 2048).reshape(128, 16)
    expected = x.copy()
    expected[100:, 3:] = 0
    for seed in range(4):
        np.testing.assert_array_equal(copied("wait_1();", "t", seed), expected)
        np.testing.assert_array_equal(copied("wait_1(); barrier();", "127 - t", seed), expected[::-1])
        assert (copied("", "t", seed) != expected).any(1).all(), "no wait"
    missing = [copied("wait_1();", "127 - t", seed) for seed in range(4)]
    assert any((y != expected[::-1]).any() for y in missing), "no barrier"


def test_second_group_is_still_on_its_way() -> None:
    read = "128 + t / 4"
    x = numbers("s8", 2048)[:512].reshape(32, 16)
    assert (copied("wait_1(); barrier();", read, 0)[::4] != x).any(1).all()
    np.testing.assert_array_equal(copied("wait_0(); barrier();", read, 0)[::4], x)


@pytest.mark.parametrize("synchronized", [True, False])
def test_race(synchronized: bool) -> None:
    """Warps that exchange values through shared memory, again and again, with one barrier of two or with both."""
    body = """__shared__ int m[128]; int v = x[threadIdx.x];
  for (int i = 0; i < 4; ++i) { m[threadIdx.x] = v; barrier(); v = m[127 - threadIdx.x] + 1; @second }
  x[threadIdx.x] = v;"""
    kernel = kernels("int* x", body.replace("@second", "barrier();" if synchronized else ""))
    right = []
    for seed in range(8):
        x = np.arange(128, dtype=np.int32)
        kernel.launch("k", 1, 128, 0, x, seed=seed)
        right.append(np.array_equal(x, np.arange(128) + 4))
    assert all(right) if synchronized else not all(right)


def test_race_within_a_warp() -> None:
    body = "__shared__ int m[32]; m[threadIdx.x] = 5; @sync x[threadIdx.x] = m[(threadIdx.x + 1) % 32];"
    for sync, expected in (("__syncwarp();", True), ("", False)):
        x = np.zeros(32, np.int32)
        kernels("int* x", body.replace("@sync", sync)).launch("k", 1, 32, 0, x)
        assert (x == 5).all() == expected


def test_shuffles_and_bytes() -> None:
    body = """int t = (int)threadIdx.x; int r;
  y[t] = __shfl_xor_sync((uint)4294967295, t, 5) * 10000 + __shfl_sync(0xffffffff, t * 3, 7) * 100;
  y[t] = y[t] + __shfl_down_sync(0xffffffff, t, 8, 16);
  pick(r, 0x83828180, 0x07060504, (uint)0xC740); y[32 + t] = r;
  dot(r, (int)0x80FF7F01, (uint)0xFF02FF03, t); y[64 + t] = r;
  y[96 + t] = __mulhi(-(1 << 30), t) + __clz(t);"""
    y = np.zeros((4, 32), np.int32)
    kernels("int* y", body, threads=32).launch("k", 2, 32, 0, y)
    t = np.arange(32)
    down = np.where(t % 16 + 8 < 16, t + 8, t)
    np.testing.assert_array_equal(y[0], (t ^ 5) * 10000 + 2100 + down)
    # nibbles of 0xC740 from the lowest: bytes 0, 4, 7 of the eight, then the sign of byte 4
    assert set(y[1]) == {0x00070480}
    assert (y[2] == -128 * 255 + -1 * 2 + 127 * 255 + 1 * 3 + t).all()
    np.testing.assert_array_equal(y[3], (-(1 << 30) * t >> 32) + [32 - int(i).bit_length() for i in t])


FAULTS = {
    "read behind": ("x[0] = x[threadIdx.x + 5];", "access to"),
    "write before": ("x[-1 - (int)blockIdx.x] = 3;", "next to array 0"),
    "misaligned vector": ("*(int4*)(x + 4 * threadIdx.x) = *(int4*)(x + 4 * threadIdx.x + 1);", "not aligned"),
    "misaligned copy": (
        "extern __shared__ uchar m[]; copy_16(address((&(m[threadIdx.x * 16]))), (&(x[threadIdx.x])), 16);",
        "source .* is not aligned",
    ),
    "shared overrun": (
        "extern __shared__ uchar m[]; copy_16(address((&(m[threadIdx.x * 16 + 2048]))), (&(x[threadIdx.x * 4])), 16);",
        "16 bytes at",
    ),
    "misaligned load": (
        "extern __shared__ uchar m[]; uint r[2]; load_2(r[0], r[1], address((&(m[threadIdx.x * 8]))));",
        "not aligned to 16",
    ),
    "register array": ("int r[4]; r[x[3]] = 1; x[0] = r[0];", "outside the array"),
    "shift": ("x[0] = 1 << x[127];", "shift"),
    "division": ("x[0] = x[1] / (x[2] - x[2]);", "division by zero"),
    "half a barrier": ("if (threadIdx.x < 16) { barrier(); }", "lanes of warp 0 diverge"),
    "two barriers": ("if (threadIdx.x < 64) {\n barrier(); }\n else { barrier(); }", "different barriers"),
    "a warp's barrier": ("if (threadIdx.x < 64) { barrier(); }", "has left the kernel"),
    "divergent shuffle": ("if (threadIdx.x % 2) { x[0] = __shfl_xor_sync(0xffffffff, 1, 1); }", "diverge"),
    "mask": ("x[0] = __shfl_xor_sync(0xffff, 1, 1);", "leaves out lanes"),
    "address of the wrong kind": ("copy_4(address((&(x[0]))), x);", "not in shared memory"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    body, message = FAULTS[name]
    x = np.arange(128, dtype=np.int32) + 100
    with pytest.raises(SimtError, match=rf"(?s)kernel k.*{message}"):
        kernels("int* x", body).launch("k", 1, 128, 2048, x)
    x[:] = 7
    kernels("int* x", "x[threadIdx.x] += 1;").launch("k", 1, 128, 0, x)  # the process goes on
    assert (x == 8).all()


def test_fault_names_the_line() -> None:
    kernel = kernels("int* x", "int t = (int)threadIdx.x;\n  barrier();\n  x[0] = *(int*)((char*)x + 1 + t);")
    first = 1 + HELPERS.count("\n") + 3  # of the body: behind an include, the helpers, the declaration and the header
    with pytest.raises(SimtError, match=rf"line {first + 2}: column"):
        kernel.launch("k", 1, 64, 0, np.zeros(64, np.int32))


def test_read_only_array() -> None:
    x = np.zeros(32, np.int32)
    x.flags.writeable = False
    with pytest.raises(SimtError, match="array 0, which is read-only"):
        kernels("int* x", "x[threadIdx.x] = 1;").launch("k", 1, 32, 0, x)


def test_refused_launches() -> None:
    kernel = kernels("int* x", "x[0] = 1;")
    x = np.zeros(1, np.int32)
    for arguments, message in ((("other", 1, 32, 0, x), "no kernel"), (("k", 1, 129, 0, x), "launch bounds")):
        with pytest.raises(SimtError, match=message):
            kernel.launch(*arguments)
    with pytest.raises(SimtError, match="227 KiB"):
        kernel.launch("k", 1, 32, 228 << 10, x)
    with pytest.raises(SimtError, match="1 parameters, not 2"):
        kernel.launch("k", 1, 32, 0, x, 1)


@pytest.mark.parametrize(
    "instruction", ["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %0, %0, %0, %0;", "bar.sync 1;", "add.s32 %0;"]
)
def test_unknown_instruction(instruction: str) -> None:
    helper = f'__forceinline__ __device__ void f(int& a) {{\n  asm volatile("{instruction}" : "+r"(a) : );\n}}\n'
    with pytest.raises(UnknownInstruction, match="not emulated"):
        translate(helper + 'extern "C" __global__ void __launch_bounds__(32) k(int* x) {\n  f(x[0]);\n}\n')
