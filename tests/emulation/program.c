/* `program CASE`: AMX as a C compiler writes it, valid or not, for test_programs.py. Returns 0 where the case lives. */

#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint8_t config[64] = {1}, in[4096], out[1024];

static void shape(int tile, int rows, int row_bytes) {
    config[16 + 2 * tile] = row_bytes;
    config[48 + tile] = rows;
}
static void configure(void) {
    __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
static void ask(void) {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) exit(errno);
}
static void standard(void) {
    ask();
    for (int tile = 0; tile < 3; tile++) shape(tile, 16, 64);
    configure();
}

/* Rows 128 bytes apart from in + 256, whatever the parts of the address are. */
#define ADDRESSING(base, index, scale, displacement)                                                                   \
    memset(out, 0, sizeof out);                                                                                        \
    __asm__ volatile("mov %0, %%" base "\n mov %1, %%" index "\n"                                                      \
                     "tileloadd " #displacement "(%%" base ", %%" index ", " #scale "), %%tmm1\n"                      \
                     "mov %2, %%rax\n mov $64, %%ecx\n tilestored %%tmm1, (%%rax, %%rcx)"                              \
                     ::"r"(in + 256 - displacement), "i"(128 / scale), "g"((uint64_t)out)                              \
                     : "memory", "rax", "rcx", base, index);                                                           \
    for (int row = 0; row < 16; row++)                                                                                 \
        if (memcmp(out + 64 * row, in + 256 + 128 * row, 64)) return 100

static int addressing(void) {
    for (int i = 0; i < 4096; i++) in[i] = i % 251;
    ADDRESSING("rax", "rcx", 1, 0);
    ADDRESSING("rbx", "rdx", 2, 64);
    ADDRESSING("rsi", "rdi", 4, -128);
    ADDRESSING("r8", "r9", 8, 256);
    ADDRESSING("r10", "r11", 1, -4096);
    ADDRESSING("r12", "r13", 2, 0);
    ADDRESSING("r13", "r12", 4, 0);
    ADDRESSING("r14", "r15", 8, 1000000);
    memset(out, 0, sizeof out);
    __asm__ volatile("tileloadd (%0), %%tmm1\n tilestored %%tmm1, (%1, %2)"
                     ::"r"(in), "r"(out), "r"((uint64_t)64) : "memory"); /* no index: stride 0 */
    for (int row = 0; row < 16; row++)
        if (memcmp(out + 64 * row, in, 64)) return 101;
    uint8_t local[64];
    __asm__ volatile("sttilecfg %0" : "=m"(local));
    return memcmp(local, config, 64) ? 102 : 0;
}
/* An instruction that assemblers refuse to write. */
#define BYTES(map, vex, opcode, modrm) __asm__ volatile(".byte 0xc4, " #map ", " #vex ", " #opcode ", " #modrm)
#define IS(name) if (!strcmp(word, name))

/* The cases without `return` must die; test_programs.py reads their names here. */
int main(int count, char **words) {
    const char *word = words[count - 1];
    IS("unasked") { shape(0, 16, 64); configure(); }
    IS("unconfigured") { ask(); _tile_zero(0); }
    IS("no-instruction") { ask(); __builtin_trap(); }
    standard();
    IS("valid") { _tile_zero(0); _tile_dpbssd(0, 1, 2); _tile_release(); return 0; }
    IS("addressing") return addressing();
    IS("released") { _tile_release(); _tile_zero(0); }
    IS("unused-tile") _tile_zero(3);
    IS("unused-load") _tile_loadd(3, in, 64);
    IS("sums-are-left") BYTES(0xe2, 0x6b, 0x5e, 0xc0); /* tdpbssd %tmm2, %tmm0, %tmm0 */
    IS("sums-are-right") BYTES(0xe2, 0x7b, 0x5e, 0xc1); /* tdpbssd %tmm0, %tmm1, %tmm0 */
    IS("left-is-right") BYTES(0xe2, 0x73, 0x5e, 0xc1); /* tdpbssd %tmm1, %tmm1, %tmm0 */
    IS("unused-operand") _tile_dpbssd(0, 1, 3);
    IS("rows-differ") { shape(1, 15, 64); configure(); _tile_dpbssd(0, 1, 2); }
    IS("columns-differ") { shape(0, 16, 60); configure(); _tile_dpbssd(0, 1, 2); }
    IS("depths-differ") { shape(2, 15, 64); configure(); _tile_dpbssd(0, 1, 2); }
    IS("part-of-a-column") { shape(1, 16, 63); configure(); _tile_loadd(1, in, 64); }
    IS("17-rows") { shape(7, 17, 64); configure(); }
    IS("65-bytes") { shape(7, 16, 65); configure(); }
    IS("rows-without-bytes") { shape(7, 16, 0); configure(); }
    IS("bytes-without-rows") { shape(7, 0, 64); configure(); }
    IS("palette-2") { config[0] = 2; configure(); }
    IS("reserved-2") { config[2] = 1; configure(); }
    IS("reserved-47") { config[47] = 1; configure(); }
    IS("reserved-63") { config[63] = 1; configure(); }
    IS("word-of-64-bits") BYTES(0xe2, 0xeb, 0x5e, 0xc1); /* tdpbssd, but W = 1 */
    IS("vector-of-256-bits") BYTES(0xe2, 0x6f, 0x5e, 0xc1); /* tdpbssd, but L = 1 */
    IS("tile-8-sums") BYTES(0x62, 0x6b, 0x5e, 0xc1);
    IS("tile-8-left") BYTES(0xc2, 0x6b, 0x5e, 0xc1);
    IS("tile-10-right") BYTES(0xe2, 0x2b, 0x5e, 0xc1);
    IS("product-with-memory") BYTES(0xe2, 0x6b, 0x5e, 0x01);
    IS("zero-of-two") BYTES(0xe2, 0x73, 0x49, 0xc0); /* tilezero, but vvvv = 1 */
    IS("load-without-sib") BYTES(0xe2, 0x7b, 0x4b, 0x07); /* tileloadd (%rdi), %tmm0 */
    IS("bfloat16") BYTES(0xe2, 0x6a, 0x5c, 0xc1); /* tdpbf16ps %tmm2, %tmm1, %tmm0 */
    return 0;
}
