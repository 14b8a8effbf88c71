/* A library in the place of libcuda.so.1 that checks how it is called, and runs kernels that are C functions.

   An image is the path of a library of kernels: `name` is called for each block, `name_parameters` is their number, the
   last of which is int32. Streams have no delay; a graph runs its nodes in the reverse of the order in which they were
   added, as far as its edges allow. A context is for one thread at a time, which is stricter than CUDA: a model locks
   its devices. Calls are written to a log; whatever is not allowed gives an error. */
#define _POSIX_C_SOURCE 200809L
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct stub { /* what a test may set, and see */
    int32_t version, devices, major, minor, processors, shared;
    int32_t init_result, load_result, capturing, contexts;
    int64_t memory, used;
} stub = {13000, 2, 9, 0, 8, 232448, 0, 0, 0, 0, 1 << 30, 0};
char stub_log[1 << 20];

enum { NODES = 64, PARAMETERS = 8, BLOCKS = 4096, MISUSE = 1, NO_CONTEXT = 201, NOT_FOUND = 500 };
typedef void (*Kernel)(unsigned block, unsigned threads, void **parameters);

struct CUctx_st { int device; atomic_int users; };
struct CUmod_st { void *library; };
struct CUfunc_st { char name[64]; Kernel kernel; int parameters, shared; };
struct CUstream_st { int alive; };
struct CUevent_st { int alive, recorded; };
struct CUgraphNode_st {
    CUDA_KERNEL_NODE_PARAMS launch;
    uint64_t values[PARAMETERS];
    size_t dependencies;
    int before[NODES];
};
struct CUgraph_st { int count; struct CUgraphNode_st nodes[NODES]; };
struct CUgraphExec_st { CUgraph graph; struct CUgraphNode_st nodes[NODES]; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUctx_st contexts[16];
static struct { void *memory; size_t bytes; } blocks[BLOCKS];
static _Thread_local CUcontext stack[8];
static _Thread_local int depth;

int stub_depth(void) { return depth; }

static void note(const char *format, ...) {
    pthread_mutex_lock(&lock);
    size_t length = strlen(stub_log);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(stub_log + length, sizeof stub_log - length, format, arguments);
    va_end(arguments);
    pthread_mutex_unlock(&lock);
}

#define NEED(condition, error) \
    do { if (!(condition)) return note("%s: error %d\n", __func__, error), error; } while (0)
#define NEED_CONTEXT NEED(depth > 0, NO_CONTEXT)

CUresult cuInit(unsigned flags) { (void)flags; return stub.init_result; }
CUresult cuDriverGetVersion(int *version) { return *version = stub.version, 0; }
CUresult cuGetErrorName(CUresult error, const char **name) {
    return *name = error == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : "CUDA_ERROR_OF_STUB", 0;
}
CUresult cuGetErrorString(CUresult error, const char **text) { (void)error; return *text = "told by the stub", 0; }
CUresult cuDeviceGetCount(int *count) { return *count = stub.devices, 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, ordinal < stub.devices ? 0 : 101; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    return snprintf(name, (size_t)length, "NVIDIA Stub %d", device), 0;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    (void)device;
    switch (attribute) {
        case 16: return *value = stub.processors, 0;
        case 75: return *value = stub.major, 0;
        case 76: return *value = stub.minor, 0;
        case 97: return *value = stub.shared, 0;
        default: return MISUSE;
    }
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    contexts[device].device = device;
    *context = &contexts[device];
    return ++stub.contexts, 0;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { (void)device; return --stub.contexts, 0; }
CUresult cuCtxPushCurrent_v2(CUcontext context) {
    NEED(atomic_fetch_add(&context->users, 1) == 0, MISUSE);
    return stack[depth++] = context, 0;
}
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    NEED_CONTEXT;
    *context = stack[--depth];
    return atomic_fetch_sub(&(*context)->users, 1), 0;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    NEED_CONTEXT;
    note("load %s\n", strrchr(image, '/') + 1);
    if (stub.load_result) return stub.load_result;
    *module = malloc(sizeof **module);
    (*module)->library = dlopen(image, RTLD_NOW);
    NEED((*module)->library, CUDA_ERROR_INVALID_IMAGE);
    return 0;
}
CUresult cuModuleUnload(CUmodule module) { NEED_CONTEXT; return note("unload\n"), free(module), 0; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    NEED_CONTEXT;
    char count[80];
    snprintf(count, sizeof count, "%s_parameters", name);
    int *parameters = dlsym(module->library, count);
    void *kernel = dlsym(module->library, name);
    NEED(kernel && parameters, NOT_FOUND);
    *function = calloc(1, sizeof **function);
    snprintf((*function)->name, sizeof (*function)->name, "%s", name);
    memcpy(&(*function)->kernel, &kernel, sizeof kernel);
    (*function)->parameters = *parameters;
    (*function)->shared = 48 << 10;
    return 0;
}
CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    NEED(attribute == 8 && value <= stub.shared, MISUSE);
    return function->shared = value, 0;
}

CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    NEED_CONTEXT;
    NEED(bytes > 0, MISUSE);
    pthread_mutex_lock(&lock);
    int fits = stub.used + (int64_t)bytes <= stub.memory, i = 0;
    while (blocks[i].memory) ++i;
    if (fits) {
        stub.used += (int64_t)bytes;
        blocks[i].bytes = bytes;
        blocks[i].memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
        memset(blocks[i].memory, 0xA5, bytes);
        *memory = (uintptr_t)blocks[i].memory;
    }
    pthread_mutex_unlock(&lock);
    return note("%s %zu\n", fits ? "allocate" : "refuse", bytes), fits ? 0 : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree_v2(CUdeviceptr memory) {
    NEED_CONTEXT;
    int i = 0;
    while (i < BLOCKS && (uintptr_t)blocks[i].memory != memory) ++i;
    NEED(i < BLOCKS, MISUSE);
    note("free %zu\n", blocks[i].bytes);
    stub.used -= (int64_t)blocks[i].bytes;
    memset(blocks[i].memory, 0x5A, blocks[i].bytes);
    free(blocks[i].memory);
    blocks[i].memory = NULL;
    return 0;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    NEED_CONTEXT;
    return memcpy((void *)(uintptr_t)to, from, bytes), 0;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    NEED(stream->alive, MISUSE);
    return cuMemcpyHtoD_v2(to, from, bytes);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    NEED_CONTEXT;
    NEED(stream->alive, MISUSE);
    return memcpy(to, (void *)(uintptr_t)from, bytes), 0;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    NEED(depth > 0 && flags == CU_STREAM_NON_BLOCKING, MISUSE);
    return *stream = calloc(1, sizeof **stream), (*stream)->alive = 1, 0;
}
CUresult cuStreamDestroy_v2(CUstream stream) { NEED(stream->alive, MISUSE); return stream->alive = 0, 0; }
CUresult cuStreamSynchronize(CUstream stream) { NEED(stream->alive, MISUSE); return note("synchronize\n"), 0; }
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    (void)stream;
    NEED_CONTEXT;
    NEED(event->alive && !flags, MISUSE);
    return note("wait%s\n", event->recorded ? "" : " for nothing"), 0;
}
CUresult cuStreamIsCapturing(CUstream stream, int *status) { /* `capturing` may be an error of the default stream */
    if (stub.capturing > 2) return stream ? 0 : stub.capturing;
    return *status = stub.capturing, 0;
}
CUresult cuEventCreate(CUevent *event, unsigned flags) {
    (void)flags;
    NEED_CONTEXT;
    return *event = calloc(1, sizeof **event), (*event)->alive = 1, 0;
}
CUresult cuEventDestroy_v2(CUevent event) { NEED(event->alive, MISUSE); return event->alive = 0, 0; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
    (void)stream;
    NEED_CONTEXT;
    NEED(event->alive, MISUSE);
    return event->recorded = 1, note("record\n"), 0;
}
CUresult cuEventSynchronize(CUevent event) {
    NEED(event->alive, MISUSE);
    return note("await\n"), 0;
}
CUresult cuEventElapsedTime(float *milliseconds, CUevent first, CUevent last) {
    NEED(first->recorded && last->recorded, MISUSE);
    return *milliseconds = 0.5f, 0;
}

static CUresult run(const CUDA_KERNEL_NODE_PARAMS *launch, void **parameters) {
    CUfunction function = launch->func;
    NEED(launch->gridDimX > 0 && launch->gridDimY == 1 && launch->gridDimZ == 1, MISUSE);
    NEED(launch->blockDimY == 1 && launch->blockDimZ == 1 && (int)launch->sharedMemBytes <= function->shared, MISUSE);
    note("%s %ux%u\n", function->name, launch->gridDimX, launch->blockDimX);
    for (unsigned block = 0; block < launch->gridDimX; ++block) function->kernel(block, launch->blockDimX, parameters);
    return 0;
}
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty,
                        unsigned tz, unsigned shared, CUstream stream, void **parameters, void **extra) {
    NEED_CONTEXT;
    NEED(stream->alive && !extra, MISUSE);
    return run(&(CUDA_KERNEL_NODE_PARAMS){function, x, y, z, threads, ty, tz, shared, NULL, NULL}, parameters);
}

static void set_node(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *launch) {
    node->launch = *launch;
    int last = launch->func->parameters - 1;
    for (int i = 0; i < last; ++i) memcpy(&node->values[i], launch->kernelParams[i], sizeof(uint64_t));
    memcpy(&node->values[last], launch->kernelParams[last], sizeof(int32_t));
}
CUresult cuGraphCreate(CUgraph *graph, unsigned flags) { (void)flags; return *graph = calloc(1, sizeof **graph), 0; }
CUresult cuGraphDestroy(CUgraph graph) { return free(graph), 0; }
CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies, size_t count,
                              const CUDA_KERNEL_NODE_PARAMS *launch) {
    NEED_CONTEXT;
    *node = &graph->nodes[graph->count++];
    set_node(*node, launch);
    (*node)->dependencies = count;
    for (size_t i = 0; i < count; ++i) (*node)->before[i] = (int)(dependencies[i] - graph->nodes);
    return 0;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    NEED(!flags, MISUSE);
    *exec = calloc(1, sizeof **exec);
    (*exec)->graph = graph;
    memcpy((*exec)->nodes, graph->nodes, sizeof graph->nodes);
    return note("instantiate\n"), 0;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) { return free(exec), 0; }
CUresult cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *launch) {
    NEED_CONTEXT;
    note("redirect %s\n", launch->func->name);
    return set_node(&exec->nodes[node - exec->graph->nodes], launch), 0;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    NEED_CONTEXT;
    (void)stream;
    nanosleep(&(struct timespec){0, 50000}, NULL); /* so that calls of several threads meet */
    int done[NODES] = {0};
    for (int left = exec->graph->count; left > 0; --left) {
        int next = exec->graph->count, ready = 0;
        while (!ready) {
            NEED(--next >= 0, MISUSE);
            ready = !done[next];
            for (size_t i = 0; i < exec->nodes[next].dependencies; ++i) ready &= done[exec->nodes[next].before[i]];
        }
        void *parameters[PARAMETERS];
        for (int i = 0; i < PARAMETERS; ++i) parameters[i] = &exec->nodes[next].values[i];
        CUresult result = run(&exec->nodes[next].launch, parameters);
        if (result) return result;
        done[next] = 1;
    }
    return 0;
}
