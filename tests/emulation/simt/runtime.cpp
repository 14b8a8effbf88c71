// A multiprocessor: blocks one after another, each CUDA thread a fiber, warps in an order drawn from a seed.
//
// The lanes of a warp run one by one to the next instruction that all of them must reach together (CUDA C++ Programming
// Guide, "Independent Thread Scheduling": before it nothing says which comes first). There they must agree: the text
// has one `line` for each such instruction. Whoever differs, left the kernel or waits at another barrier is an error.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>

#include <memory>
#include <mutex>

#include "fiber.h"
#include "memory.h"
#include "simt.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

Index threadIdx, blockIdx, blockDim, gridDim;
int simt_line;
simt::Machine simt::machine;

namespace simt {
namespace {

constexpr int MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / WARP;

Stacks stacks;
Lane lanes[MOST_THREADS];
Warp warps[MOST_WARPS];
int warp_count, ready[MOST_WARPS], ready_count, running, stay;  // `ready` holds warps; `running` is a place in it
const Kernel *kernel;
void **parameters;
void *host_stack;
sigjmp_buf escape;
pthread_t host_thread;
char message[1024];

void run_lane(Warp &warp, int index) {
    Lane *before = machine.lane, *next = &warp.lanes[index];
    warp.lane = index;
    if (before == next) return;
    machine.lane = next;
    threadIdx.x = next->thread;
    simt_switch(&before->stack_pointer, next->stack_pointer);
}

// A new round of a warp: its lanes from one drawn at random, up or down.
void reorder(Warp &warp) {
    uint64_t random = draw();
    warp.position = 0;
    warp.first = int((random >> 8) % warp.count);
    warp.step = random & 1 ? 1 : warp.count - 1;
}

void start(int place) {
    running = place;
    run_lane(warps[ready[place]], warps[ready[place]].first);
}

[[noreturn]] void disagree(const Warp &warp, const Lane &a, const Lane &b) {
    simt_line = a.request.line;
    fail("the lanes of warp %d diverge: thread %d is at %s (line %d), thread %d at %s (line %d)", int(&warp - warps),
         a.thread, name(a.request.op), a.request.line, b.thread, name(b.request.op), b.request.line);
}

// All lanes have arrived: they must agree, and what they ask for is done.
void finish_round(Warp &warp) {
    const Request &first = warp.lanes[0].request;
    for (int i = 1; i < warp.count; i++) {
        const Request &other = warp.lanes[i].request;
        bool left = first.op == Op::leave && other.op == Op::leave;
        if (other.op != first.op || (!left && (other.line != first.line || other.detail != first.detail)))
            disagree(warp, warp.lanes[0], warp.lanes[i]);
    }
    if (first.op == Op::leave) warp.left = true;
    else if (first.op == Op::barrier) warp.waiting = true;
    else execute(warp);
}

// No warp can run: either all wait at one barrier, which opens, or all have left.
void open_barrier() {
    const Warp *waiting = nullptr, *left = nullptr;
    for (const Warp *w = warps; w < warps + warp_count; w++) {
        if (w->left) left = w;
        else if (waiting && w->lanes->request.line != waiting->lanes->request.line)
            fail("warps wait at different barriers: warp %d at line %d, warp %d at line %d", int(waiting - warps),
                 waiting->lanes->request.line, int(w - warps), w->lanes->request.line);
        else waiting = w;
    }
    if (!waiting) return;
    simt_line = waiting->lanes->request.line;
    if (left) fail("warp %d waits at a barrier, warp %d has left the kernel", int(waiting - warps), int(left - warps));
    for (int i = 0; i < warp_count; i++) {
        warps[i].waiting = false;
        ready[i] = i;
    }
    ready_count = warp_count;
    // until the next barrier, after each rendezvous: the same warp goes on never, often or always
    static const int chances[] = {0, 7, 8, 8};
    stay = chances[draw() >> 20 & 3];
}

// The lane that runs has arrived: the next of its warp, or after the last one whichever warp the seed says.
void advance() {
    Warp &warp = warps[ready[running]];
    if (++warp.position < warp.count) {
        int next = warp.lane + warp.step;
        return run_lane(warp, next >= warp.count ? next - warp.count : next);
    }
    finish_round(warp);
    reorder(warp);
    if (warp.waiting || warp.left) ready[running] = ready[--ready_count];
    else if (int(draw() >> 40 & 7) < stay) return start(running);
    if (!ready_count) open_barrier();
    if (ready_count) return start(int((draw() >> 16) % ready_count));
    simt_switch(&machine.lane->stack_pointer, host_stack);
}

void thread_body() {
    kernel->entry(parameters);
    machine.lane->request = {};
    machine.lane->request.op = Op::leave;
    advance();
    fail("a thread that has left runs again");
}

void run_block(uint32_t block) {
    blockIdx = {block, 0, 0};
    memset(machine.shared, int(draw() >> 32 & 255) | 1, machine.shared_bytes);
    int threads = int(blockDim.x);
    for (int t = 0; t < threads; t++) {
        Lane &lane = lanes[t];
        lane.thread = t;
        lane.copies.clear();
        lane.landed = lane.groups = 0;
        lane.stack_pointer = stacks.begin(t, thread_body);
    }
    warp_count = (threads + WARP - 1) / WARP;
    for (int w = 0; w < warp_count; w++) {
        Warp &warp = warps[w];
        warp = {};
        warp.lanes = lanes + w * WARP;
        warp.count = threads - w * WARP < WARP ? threads - w * WARP : WARP;
        reorder(warp);
        ready[w] = w;
    }
    ready_count = warp_count;
    stay = draw() >> 20 & 1 ? 8 : 0;
    running = int((draw() >> 16) % ready_count);
    Warp &warp = warps[ready[running]];
    warp.lane = warp.first;
    machine.lane = &warp.lanes[warp.first];
    threadIdx = {uint32_t(machine.lane->thread), 0, 0};
    simt_switch(&host_stack, machine.lane->stack_pointer);
}

uint32_t gcd(uint32_t a, uint32_t b) { return b ? gcd(b, a % b) : a; }

// Every block once, in an order that the seed says.
void run_grid() {
    uint32_t blocks = gridDim.x, step = 1 + draw() % blocks, at = draw() % blocks;
    while (gcd(step, blocks) != 1) step++;
    for (uint32_t i = 0; i < blocks; i++, at = uint32_t((uint64_t(at) + step) % blocks)) run_block(at);
}

// ---- Faults of the kernel, while it runs ----

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction before[3];

void on_signal(int number, siginfo_t *info, void *) {
    if (!pthread_equal(pthread_self(), host_thread)) {  // not ours: it comes again, to whoever listened before
        for (int i = 0; i < 3; i++)
            if (SIGNALS[i] == number) sigaction(number, &before[i], nullptr);
        return;
    }
    if (number == SIGFPE) fail("division by zero");
    if (stacks.overflown(info->si_addr)) fail("the thread's stack overflows");
    fail("access to %p, which is no memory of the kernel's (or an address that is not aligned)", info->si_addr);
}

class Signals {
    alignas(16) char stack[64 << 10];
    stack_t stack_before;

   public:
    Signals() {
        stack_t mine = {};
        mine.ss_sp = stack;
        mine.ss_size = sizeof stack;
        sigaltstack(&mine, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &action, &before[i]);
    }
    ~Signals() {
        for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

const Kernel *find(const char *wanted) {
    for (const Kernel *k = simt_kernels; k->name; k++)
        if (!strcmp(k->name, wanted)) return k;
    return nullptr;
}

int refuse(const char *format, const char *detail) {
    snprintf(message, sizeof message, format, detail);
    return -1;
}

}  // namespace

const char *name(Op op) {
    static const char *names[] = {"the end", "a barrier", "__syncwarp", "shfl", "ldmatrix", "mma"};
    return names[int(op)];
}

uint64_t draw() {
    uint64_t &x = machine.random;
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    return x * 2685821657736338717u;
}

void fail(const char *format, ...) {
    int at = snprintf(message, sizeof message, "kernel %s, block %u, thread %u, line %d: ", kernel->name, blockIdx.x,
                      threadIdx.x, simt_line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + at, sizeof message - at, format, arguments);
    va_end(arguments);
    siglongjmp(escape, 1);
}

void rendezvous(Op op, uint32_t detail, const uint32_t *in, int ins, uint32_t *const *out, int outs) {
    Request &request = machine.lane->request;
    request.op = op;
    request.detail = detail;
    request.line = simt_line;
    for (int i = 0; i < ins; i++) request.in[i] = in[i];
    for (int i = 0; i < outs; i++) request.out[i] = out[i];
    advance();
}

}  // namespace simt

// ---- What a library offers: `simt_describe`, `simt_launch` and its `simt_message` ----

struct simt_description {
    int arch, most_threads, parameter_count;
    uint32_t static_shared;
    const size_t *parameters;
};

// Fills `what`; -1 where there is no such kernel.
EXPORT int simt_describe(const char *wanted, simt_description *what) {
    const simt::Kernel *k = simt::find(wanted);
    if (!k) return simt::refuse("no kernel %s", wanted);
    *what = {simt_arch, k->most_threads, k->parameter_count, k->static_shared, k->parameters};
    return 0;
}

EXPORT int simt_architecture() { return simt_arch; }

EXPORT const char *simt_message() { return simt::message; }

// Runs a kernel to its end; -1 with a message where it is refused or fails.
EXPORT int simt_launch(const char *wanted, uint32_t grid, uint32_t block, uint32_t shared, void **parameters,
                       uint64_t seed) {
    using namespace simt;
    static std::mutex one;
    std::lock_guard<std::mutex> lock(one);
    kernel = find(wanted);
    if (!kernel) return refuse("no kernel %s", wanted);
    if (!grid) return refuse("kernel %s: no blocks", wanted);
    if (!block || block > uint32_t(kernel->most_threads))
        return refuse("kernel %s: more threads than its launch bounds", wanted);
    constexpr uint32_t ALIGNMENT = 128, MOST = 227 << 10;
    uint32_t bytes = (kernel->static_shared + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + shared;
    if (bytes > MOST) return refuse("kernel %s: more than 227 KiB of shared memory", wanted);

    Guarded memory(bytes, 0, ALIGNMENT, SHARED_BORDER);
    auto signals = std::make_unique<Signals>();
    struct Reserved {
        explicit Reserved(uint32_t count) { stacks.reserve(int(count)); }
        ~Reserved() { stacks.release(); }
    } reserved(block);
    simt::parameters = parameters;
    host_thread = pthread_self();
    machine.random = (seed + 1) * 0x9E3779B97F4A7C15u | 1;
    for (int i = 0; i < 8; i++) draw();
    machine.shared = memory.data;
    machine.shared_bytes = bytes;
    blockDim = {block, 1, 1};
    gridDim = {grid, 1, 1};
    simt_line = 0;
    if (sigsetjmp(escape, 1)) return -1;
    run_grid();
    if (!memory.intact()) return refuse("kernel %s: writes around its shared memory", wanted);
    return 0;
}

// ---- What g++'s checks call (-fsanitize=alignment,bounds,...) with the place in the text ----

namespace {
struct Place {
    const char *file;
    uint32_t line, column;
};
}  // namespace
#define HANDLER(function, format, ...)                                                                                \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##function##_abort(const Place *place,       \
                                                                                            uintptr_t a, uintptr_t) { \
        simt_line = int(place->line);                                                                                 \
        simt::fail(format, ##__VA_ARGS__);                                                                            \
        (void)a;                                                                                                      \
    }
HANDLER(type_mismatch_v1, "column %u: address %p is not aligned for its type, or outside its array", place->column,
        (void *)a)
HANDLER(out_of_bounds, "column %u: index %ld is outside the array", place->column, long(int(a)))
HANDLER(shift_out_of_bounds, "column %u: shift by a number of bits that is undefined", place->column)
HANDLER(divrem_overflow, "column %u: division by zero, or of the least integer by -1", place->column)
