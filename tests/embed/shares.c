/* How module.c hands out the tasks of a step: each once, to a thread its own ranges first. */
#define _GNU_SOURCE
#define INTVIT_VARIANTS(V) V(generic, "generic")
#define INTVIT_OUTPUT_PARAMETERS void *output_0
#define INTVIT_OUTPUT_NAMES output_0
#define INTVIT_OUTPUT_ELEMENTS outputs[0]
#define INTVIT_IMAGE_BYTES 3
#define INTVIT_OUTPUT_BYTES 4
#define INTVIT_WORKSPACE INT64_C(64)
#define INTVIT_HEADER 64
#define INTVIT_STEPS 1
#define INTVIT_OUTPUTS 1
#include "module.c"

#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(what) ((what) ? (void)0 : (printf("line %d: %s\n", __LINE__, #what), exit(1)))
enum { MOST_THREADS = 20, MOST_TASKS = 5000 };

int32_t intvit_run_generic(const uint8_t *image, const uint8_t *constants, uint8_t *workspace, int64_t batch,
                           int32_t first, int32_t last, int32_t share, void *output) {
    (void)image, (void)constants, (void)workspace, (void)batch, (void)first, (void)last, (void)share, (void)output;
    return 0;
}

static struct {
    _Alignas(COUNTS) struct counts counts;
    int threads;
    int64_t all;
    atomic_int seen[MOST_TASKS];
} step;

static void begin(int64_t all, int threads) {
    memset(&step, 0, sizeof step);
    step.all = all;
    step.threads = threads;
}

static void *work(void *index) {
    int32_t share = (int32_t)(intptr_t)index * SHARES / step.threads;
    int64_t task, mine = 0;
    while ((task = intvit_take(&step.counts, share, step.all)) < step.all) {
        REQUIRE(task >= 0);
        atomic_fetch_add(&step.seen[task], 1);
        ++mine;
    }
    intvit_meet(&step.counts, mine, step.all);
    for (int64_t i = 0; i < step.all; ++i) REQUIRE(atomic_load(&step.seen[i]) == 1); /* nobody goes on before */
    return NULL;
}

static void every_task_once(int64_t all, int threads) {
    pthread_t others[MOST_THREADS];
    begin(all, threads);
    for (intptr_t i = 1; i < threads; ++i) REQUIRE(!pthread_create(&others[i], NULL, work, (void *)i));
    work(NULL);
    for (int i = 1; i < threads; ++i) REQUIRE(!pthread_join(others[i], NULL));
}

/* A thread alone begins with its first range, and goes round. */
static void own_ranges_first(int64_t all, int thread, int threads) {
    begin(all, threads);
    int32_t share = thread * SHARES / threads;
    for (int64_t i = 0, first = share * all / SHARES; i < all; ++i) {
        REQUIRE(intvit_take(&step.counts, share, all) == (first + i) % all);
    }
    REQUIRE(intvit_take(&step.counts, share, all) == all);
}

int main(void) {
    static const int64_t counts[] = {0, 1, 2, 7, 8, 9, 16, 197, MOST_TASKS};
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; ++i) {
        for (int threads = 1; threads <= MOST_THREADS; ++threads) {
            for (int thread = 0; thread < threads; ++thread) own_ranges_first(counts[i], thread, threads);
            every_task_once(counts[i], threads);
        }
    }
    return 0;
}
