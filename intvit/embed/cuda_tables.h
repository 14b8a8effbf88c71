/* Part of cuda.c: the tables of a model, which compiling it writes as model.h, and the files that a module holds. */
#ifndef INTVIT_CUDA_TABLES_H
#define INTVIT_CUDA_TABLES_H

#include <stdint.h>

/* What lies in the file: `symbol` to `symbol`_end, and a zero behind it, which ends a text. */
#define INCLUDE(symbol, file)                                                                                      \
    __asm__(".pushsection .rodata\n.balign 64\n.hidden " symbol "\n.global " symbol "\n.hidden " symbol            \
            "_end\n.global " symbol "_end\n" symbol ":\n.incbin \"" file "\"\n" symbol "_end:\n.byte 0\n.popsection\n")
#define INCLUDED __attribute__((visibility("hidden")))
INCLUDE("intvit_constants", "constants.bin");
INCLUDE("intvit_metadata_text", "metadata.json");
extern const uint8_t intvit_constants[] INCLUDED;
extern const char intvit_metadata_text[] INCLUDED;

/* A launch has ceil(batch * units / per) * times blocks; a step's launches do the same work with different tiles, the
   largest first. Kernels take their step's arguments in order, and batch * units as int32. */
enum role { IMAGE, CONSTANT, WORKSPACE, OUTPUT };
struct kernel {
    const char *name;
    uint32_t threads, shared_bytes; /* dynamic shared memory */
};
struct argument {
    enum role role;
    int64_t offset; /* in bytes; of an output: which */
};
struct launch {
    int32_t kernel;
    int64_t per, times;
};
struct step { /* in order of phase: steps of one phase do not depend on one another, and all on the phase before */
    int32_t phase;
    int64_t units;
    int32_t first_launch, launches, first_argument, arguments;
};
struct image { /* for an architecture, such as 90: machine code, for it and later minor versions; PTX, for all later */
    const char *name;
    int32_t architecture, is_ptx;
    const uint8_t *begin, *end;
};
#include "model.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum { STEPS = COUNT(steps), KERNELS = COUNT(kernels), ARGUMENTS = COUNT(arguments) };

#endif
