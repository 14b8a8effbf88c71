/* AMX for a CPU that has none: its instructions trap as SIGILL, the handler does their work and goes on behind them.

   Loaded into a process (LD_PRELOAD or dlopen), it runs the real machine code of AMX-TILE and AMX-INT8 kernels:
   LDTILECFG, STTILECFG, TILELOADD, TILELOADDT1, TILESTORED, TILEZERO, TILERELEASE, TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD
   (Intel SDM, volume 2, and volume 1, chapter 18). A CPU with AMX never traps, so there `amx_emulated()` stays 0.

   It forgives nothing. What would raise #UD or #GP (no configuration, shapes that do not fit, reserved bits), and
   AMX in a process that never asked Linux for permission, goes to the handler that was there before; by default the
   process dies of SIGILL. Also refused, though legal: the segments FS and GS, and a configuration whose start_row is
   not 0 (the rest of an interrupted load), which only an operating system writes.

   Permission is asked with `syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18)`. The `syscall` here answers for a kernel
   that has no AMX to give, and refuses with EINVAL while INTVIT_AMX_REFUSED is set; every other call goes through. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, COLUMNS = ROW_BYTES / 4 };
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* ---- Tiles of a thread. LDTILECFG clears them, so what lies behind `rows` and `row_bytes` is always zero ---- */

typedef struct { /* the operand of LDTILECFG */
    uint8_t palette, start_row, reserved_2[14];
    uint16_t row_bytes[TILES], reserved_32[8];
    uint8_t rows[TILES], reserved_56[8];
} Configuration;

_Static_assert(sizeof(Configuration) == 64, "LDTILECFG reads 64 bytes");

static __thread Configuration configuration; /* all zero: nothing is configured */
static __thread uint8_t tiles[TILES][ROWS][ROW_BYTES] __attribute__((aligned(64)));

static bool usable(unsigned tile) {
    return tile < TILES && configuration.rows[tile] != 0 && configuration.row_bytes[tile] % 4 == 0;
}

static void release(void) {
    memset(&configuration, 0, sizeof configuration);
    memset(tiles, 0, sizeof tiles);
}

static bool configure(const void *memory) {
    Configuration wanted;
    memcpy(&wanted, memory, sizeof wanted);
    if (wanted.palette == 0) return release(), true;
    if (wanted.palette != 1 || wanted.start_row != 0) return false;
    for (int i = 0; i < 14; i++)
        if (wanted.reserved_2[i]) return false;
    for (int t = 0; t < TILES; t++) {
        if (wanted.reserved_32[t] || wanted.reserved_56[t]) return false;
        if (wanted.rows[t] > ROWS || wanted.row_bytes[t] > ROW_BYTES) return false;
        if (!wanted.rows[t] != !wanted.row_bytes[t]) return false;
    }
    release();
    configuration = wanted;
    return true;
}

static bool load(unsigned tile, const uint8_t *memory, int64_t stride) {
    if (!usable(tile)) return false;
    for (int r = 0; r < configuration.rows[tile]; r++)
        memcpy(tiles[tile][r], memory + r * stride, configuration.row_bytes[tile]);
    return true;
}

static bool store(unsigned tile, uint8_t *memory, int64_t stride) {
    if (!usable(tile)) return false;
    for (int r = 0; r < configuration.rows[tile]; r++)
        memcpy(memory + r * stride, tiles[tile][r], configuration.row_bytes[tile]);
    return true;
}

static bool zero(unsigned tile) {
    if (!usable(tile)) return false;
    memset(tiles[tile], 0, sizeof tiles[tile]);
    return true;
}

/* sums int32 [M, N] += a 8-bit [M, 4 K] . b 8-bit [K, 4 N], where b[k, 4 n + i] meets a[m, 4 k + i]; modulo 2^32. */
static bool multiply(unsigned sums, unsigned a, unsigned b, bool a_signed, bool b_signed) {
    if (!usable(sums) || !usable(a) || !usable(b) || sums == a || a == b || sums == b) return false;
    const int m_end = configuration.rows[a], k_end = configuration.row_bytes[a]; /* k counts bytes of a row of a */
    if (configuration.rows[sums] != m_end || configuration.rows[b] * 4 != k_end) return false;
    if (configuration.row_bytes[sums] != configuration.row_bytes[b]) return false;

    uint32_t wide[ROW_BYTES][COLUMNS]; /* b, a row for each byte of a row of a */
    for (int k = 0; k < k_end; k++)
        for (int n = 0; n < COLUMNS; n++) {
            const uint8_t value = tiles[b][k / 4][4 * n + k % 4];
            wide[k][n] = b_signed ? (uint32_t)(int8_t)value : value;
        }
    for (int m = 0; m < m_end; m++) {
        uint32_t row[COLUMNS];
        memcpy(row, tiles[sums][m], sizeof row);
        for (int k = 0; k < k_end; k++) {
            const uint32_t value = a_signed ? (uint32_t)(int8_t)tiles[a][m][k] : tiles[a][m][k];
            for (int n = 0; n < COLUMNS; n++) row[n] += value * wide[k][n];
        }
        memcpy(tiles[sums][m], row, sizeof row);
    }
    return true;
}

/* ---- Instructions: C4 | R X B map | W vvvv L pp | opcode | ModRM | SIB | displacement ---- */

enum { NONE, P66, PF3, PF2 }; /* pp */

typedef struct {
    uint8_t opcode, prefix;   /* prefix: NONE ... PF2 */
    bool in_memory, has_sib;  /* ModRM's operand is memory; its address has a SIB byte */
    unsigned reg, rm, vvvv;   /* register numbers 0..15; rm where the operand is no memory */
    uint8_t *address;         /* of the operand, without the SIB's index */
    int64_t index;            /* index << scale, 0 without an index register */
    const uint8_t *next;      /* the instruction behind */
} Instruction;

static const int REGISTER[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* False for all but VEX.128.0F38.W0 with an opcode of AMX; reads no byte behind what it has recognized. */
static bool decode(const greg_t *registers, Instruction *out) {
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return false;
    if (code[3] != 0x49 && code[3] != 0x4B && code[3] != 0x5E) return false;
    const unsigned r = !(code[1] & 0x80) * 8u, x = !(code[1] & 0x40) * 8u, b = !(code[1] & 0x20) * 8u;
    const unsigned modrm = code[4], mod = modrm >> 6, rm = modrm & 7;
    *out = (Instruction){.opcode = code[3], .prefix = code[2] & 3, .vvvv = ~code[2] >> 3 & 15,
                         .reg = (modrm >> 3 & 7) + r, .rm = rm + b,
                         .in_memory = mod != 3, .has_sib = mod != 3 && rm == 4, .next = code + 5};
    if (!out->in_memory) return true;

    unsigned base = rm;
    if (out->has_sib) {
        const unsigned sib = *out->next++, index = (sib >> 3 & 7) + x;
        base = sib & 7;
        if (index != 4) out->index = (int64_t)((uint64_t)registers[REGISTER[index]] << (sib >> 6));
    }
    int8_t near = 0;
    int32_t far = 0;
    const bool no_base = mod == 0 && base == 5;
    if (mod == 1) memcpy(&near, out->next, 1), out->next += 1;
    if (mod == 2 || no_base) memcpy(&far, out->next, 4), out->next += 4;
    int64_t start = registers[REGISTER[base + b]];
    if (no_base) start = out->has_sib ? 0 : (int64_t)out->next; /* without SIB: relative to the next instruction */
    out->address = (uint8_t *)(start + near + far);
    return true;
}

/* False for what is no valid instruction, or has operands that the CPU would refuse. */
static bool execute(const Instruction *i) {
    if (i->opcode == 0x5E) { /* TDPBUUD, TDPBUSD, TDPBSUD, TDPBSSD: sums, left, right */
        const bool a_signed = i->prefix == PF3 || i->prefix == PF2, b_signed = i->prefix == P66 || i->prefix == PF2;
        return !i->in_memory && multiply(i->reg, i->rm, i->vvvv, a_signed, b_signed);
    }
    if (i->vvvv) return false;
    if (i->opcode == 0x4B) {
        if (!i->has_sib || i->prefix == NONE) return false;
        if (i->prefix == PF3) return store(i->reg, i->address, i->index); /* TILESTORED */
        return load(i->reg, i->address, i->index);                        /* TILELOADD, TILELOADDT1 */
    }
    if (i->prefix == PF2) return !i->in_memory && i->rm == 0 && zero(i->reg); /* TILEZERO */
    if (i->reg || i->prefix == PF3) return false;
    if (!i->in_memory) return i->prefix == NONE && i->rm == 0 && (release(), true); /* TILERELEASE */
    if (i->prefix == NONE) return configure(i->address + i->index);                 /* LDTILECFG */
    memcpy(i->address + i->index, &configuration, sizeof configuration);            /* STTILECFG */
    return true;
}

/* ---- The process: permission, the signal, the count ---- */

static atomic_bool permitted;
static atomic_ulong emulated;
static struct sigaction previous;

/* How many AMX instructions this process has run here. */
unsigned long amx_emulated(void) { return atomic_load(&emulated); }

long syscall(long number, ...) {
    static long (*_Atomic linux_call)(long, ...);
    if (!linux_call) linux_call = __extension__(long (*)(long, ...)) dlsym(RTLD_NEXT, "syscall");
    long x[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) x[i] = va_arg(arguments, long);
    va_end(arguments);
    const bool request = number == SYS_arch_prctl && x[0] == ARCH_REQ_XCOMP_PERM && x[1] == XFEATURE_XTILEDATA;
    if (request && getenv("INTVIT_AMX_REFUSED")) return errno = EINVAL, -1;
    const int error = errno;
    const long result = linux_call(number, x[0], x[1], x[2], x[3], x[4], x[5]); /* a CPU with AMX needs the real one */
    if (!request) return result;
    errno = error;
    atomic_store(&permitted, true);
    return 0;
}

static void hand_on(int signal_number, siginfo_t *info, void *context) {
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(signal_number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signal_number);
    } else {
        signal(SIGILL, SIG_DFL);
        raise(SIGILL);
    }
}

/* Goes on with the instructions behind while they are AMX too: one signal costs as much as several products. */
static void on_illegal_instruction(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const bool by_cpu = info->si_code > 0; /* not by kill() */
    unsigned long count = 0;
    Instruction instruction;
    for (; by_cpu && permitted && decode(registers, &instruction) && execute(&instruction); count++)
        registers[REG_RIP] = (greg_t)instruction.next;
    atomic_fetch_add_explicit(&emulated, count, memory_order_relaxed);
    if (!count) hand_on(signal_number, info, context);
}

/* SA_NODEFER: what the previous handler raises arrives at once, and so ends the process inside the handler. */
__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    sigaction(SIGILL, &action, &previous);
}
