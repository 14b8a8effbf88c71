// CUDA C as the emulated kernels see it: the language's words, its vector types and built-in functions, and the
// instructions that TVM writes as inline assembly (`translate.py` turns each into a call of a function below).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "machine.h"

#define __global__
#define __device__
#define __forceinline__ static inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#undef __restrict__
#define __restrict__

using uchar = unsigned char;
using uint = unsigned int;
using ushort = unsigned short;

struct Index {
    uint x, y, z;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;
extern int simt_line;  // of the text, where the lane that runs last entered an instruction

// ---- Vector types: CUDA C++ Programming Guide, "Built-in Vector Types", with the alignments of its table ----

#define SIMT_VECTORS(type, name)                                                                \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                    \
    struct name##3 { type x, y, z; };                                                           \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                            \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                 \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
SIMT_VECTORS(signed char, char)
SIMT_VECTORS(unsigned char, uchar)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned int, uint)
SIMT_VECTORS(long long, longlong)
SIMT_VECTORS(unsigned long long, ulonglong)
#undef SIMT_VECTORS

// ---- Built-in functions: CUDA Math API, integer functions and integer intrinsics ----

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return T(a) < T(b) ? T(b) : T(a);
}
template <class T>
T __ldg(const T *p) {
    return *p;
}
inline int __clz(int x) { return x ? __builtin_clz(uint(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __popc(uint x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline uint __umulhi(uint a, uint b) { return uint((uint64_t(a) * b) >> 32); }
inline uint __funnelshift_r(uint low, uint high, uint s) { return uint(((uint64_t(high) << 32) | low) >> (s & 31)); }
inline uint __funnelshift_l(uint low, uint high, uint s) {
    return uint(((uint64_t(high) << 32 | low) << (s & 31)) >> 32);
}

namespace simt {

template <class T>
uint32_t in(T value) {
    static_assert(sizeof(T) <= 4, "a 32-bit register");
    return uint32_t(value);
}
template <class T>
uint32_t *out(T &value) {
    static_assert(sizeof(T) == 4, "a 32-bit register");
    return reinterpret_cast<uint32_t *>(&value);
}

// PTX ISA 9.7.9, "prmt": nibble i of `select` names byte i of the result among the 8 bytes {b, a}; its top bit asks for
// the sign of that byte, in all places.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t select) {
    uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t nibble = select >> (4 * i) & 15;
        uint32_t byte = uint32_t(bytes >> (8 * (nibble & 7))) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}

// PTX ISA 9.7.1, "dp4a": four products of bytes and an addend, modulo 2^32.
inline uint32_t dot4(bool signed_a, bool signed_b, uint32_t a, uint32_t b, uint32_t c) {
    for (int i = 0; i < 4; i++) {
        int x = signed_a ? int8_t(a >> (8 * i)) : uint8_t(a >> (8 * i));
        int y = signed_b ? int8_t(b >> (8 * i)) : uint8_t(b >> (8 * i));
        c += uint32_t(x * y);
    }
    return c;
}

// PTX ISA 9.7.15 (warp-level matrix instructions), 9.7.9 (data movement), 9.7.13 (barriers): instructions.cpp.
enum class Shape : uint32_t { m8n8k16, m16n8k16, m16n8k32 };
enum class Shuffle : uint32_t { up, down, bfly, idx };

void multiply(Shape shape, bool signed_a, bool signed_b, std::initializer_list<uint32_t *> d,
              std::initializer_list<uint32_t> abc);
void load_matrix(bool transposed, std::initializer_list<uint32_t *> d, uint32_t address);
uint32_t shuffle(Shuffle mode, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *valid = nullptr);
void copy_async(uint32_t to, const void *from, uint32_t bytes, uint32_t read);
void commit_group();
void wait_group(uint32_t pending);
void wait_all();
void sync_warp(uint32_t mask);
void sync_threads();
uint32_t active_mask();
uint32_t shared_address(const void *p);

// Declared `__shared__` memory lies at `offset`; the block's dynamic memory behind what the kernel declares.
inline uint8_t *shared_memory(uint32_t offset) { return machine.shared + offset; }

using Entry = void (*)(void **parameters);
struct Kernel {
    const char *name;
    Entry entry;
    int most_threads;          // __launch_bounds__
    uint32_t static_shared;    // bytes
    const size_t *parameters;  // their sizes
    int parameter_count;
};

}  // namespace simt

extern const simt::Kernel simt_kernels[];  // of the text, with a nameless one at the end
extern const int simt_arch;                // the compute capability it is made for, 0: any; < 0: as PTX, for newer too

inline uint __byte_perm(uint a, uint b, uint s) {
    if (s & 0x8888) simt::fail("__byte_perm: selector %#x is undefined", s);
    return simt::permute(a, b, s);
}
inline int __dp4a(int a, int b, int c) { return int(simt::dot4(true, true, uint(a), uint(b), uint(c))); }
inline uint __dp4a(uint a, uint b, uint c) { return simt::dot4(false, false, a, b, c); }
inline uint32_t __cvta_generic_to_shared(const void *p) { return simt::shared_address(p); }
inline void __syncthreads() { simt::sync_threads(); }
inline void __syncwarp(uint mask = 0xffffffffu) { simt::sync_warp(mask); }
inline uint __activemask() { return simt::active_mask(); }

// CUDA C++ Programming Guide, "Warp Shuffle Functions": groups of `width` lanes, as `c` of shfl.sync says it.
#define SIMT_SHUFFLE(function, mode, clamp)                                                                     \
    template <class T>                                                                                          \
    T function(uint mask, T value, uint by, int width = simt::WARP) {                                           \
        return T(simt::shuffle(simt::Shuffle::mode, simt::in(value), by, uint(32 - width) << 8 | clamp, mask)); \
    }
SIMT_SHUFFLE(__shfl_sync, idx, 0x1f)
SIMT_SHUFFLE(__shfl_xor_sync, bfly, 0x1f)
SIMT_SHUFFLE(__shfl_down_sync, down, 0x1f)
SIMT_SHUFFLE(__shfl_up_sync, up, 0)
#undef SIMT_SHUFFLE
