// Fibers: a CUDA thread on a stack of its own, switched by saving what the host's calling convention preserves.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" __attribute__((visibility("hidden"))) void simt_switch(
    void **save, void *to);  // go on at `to`; where this fiber stopped goes to `*save`

#if defined(__x86_64__)
// System V AMD64 ABI, 3.2.1: rbx, rbp, r12 to r15 belong to the caller
asm(R"(
    .text
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, .-simt_switch
)");
constexpr int SAVED_WORDS = 8, RESUME_AT = 6;  // the return address, and a word that aligns the stack for a function
#elif defined(__aarch64__)
// AAPCS64, 6.1: x19 to x30 and the low halves of v8 to v15 belong to the caller
asm(R"(
    .text
    .type simt_switch, %function
simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size simt_switch, .-simt_switch
)");
constexpr int SAVED_WORDS = 20, RESUME_AT = 11;
#else
#error "fibers are written for x86-64 and AArch64"
#endif

namespace simt {

// Stacks with a page without access below each. Tops are staggered: lanes in step would share cache sets otherwise.
class Stacks {
    static constexpr size_t BYTES = 128 << 10, PAGE = 4096, STAGGER = 832, STAGGERED = 32;
    uint8_t *memory = nullptr;
    int count = 0;

   public:
    void reserve(int wanted) {
        if (wanted <= count) return;
        release();
        count = wanted;
        void *got =
            mmap(nullptr, count * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) abort();
        memory = static_cast<uint8_t *>(got);
        for (int i = 0; i < count; i++) mprotect(memory + i * BYTES, PAGE, PROT_NONE);
    }

    // A process may have 65530 mappings: libraries that wait for their next launch must not hold 256 each.
    void release() {
        if (memory) munmap(memory, count * BYTES);
        memory = nullptr;
        count = 0;
    }

    // Whether `address` lies in the page below a stack.
    bool overflown(const void *address) const {
        auto at = static_cast<const uint8_t *>(address);
        return memory && at >= memory && at < memory + count * BYTES && size_t(at - memory) % BYTES < PAGE;
    }

    // A stack pointer for `simt_switch` that begins `body`, which must not return.
    void *begin(int index, void (*body)()) const {
        uint8_t *top = memory + (index + 1) * BYTES - size_t(index) % STAGGERED * STAGGER;
        auto words = reinterpret_cast<void **>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63)) - SAVED_WORDS;
        for (int i = 0; i < SAVED_WORDS; i++) words[i] = nullptr;
        words[RESUME_AT] = reinterpret_cast<void *>(body);
        return words;
    }
};

}  // namespace simt
