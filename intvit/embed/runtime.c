/* What a compiled model calls of TVM's runtime, for programs without TVM: threads and scratch memory.

   The threads are made once, at the first run: INTVIT_NUM_THREADS of them, or one for each core of the process, the caller
   being one. Runs may overlap: one that finds the threads busy, or that a thread of the pool starts, runs in its caller
   alone. Link it into the program; where models are loaded with dlopen, export its functions to them (-rdynamic). */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { MOST_THREADS = 256, ALIGNMENT = 64, SPINS = 1 << 10 };

/* TVM's interface (tvm/runtime/c_backend_api.h) */

typedef struct {
    void *barrier;
    int32_t tasks;
} Group; /* TVMParallelGroupEnv */
typedef int (*Task)(int index, Group *group, void *arguments);

int TVMBackendParallelLaunch(Task task, void *arguments, int tasks);
void *TVMBackendAllocWorkspace(int device, int number, uint64_t bytes, int type, int bits);
int TVMBackendFreeWorkspace(int device, int number, void *memory);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);

/* Waiting for microseconds: threads spin; whoever is late may have lost its core to a neighbour. */

static void wait_a_moment(unsigned *waited) {
    if (++*waited > SPINS) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#elif defined(__aarch64__)
    else __asm__ volatile("yield");
#endif
}

/* The pool: its threads sleep between runs. */

static struct {
    atomic_flag busy;
    int threads; /* with the caller; 0 before the first run */
    sem_t start[MOST_THREADS];
    Task task;
    void *arguments;
    Group group;
    atomic_int running, failed;
} pool = {.busy = ATOMIC_FLAG_INIT};

static void *work(void *index) {
    for (;;) {
        while (sem_wait(&pool.start[(intptr_t)index])) {}
        if (pool.task((int)(intptr_t)index, &pool.group, pool.arguments)) atomic_store(&pool.failed, 1);
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
    return NULL;
}

static int threads_wanted(void) {
    const char *given = getenv("INTVIT_NUM_THREADS");
    long count = given ? strtol(given, NULL, 10) : 0;
    cpu_set_t cores;
    if (count < 1) count = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    return count < MOST_THREADS ? (int)count : MOST_THREADS;
}

/* As many as the system gives. Signals are for the program's own threads. */
static void start_threads(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int wanted = threads_wanted();
    for (pool.threads = 1; pool.threads < wanted; ++pool.threads) {
        pthread_t thread;
        if (sem_init(&pool.start[pool.threads], 0, 0)) break;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)pool.threads)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int run_alone(Task task, void *arguments) {
    Group group = {NULL, 1};
    return task(0, &group, arguments);
}

int TVMBackendParallelLaunch(Task task, void *arguments, int tasks) {
    if (atomic_flag_test_and_set_explicit(&pool.busy, memory_order_acquire)) return run_alone(task, arguments);
    if (!pool.threads) start_threads();
    int count = tasks > 0 && tasks < pool.threads ? tasks : pool.threads;
    pool.task = task;
    pool.arguments = arguments;
    pool.group = (Group){NULL, count};
    atomic_store(&pool.running, count - 1);
    atomic_store(&pool.failed, 0);
    for (int i = 1; i < count; ++i) sem_post(&pool.start[i]);
    int failed = task(0, &pool.group, arguments);
    unsigned waited = 0;
    while (atomic_load_explicit(&pool.running, memory_order_acquire)) wait_a_moment(&waited);
    failed = failed || atomic_load(&pool.failed);
    atomic_flag_clear_explicit(&pool.busy, memory_order_release);
    return failed ? -1 : 0;
}

/* Scratch: every thread keeps what it freed for its next call; memory does not grow with the number of calls. */

typedef struct Block {
    struct Block *next;
    uint64_t bytes;
} Block; /* lies ALIGNMENT bytes before the memory that is handed out */

static pthread_key_t kept;

void *TVMBackendAllocWorkspace(int device, int number, uint64_t bytes, int type, int bits) {
    (void)device, (void)number, (void)type, (void)bits;
    Block *first = pthread_getspecific(kept), **at = &first;
    while (*at && (*at)->bytes < bytes) at = &(*at)->next;
    if (!*at) at = &first; /* all are too small: a new one takes the place of the first */
    Block *block = *at;
    if (block) *at = block->next;
    if (block && pthread_setspecific(kept, first)) return NULL;
    if (!block || block->bytes < bytes) {
        free(block);
        bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        block = aligned_alloc(ALIGNMENT, ALIGNMENT + bytes);
        if (!block) return NULL;
        block->bytes = bytes;
    }
    return (char *)block + ALIGNMENT;
}

int TVMBackendFreeWorkspace(int device, int number, void *memory) {
    (void)device, (void)number;
    Block *block = (Block *)((char *)memory - ALIGNMENT);
    block->next = pthread_getspecific(kept);
    if (pthread_setspecific(kept, block)) free(block);
    return 0;
}

static void free_kept(void *first) {
    for (Block *block = first, *next; block; block = next) {
        next = block->next;
        free(block);
    }
}

/* A child process has none of its parent's threads: it makes its own at its first run. */
static void after_fork(void) {
    pool.threads = 0;
    atomic_flag_clear(&pool.busy);
}

__attribute__((constructor)) static void prepare(void) {
    if (pthread_key_create(&kept, free_kept) || pthread_atfork(NULL, NULL, after_fork)) abort();
}

/* A model.so also holds functions for TVM, which report their errors so; a program without TVM does not call them. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    (void)kind, (void)parts, (void)count;
}
