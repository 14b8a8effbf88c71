/* The part of a compiled module that is not kernels: its constants, and the choice among its variants.

   model.h is written beside this file when a model is compiled:
     INTVIT_VARIANTS(V)        V(name, "name") for each variant, the best first; its code is intvit_run_<name>
     INTVIT_OUTPUT_PARAMETERS  void *output_0, ...
     INTVIT_OUTPUT_NAMES       output_0, ...
     INTVIT_OUTPUT_ELEMENTS    outputs[0], ...
     INTVIT_IMAGE_BYTES        of one image; INTVIT_OUTPUT_BYTES of each of its outputs, ...
     INTVIT_WORKSPACE, INTVIT_HEADER, INTVIT_STEPS, INTVIT_OUTPUTS */
#include "intvit.h"
#include "model.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>


/* Constants lie in the file and are never copied: all processes that load it share them. */
#define INCLUDE(symbol, file)                                                                                     \
    __asm__(".pushsection .rodata\n.balign 64\n.hidden " symbol "\n.global " symbol "\n" symbol ":\n.incbin \"" file \
            "\"\n.byte 0\n.popsection\n")
INCLUDE("intvit_constants", "constants.bin");
INCLUDE("intvit_metadata_text", "metadata.json");
extern const uint8_t intvit_constants[] __attribute__((visibility("hidden")));
extern const char intvit_metadata_text[] __attribute__((visibility("hidden")));

typedef int32_t (*Run)(const uint8_t *image, const uint8_t *constants, uint8_t *workspace, int64_t batch, int32_t first,
                       int32_t last, int32_t share, INTVIT_OUTPUT_PARAMETERS);

/* What the processor has. A module asks for its own variants only. */

#define SOMETIMES __attribute__((unused))

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 };
enum { MOVBE = 1 << 22, F16C = 1 << 29, LZCNT = 1 << 5 };

/* Of the instructions of x86-64-v3 those that older compilers have no name for. */
static int has_rest_of_v3(void) {
    unsigned a, b, c = 0, d, e = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && __get_cpuid(0x80000001, &a, &b, &e, &d) && (c & MOVBE) && (c & F16C) &&
           (e & LZCNT);
}

static unsigned amx_features(void) {
    unsigned a, b, c, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? d & (AMX_TILE | AMX_INT8) : 0;
}

SOMETIMES static int has_x86_64_v1(void) { return 1; }

SOMETIMES static int has_x86_64_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("fma") && has_rest_of_v3();
}

SOMETIMES static int has_x86_64_v4(void) {
    return has_x86_64_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

SOMETIMES static int has_x86_64_v4_vnni(void) { return has_x86_64_v4() && __builtin_cpu_supports("avx512vnni"); }

/* Linux hands out the tile registers on request, to the whole process; it refuses where the processor has none. */
SOMETIMES static int has_x86_64_v4_amx(void) {
    return has_x86_64_v4_vnni() && amx_features() != AMX_TILE &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static int amx_is_refused(void) {
    return amx_features() == (AMX_TILE | AMX_INT8) && has_x86_64_v4_vnni() && !has_x86_64_v4_amx();
}

#else
static int amx_is_refused(void) { return 0; }

#if defined(__aarch64__)
#include <sys/auxv.h>
enum { HAS_ASIMDDP = 1 << 20 };
SOMETIMES static int has_aarch64(void) { return 1; }
SOMETIMES static int has_aarch64_dotprod(void) { return (getauxval(AT_HWCAP) & HAS_ASIMDDP) != 0; }
#elif defined(__riscv)
SOMETIMES static int has_riscv64(void) { return 1; }
#endif
#endif

SOMETIMES static int has_generic(void) { return 1; }

/* The variants */

#define DECLARE(name, text)                                                                                        \
    int32_t intvit_run_##name(const uint8_t *, const uint8_t *, uint8_t *, int64_t, int32_t, int32_t, int32_t,     \
                              INTVIT_OUTPUT_PARAMETERS) __attribute__((visibility("hidden")));
INTVIT_VARIANTS(DECLARE)

#define ENTRY(name, text) {text, has_##name, intvit_run_##name},
static const struct {
    const char *name;
    int (*runs_here)(void);
    Run run;
} variants[] = {INTVIT_VARIANTS(ENTRY)};

#define LISTED(name, text) " or " text
static const char all_variants[] = INTVIT_VARIANTS(LISTED);
static const char *target = all_variants + sizeof(" or ") - 1;
static Run selected;

/* Sharing tasks: the threads of a run go through all steps; these functions are what the kernels' code calls.

   The tasks of a step, mostly blocks of rows in their order, lie in SHARES ranges. A thread begins at a range of its own
   (of several threads where there are more than ranges), the same in every step, so that it mostly reads what it has
   written itself; then it takes what the others have left. */

enum { SPINS = 1 << 10, SHARES = 8, COUNTS = 64 };

struct counts {
    _Atomic int32_t taken[SHARES];
    atomic_int_fast64_t done; /* in all steps of a phase, of which this is the first */
    atomic_int failed;
};
_Static_assert(sizeof(struct counts) <= COUNTS && INTVIT_HEADER % COUNTS == 0, "counts have a cache line");

/* The next task of a step for a thread whose ranges begin with `share`; `all`, when none is left. */
int64_t intvit_take(struct counts *counts, int32_t share, int64_t all) {
    for (int32_t i = 0; i < SHARES; ++i) {
        int32_t range = (share + i) % SHARES;
        int64_t begin = range * all / SHARES, size = (range + 1) * all / SHARES - begin;
        if (atomic_load_explicit(&counts->taken[range], memory_order_relaxed) >= size) continue;
        int64_t task = atomic_fetch_add_explicit(&counts->taken[range], 1, memory_order_relaxed);
        if (task < size) return begin + task;
    }
    return all;
}

/* Tells that this thread has done some of the tasks of a phase, and waits until all are done. */
int32_t intvit_meet(struct counts *counts, int64_t mine, int64_t all) {
    int64_t done = atomic_fetch_add_explicit(&counts->done, mine, memory_order_acq_rel) + mine;
    for (int spins = 0; done < all; ++spins) {
        if (spins > SPINS) sched_yield(); /* who is late may have lost its core to somebody else */
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#elif defined(__aarch64__)
        else __asm__ volatile("yield");
#endif
        done = atomic_load_explicit(&counts->done, memory_order_acquire);
    }
    return 0;
}

int32_t intvit_fail(struct counts *counts) {
    atomic_store_explicit(&counts->failed, 1, memory_order_relaxed);
    return 0;
}

/* TVM's code calls its runtime through these pointers, which TVM's loader sets, and nobody else. */
__attribute__((weak)) void *__TVMBackendAllocWorkspace, *__TVMBackendFreeWorkspace;
void *TVMBackendAllocWorkspace(int, int, uint64_t, int, int);
int TVMBackendFreeWorkspace(int, int, void *);
struct group { /* TVMParallelGroupEnv */
    void *barrier;
    int32_t threads;
};
int TVMBackendParallelLaunch(int (*)(int, struct group *, void *), void *, int);

/* TVM's threads are not in a child of a process that ran it, and its launch would wait for them. */
static int launched, forked;
static void after_fork(void) { forked = launched; }

__attribute__((constructor)) static void prepare(void) {
    pthread_atfork(NULL, NULL, after_fork);
    __TVMBackendAllocWorkspace = (void *)TVMBackendAllocWorkspace;
    __TVMBackendFreeWorkspace = (void *)TVMBackendFreeWorkspace;
    for (unsigned i = 0; i < sizeof variants / sizeof *variants && !selected; ++i) {
        if (variants[i].runs_here()) {
            selected = variants[i].run;
            target = variants[i].name;
        }
    }
}

/* Running */

struct call {
    const uint8_t *image;
    uint8_t *workspace;
    int64_t batch;
    int32_t first, last;
    void *const *outputs;
};

static int take_part(int thread, struct group *group, void *arguments) {
    const struct call *call = arguments;
    void *const *outputs = call->outputs;
    selected(call->image, intvit_constants, call->workspace, call->batch, call->first, call->last,
             thread * SHARES / group->threads, INTVIT_OUTPUT_ELEMENTS);
    return 0;
}

static int is_aligned(const void *pointer) { return ((uintptr_t)pointer & (COUNTS - 1)) == 0; }

static int32_t run(const struct call *call, int alone) {
    if (!selected) return INTVIT_NOT_READY;
    int aligned = is_aligned(call->image) && is_aligned(call->workspace);
    for (unsigned i = 0; i < INTVIT_OUTPUTS; ++i) aligned = aligned && is_aligned(call->outputs[i]);
    if (!aligned) return INTVIT_NOT_ALIGNED;
    memset(call->workspace, 0, INTVIT_HEADER);
    launched = launched || !alone;
    void *arguments = (void *)call;
    int failed = alone ? take_part(0, &(struct group){NULL, 1}, arguments)
                       : TVMBackendParallelLaunch(take_part, arguments, 0);
    for (int32_t i = 0; i < INTVIT_HEADER / COUNTS; ++i) {
        failed |= atomic_load(&((struct counts *)(call->workspace + i * COUNTS))->failed);
    }
    return failed ? INTVIT_OUT_OF_MEMORY : INTVIT_DONE;
}

/* For TVM's packed functions. */
int32_t intvit_run_steps(const uint8_t *image, void *workspace, int64_t batch, int32_t first, int32_t last,
                         INTVIT_OUTPUT_PARAMETERS) {
    void *const outputs[] = {INTVIT_OUTPUT_NAMES};
    return run(&(struct call){image, workspace, batch, first, last, outputs}, forked);
}

int32_t intvit_run(const uint8_t *images, int64_t batch, void *const *outputs, void *workspace) {
    return run(&(struct call){images, workspace, batch, 0, INTVIT_STEPS, outputs}, 0);
}

int64_t intvit_image_bytes(void) { return INTVIT_IMAGE_BYTES; }

int64_t intvit_output_bytes(int32_t index) {
    static const int64_t bytes[] = {INTVIT_OUTPUT_BYTES};
    return index >= 0 && index < (int32_t)(sizeof bytes / sizeof *bytes) ? bytes[index] : 0;
}

int64_t intvit_workspace_bytes(int64_t batch) { return INTVIT_HEADER + batch * INTVIT_WORKSPACE; }

const char *intvit_metadata(void) { return intvit_metadata_text; }

const char *intvit_target(void) { return target; }

int32_t intvit_ready(void) {
    if (selected) return INTVIT_READY;
    return strstr(all_variants, "-amx") && amx_is_refused() ? INTVIT_AMX_REFUSED : INTVIT_CPU_LACKS_INSTRUCTIONS;
}
