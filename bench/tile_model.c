/* What products on AMX tiles would wait for, modelled on a CPU with AVX-512 and no AMX.
 *
 *     gcc -O3 -march=x86-64-v3 -pthread bench/tile_model.c -o tile_model && ./tile_model
 *
 * A tile's load is 16 loads of a cache line, a tile's store 16 stores, a product of tiles a division of doubles that
 * waits for the one before it (16.8 cycles on an Emerald Rapids; `tdpbssd` begins every 16), and the epilogue some
 * vector instructions. Columns are not cut into tasks. The caches are the machine's own. Two threads share the rows of
 * the products of a Vision Transformer (197 tokens, 12 blocks) and meet after each; all weights come from L3. Attention
 * and LayerNorm are left out. Milliseconds, medians, for orders of the same work (kernels/product_tiles.py). */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TILES = 13, LINE = 64, PANEL = 32, BLOCKS = 12, REPEATS = 41, AHEAD = 8192, MOST = 768 };

typedef struct {
    const char *name;
    int panels_outside, copied, ahead, next_panel;
} Order;

static const Order ORDERS[] = {
    {"pairs of tiles outside, rows copied, weights asked for 8 KB ahead", 0, 1, 1, 0},
    {"pairs of tiles outside, rows copied", 0, 1, 0, 0},
    {"pairs of tiles outside", 0, 0, 0, 0},
    {"panels outside", 1, 0, 0, 0},
    {"panels outside, rows copied, the next panel asked for into L2", 1, 1, 0, 1},
    {"panels outside, the next panel asked for into L2", 1, 0, 0, 1},
};

static unsigned char *weights, *results[4];
static unsigned char copies[2][128 * (4 * MOST + LINE)], sums[2][4096] __attribute__((aligned(4096)));
static atomic_int arrived;
static int width;
static const Order *order;

#define FOUR(move) move("(%0)") move("(%0,%1)") move("(%0,%1,2)") move("(%0,%2)")
#define LOAD(at) "vmovdqu64 " at ", %%zmm0\n"
#define STORE(at) "vmovdqu64 %%zmm1, " at "\n"
#define NEXT "lea (%0,%1,4), %0\n"
#define SIXTEEN(move) FOUR(move) NEXT FOUR(move) NEXT FOUR(move) NEXT FOUR(move)

static inline void load_tile(const unsigned char *p, long pitch) {
    __asm__ volatile(SIXTEEN(LOAD) : "+r"(p) : "r"(pitch), "r"(3 * pitch) : "xmm0");
}

static inline void store_tile(unsigned char *p, long pitch) {
    __asm__ volatile(SIXTEEN(STORE) : "+r"(p) : "r"(pitch), "r"(3 * pitch) : "memory");
}

static inline void ones(void) {
    const double one = 1;
    __asm__ volatile("vmovsd %0, %%xmm30\n vmovsd %0, %%xmm31" ::"m"(one));
}

static inline void multiply_tiles(void) {
    __asm__ volatile("vdivsd %%xmm31, %%xmm30, %%xmm30\n vmovq %%xmm30, %%xmm30" ::);
}

/* Eight rows of sums through a requantization, as 32 bytes each. */
static inline void epilogue(const unsigned char *from, unsigned char *to, long pitch) {
    for (int row = 0; row < 8; row++)
        __asm__ volatile(
            "vmovdqu64 (%0), %%zmm2\n vmovdqu64 64(%0), %%zmm3\n vpaddd %%zmm2, %%zmm5, %%zmm2\n"
            "vpaddd %%zmm3, %%zmm5, %%zmm3\n vpsrad $3, %%zmm2, %%zmm2\n vpsrad $3, %%zmm3, %%zmm3\n"
            "vpackssdw %%zmm3, %%zmm2, %%zmm2\n vpmulhw %%zmm6, %%zmm2, %%zmm2\n vpaddw %%zmm6, %%zmm2, %%zmm2\n"
            "vpsraw $2, %%zmm2, %%zmm2\n vpermq %%zmm2, %%zmm7, %%zmm2\n vpmovswb %%zmm2, (%1)" ::"r"(from + row * 128),
            "r"(to + row * pitch)
            : "memory", "xmm2", "xmm3");
}

typedef struct {
    unsigned char *kept, *to; /* sums, and where their epilogue goes */
    long pitch;
    int parts; /* of eight rows; none before the first sums */
} Behind;

/* A pair of tiles of rows, or one tile, with a panel; beside it the epilogue of the pair before. */
static inline __attribute__((always_inline)) void pair(Behind *b, const unsigned char *rows, long pitch, int both,
                                                       const unsigned char *w, int steps, const unsigned char *next,
                                                       int lines, unsigned char *to) {
    int asked = 0, finished = 0;
    for (int s = 0; s < steps; s++, w += 2048, rows += LINE) {
        load_tile(w, 128), load_tile(w + LINE, 128), load_tile(rows, pitch);
        multiply_tiles(), multiply_tiles();
        if (both) load_tile(rows + 16 * pitch, pitch), multiply_tiles(), multiply_tiles();
        if (order->ahead)
            for (int i = 0; i < 32; i++) __builtin_prefetch(w + AHEAD + i * LINE, 0, 3);
        if (order->next_panel)
            for (; asked < (s + 1) * lines / steps; asked++) __builtin_prefetch(next + asked * LINE, 0, 2);
        for (; finished < b->parts && (s + 1) * 4 >= (finished + 1) * steps; finished++)
            epilogue(b->kept + finished * 1024, b->to + finished * 8 * b->pitch, b->pitch);
    }
    for (int half = 0; half < 1 + both; half++)
        store_tile(b->kept + half * 2048, 128), store_tile(b->kept + half * 2048 + LINE, 128);
    b->to = to, b->parts = 2 + 2 * both;
}

static void product(int thread, const unsigned char *x, long pitch, const unsigned char *w, unsigned char *y, int k,
                    int n) {
    const int first = thread ? (TILES + 1) / 2 : 0, tiles = (thread ? TILES : (TILES + 1) / 2) - first;
    const int pairs = (tiles + 1) / 2, steps = k / LINE, panels = n / PANEL, lines = steps * 32 / pairs;
    const long size = steps * 2048L;
    Behind behind = {sums[thread], NULL, n, 0};
    x += first * 16 * pitch, y += first * 16L * n;
    if (order->copied) {
        for (int r = 0; r < tiles * 16; r++) memcpy(copies[thread] + r * (k + LINE), x + r * pitch, k);
        x = copies[thread], pitch = k + LINE;
    }
    ones();
    for (int i = 0; i < panels * pairs; i++) {
        const int panel = order->panels_outside ? i / pairs : i % panels;
        const int at = order->panels_outside ? i % pairs : i / panels;
        pair(&behind, x + at * 32 * pitch, pitch, 2 * at + 1 < tiles, w + panel * size, steps,
             w + (panel + 1) * size + (long)at * lines * LINE, lines, y + at * 32L * n + panel * PANEL);
    }
    for (int part = 0; part < behind.parts; part++)
        epilogue(behind.kept + part * 1024, behind.to + part * 8 * behind.pitch, behind.pitch);
}

static void meet(int *meetings) {
    atomic_fetch_add(&arrived, 1);
    for (++*meetings; atomic_load(&arrived) < 2 * *meetings;) {}
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}

static int compare(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static void *infer(void *argument) {
    const int thread = argument != NULL, shapes[4][2] = {{1, 3}, {1, 1}, {1, 4}, {4, 1}};
    double times[REPEATS];
    int meetings = 0;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(thread, &own);
    sched_setaffinity(0, sizeof own, &own);
    for (int r = 0; r < REPEATS; r++) {
        const unsigned char *w = weights, *x = results[3];
        long pitch = width;
        meet(&meetings);
        times[r] = now();
        for (int i = 0; i < 4 * BLOCKS; i++) {
            const int k = shapes[i % 4][0] * width, n = shapes[i % 4][1] * width;
            product(thread, x, pitch, w, results[i % 4], k, n);
            x = results[i % 4], pitch = n, w += (long)k * n;
            meet(&meetings);
        }
        times[r] = now() - times[r];
    }
    qsort(times, REPEATS, sizeof *times, compare);
    if (!thread) printf("%7.2f", times[REPEATS / 2]);
    return NULL;
}

int main(void) {
    const long most = 12L * BLOCKS * MOST * MOST + (1 << 21);
    memset(weights = aligned_alloc(1 << 21, (most + (1 << 21)) >> 21 << 21), 1, most);
    for (int i = 0; i < 4; i++) memset(results[i] = aligned_alloc(4096, 1 << 20), 1, 1 << 20);
    printf("DeiT-T DeiT-S DeiT-B\n");
    for (order = ORDERS; order < ORDERS + sizeof ORDERS / sizeof *ORDERS; order++) {
        for (width = 192; width <= MOST; width *= 2) {
            pthread_t other;
            atomic_store(&arrived, 0);
            pthread_create(&other, NULL, infer, weights);
            infer(NULL);
            pthread_join(other, NULL);
        }
        printf("  %s\n", order->name);
        fflush(stdout);
    }
    return 0;
}
