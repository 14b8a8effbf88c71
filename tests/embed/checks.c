/* checks CASE: what runtime.c promises, with the model that is linked in. Silent where it holds. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intvit.h"

typedef struct {
    void *barrier;
    int32_t tasks;
} Group;
typedef int (*Task)(int, Group *, void *);
int TVMBackendParallelLaunch(Task, void *, int);
void *TVMBackendAllocWorkspace(int, int, uint64_t, int, int);
int TVMBackendFreeWorkspace(int, int, void *);

#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition);    \
            _exit(1);                                                          \
        }                                                                      \
    } while (0)

enum { THREADS = 6, RUNS = 30, MOST_BATCH = 3 };
static uint8_t *images;
static uint8_t *expected[MOST_BATCH + 1];

static uint8_t *allocate(int64_t bytes) {
    void *memory = NULL;
    REQUIRE(!posix_memalign(&memory, 64, (size_t)bytes));
    return memory;
}

static void run(int64_t batch, uint8_t *output) {
    uint8_t *workspace = allocate(intvit_workspace_bytes(batch));
    void *outputs[] = {output};
    REQUIRE(intvit_run(images, batch, outputs, workspace) == INTVIT_DONE);
    free(workspace);
}

static void run_and_compare(int64_t batch) {
    size_t bytes = (size_t)(batch * intvit_output_bytes(0));
    uint8_t *output = allocate((int64_t)bytes);
    run(batch, output);
    REQUIRE(!memcmp(output, expected[batch], bytes));
    free(output);
}

static void *run_often(void *number) {
    for (int i = 0; i < RUNS; ++i) run_and_compare(1 + (i + (int)(intptr_t)number) % MOST_BATCH);
    return NULL;
}

static void several_threads(void) {
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; ++i) REQUIRE(!pthread_create(&threads[i], NULL, run_often, (void *)i));
    for (int i = 0; i < THREADS; ++i) REQUIRE(!pthread_join(threads[i], NULL));
}

/* The child has its parent's memory and none of its threads, and may become a parent. */
static void forked(int depth) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (!child) {
        run_often(NULL);
        if (depth) forked(depth - 1);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    run_often(NULL);
}

static void *run_for_ever(void *batch) {
    for (;;) run_and_compare((int64_t)(intptr_t)batch);
    return NULL;
}

static void forked_while_running(void) {
    pthread_t thread;
    REQUIRE(!pthread_create(&thread, NULL, run_for_ever, (void *)(intptr_t)1));
    for (int i = 0; i < 5; ++i) forked(0);
}

static void ended_while_running(void) {
    pthread_t thread;
    for (intptr_t i = 1; i <= 2; ++i) REQUIRE(!pthread_create(&thread, NULL, run_for_ever, (void *)i));
    usleep(20000);
    exit(0);
}

/* Every index once, and all know how many they are. */
enum { MOST_TASKS = 16 };
typedef struct {
    int tasks;
    atomic_int started[MOST_TASKS];
} Launched;

static int note(int index, Group *group, void *arguments) {
    Launched *seen = arguments;
    if (!index) seen->tasks = group->tasks;
    atomic_fetch_add(&seen->started[index], 1);
    return 0;
}

static void launches(int expected_tasks) {
    for (int round = 0; round < 300; ++round) {
        Launched seen = {0};
        int asked = round % 3;
        REQUIRE(!TVMBackendParallelLaunch(note, &seen, asked));
        int tasks = asked && asked < expected_tasks ? asked : expected_tasks;
        REQUIRE(seen.tasks == tasks);
        for (int i = 0; i < MOST_TASKS; ++i) REQUIRE(atomic_load(&seen.started[i]) == (i < tasks));
    }
}

static int nested(int index, Group *group, void *arguments) {
    (void)index, (void)group, (void)arguments;
    Launched seen = {0};
    REQUIRE(!TVMBackendParallelLaunch(note, &seen, 0) && seen.tasks == 1);
    run_and_compare(2);
    return 0;
}

/* Late, and heard nevertheless. */
static int fails(int index, Group *group, void *arguments) {
    (void)arguments;
    if (index) usleep(5000);
    return index == group->tasks - 1 ? -1 : 0;
}

static void *use_scratch(void *nothing) {
    char *first = TVMBackendAllocWorkspace(1, 0, 100, 0, 8), *second = TVMBackendAllocWorkspace(1, 0, 5000, 0, 8);
    REQUIRE(first && second && (uintptr_t)first % 64 == 0 && (uintptr_t)second % 64 == 0);
    memset(first, 1, 100);
    memset(second, 2, 5000);
    for (int i = 0; i < 100; ++i) REQUIRE(first[i] == 1);
    TVMBackendFreeWorkspace(1, 0, first);
    TVMBackendFreeWorkspace(1, 0, second);
    for (int i = 0; i < 1000; ++i) {
        char *large = TVMBackendAllocWorkspace(1, 0, 4999, 0, 8), *small = TVMBackendAllocWorkspace(1, 0, 1, 0, 8);
        REQUIRE(large == second && small == first);
        TVMBackendFreeWorkspace(1, 0, i % 2 ? large : small);
        TVMBackendFreeWorkspace(1, 0, i % 2 ? small : large);
    }
    REQUIRE(!TVMBackendAllocWorkspace(1, 0, UINT64_C(1) << 60, 0, 8));
    return nothing;
}

int main(int count, char **arguments) {
    REQUIRE(count == 2 && intvit_ready() == INTVIT_READY);
    images = allocate(MOST_BATCH * intvit_image_bytes());
    for (int64_t i = 0; i < MOST_BATCH * intvit_image_bytes(); ++i) images[i] = (uint8_t)(i * i >> 5);
    for (int64_t batch = 1; batch <= MOST_BATCH; ++batch) {
        expected[batch] = allocate(batch * intvit_output_bytes(0));
        run(batch, expected[batch]);
    }
    const char *wanted = getenv("INTVIT_NUM_THREADS");
    int threads = wanted ? atoi(wanted) : 1;
#define CASE(name, action)                  \
    if (!strcmp(arguments[1], name)) {      \
        action;                             \
        return 0;                           \
    }
    CASE("threads", several_threads())
    CASE("fork", forked(2))
    CASE("fork-while-running", forked_while_running())
    CASE("exit-while-running", ended_while_running())
    CASE("launches", launches(threads))
    CASE("nested", REQUIRE(!TVMBackendParallelLaunch(nested, NULL, 0)))
    CASE("failing", REQUIRE(TVMBackendParallelLaunch(fails, NULL, 0) == -1))
    CASE("scratch", { use_scratch(NULL); pthread_t t; pthread_create(&t, NULL, use_scratch, NULL); pthread_join(t, NULL); })
    REQUIRE(!"a case of that name");
}
