/* Part of cuda.c: the driver, and putting the model on a device. Its plans are made and run in cuda.c. */
#ifndef INTVIT_CUDA_DEVICE_H
#define INTVIT_CUDA_DEVICE_H

#include "cuda_driver.h"
#include "cuda_tables.h"
#include "intvit_cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* In glibc 2.34 these moved to libc. Under their old version they are found before and after. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5\n.symver dlsym,dlsym@GLIBC_2.2.5\n.symver dlclose,dlclose@GLIBC_2.2.5\n"
        ".symver dlerror,dlerror@GLIBC_2.2.5");
#endif

#ifndef INTVIT_DRIVER /* model.h may name another library */
#define INTVIT_DRIVER "libcuda.so.1"
#endif

enum { DEVICES = 16, PLANS = 16, ALIGNMENT = 16, STAGED = 256, PLAIN_SHARED = 48 << 10, LEAST = 75 };

struct batch {
    int64_t size;
    CUdeviceptr images, outputs[INTVIT_OUTPUTS];
};

struct plan {
    struct batch batch;
    uint64_t used; /* when, by the device's clock; 0: there is no plan here */
    CUdeviceptr workspace;
    CUgraph graph;
    CUgraphNode nodes[STEPS];
    CUgraphExec exec;
    CUevent done; /* the last run, on `stream` */
    CUstream stream;
};

static struct device {
    CUdevice handle;
    CUcontext context; /* NULL where the model is not on the device */
    char name[64];
    int architecture, processors;
    CUmodule module;
    CUfunction functions[KERNELS];
    CUdeviceptr constants, staging; /* images and outputs of the host */
    size_t staged;
    CUstream stream;
    CUevent first, last;
    uint64_t clock;
    struct plan plans[PLANS];
} devices[DEVICES];
static pthread_mutex_t locks[DEVICES];

/* CUDA is lost in a child of a process that uses it, and a lock may be held there for ever. */
static int started, forked;
static void after_fork(void) { forked = started; }

__attribute__((constructor)) static void prepare(void) {
    for (int i = 0; i < DEVICES; ++i) pthread_mutex_init(&locks[i], NULL);
    pthread_atfork(NULL, NULL, after_fork);
}

/* Errors */

static struct cuda_driver cu;
static _Thread_local char error_text[512];

__attribute__((format(printf, 2, 3))) static int32_t fail(int32_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    return status;
}

static const char *error_name(CUresult result) {
    const char *name = NULL;
    cu.GetErrorName(result, &name);
    return name ? name : "an unknown error";
}

static int32_t failed(CUresult result, const char *function) {
    const char *text = NULL;
    cu.GetErrorString(result, &text);
    int32_t status = result == CUDA_ERROR_OUT_OF_MEMORY ? INTVIT_CUDA_OUT_OF_MEMORY : INTVIT_CUDA_FAILED;
    return fail(status, "%s: %s (%s)", function, error_name(result), text ? text : "no text");
}

static int32_t fork_failed(void) {
    return fail(INTVIT_CUDA_FORKED, "this process was forked from one that used the GPU, where CUDA does not work: "
                                    "start it anew (in Python's multiprocessing with \"spawn\")");
}

#define TRY(name, ...)                                          \
    do {                                                        \
        CUresult result_ = cu.name(__VA_ARGS__);                \
        if (result_) return failed(result_, "cu" #name);        \
    } while (0)

/* The driver */

static int32_t load_driver(void) {
#define CUDA_ENTRY(name, symbol, ...) {symbol, &cu.name},
    static const struct {
        const char *symbol;
        void *function;
    } table[] = {CUDA_FUNCTIONS(CUDA_ENTRY)};
    void *library = dlopen(INTVIT_DRIVER, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        return fail(INTVIT_CUDA_NO_DRIVER, "no NVIDIA driver: %s cannot be loaded (%s)", INTVIT_DRIVER,
                    reason ? reason : "no reason given");
    }
    for (unsigned i = 0; i < COUNT(table); ++i) {
        void *found = dlsym(library, table[i].symbol);
        if (!found) {
            dlclose(library);
            return fail(INTVIT_CUDA_OLD_DRIVER, "the NVIDIA driver is too old, it has no %s: install 470 or newer",
                        table[i].symbol);
        }
        memcpy(table[i].function, &found, sizeof found);
    }
    CUresult result = cu.Init(0);
    if (result == CUDA_ERROR_NOT_INITIALIZED) return fork_failed();
    if (result == CUDA_ERROR_NO_DEVICE) {
        return fail(INTVIT_CUDA_NO_DEVICE, "the NVIDIA driver shows no GPU: check CUDA_VISIBLE_DEVICES and nvidia-smi");
    }
    return result ? failed(result, "cuInit") : INTVIT_CUDA_DONE;
}

static int32_t start_driver(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    int32_t status = started ? INTVIT_CUDA_DONE : load_driver();
    started = !status;
    pthread_mutex_unlock(&lock);
    return status;
}

/* Memory. Plans that were not used for long make room. */

static void destroy(struct plan *plan) {
    if (plan->done) cu.EventSynchronize(plan->done);
    if (plan->exec) cu.GraphExecDestroy(plan->exec);
    if (plan->graph) cu.GraphDestroy(plan->graph);
    if (plan->done) cu.EventDestroy(plan->done);
    if (plan->workspace) cu.MemFree(plan->workspace);
    *plan = (struct plan){0};
}

/* The plan that was not used for the longest time: with `least` 0 one that is not there, if any. */
static struct plan *oldest(struct device *d, uint64_t least) {
    struct plan *found = NULL;
    for (struct plan *plan = d->plans; plan < d->plans + PLANS; ++plan) {
        if (plan->used >= least && (!found || plan->used < found->used)) found = plan;
    }
    return found;
}

static int32_t allocate(struct device *d, size_t bytes, const char *what, CUdeviceptr *memory) {
    CUresult result = cu.MemAlloc(memory, bytes ? bytes : 1);
    for (struct plan *plan; result == CUDA_ERROR_OUT_OF_MEMORY && (plan = oldest(d, 1));) {
        destroy(plan);
        result = cu.MemAlloc(memory, bytes ? bytes : 1);
    }
    if (result != CUDA_ERROR_OUT_OF_MEMORY) return result ? failed(result, "cuMemAlloc") : INTVIT_CUDA_DONE;
    return fail(INTVIT_CUDA_OUT_OF_MEMORY,
                "GPU %d (%s) is out of memory: %s needs %.1f MB more; torch keeps memory of its own, which "
                "torch.cuda.empty_cache() gives back", (int)(d - devices), d->name, what, (double)bytes / 1e6);
}

/* Putting the model on a device */

static int fits(const struct image *image, int architecture) {
    if (image->is_ptx) return image->architecture <= architecture;
    int exact = strchr(image->name, 'a') != NULL; /* sm_90a is for 90 alone */
    return image->architecture / 10 == architecture / 10 &&
           (exact ? image->architecture == architecture : image->architecture <= architecture);
}

static const struct image *image_for(int architecture) {
    const struct image *best = NULL;
    for (const struct image *image = images; image < images + COUNT(images); ++image) {
        if (!fits(image, architecture)) continue;
        int closer = !best || image->architecture > best->architecture;
        if (!best || image->is_ptx < best->is_ptx || (image->is_ptx == best->is_ptx && closer)) best = image;
    }
    return best;
}

static int32_t no_image(const struct device *d) {
    char names[256] = "";
    for (unsigned i = 0; i < COUNT(images); ++i) {
        if (images[i].is_ptx && i) continue; /* that of the newest architecture before it */
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", images[i].name);
    }
    const char *remedy = d->architecture < LEAST ? "compute capability 7.5 is the least that works"
                                                 : "compile there with --target cuda";
    return fail(INTVIT_CUDA_OTHER_DEVICE, "compiled for %s, this GPU is sm_%d (%s): %s", names, d->architecture,
                d->name, remedy);
}

static int32_t find_device(struct device *d, int number) {
    int devices_here = 0, major = 0, minor = 0;
    TRY(DeviceGetCount, &devices_here);
    if (number >= devices_here) {
        return fail(INTVIT_CUDA_NO_DEVICE, "there is no GPU %d: the driver shows %d, numbered from 0", number,
                    devices_here);
    }
    TRY(DeviceGet, &d->handle, number);
    TRY(DeviceGetName, d->name, sizeof d->name, d->handle);
    TRY(DeviceGetAttribute, &d->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, d->handle);
    TRY(DeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, d->handle);
    TRY(DeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, d->handle);
    d->architecture = 10 * major + minor;
    return INTVIT_CUDA_DONE;
}

static int32_t load_image(struct device *d, const struct image *image) {
    CUresult result = cu.ModuleLoadData(&d->module, image->begin);
    if (result != CUDA_ERROR_UNSUPPORTED_PTX_VERSION && result != CUDA_ERROR_INVALID_PTX &&
        result != CUDA_ERROR_NO_BINARY_FOR_GPU && result != CUDA_ERROR_INVALID_IMAGE) {
        return result ? failed(result, "cuModuleLoadData") : INTVIT_CUDA_DONE;
    }
    int version = 0;
    cu.DriverGetVersion(&version);
    return fail(INTVIT_CUDA_OLD_DRIVER,
                "the NVIDIA driver (for CUDA %d.%d) is too old for this module's code (%s, %s): update the driver, or "
                "compile with CUDA 12: pip install nvidia-cuda-nvrtc-cu12 in the place of nvidia-cuda-nvrtc",
                version / 1000, version % 1000 / 10, image->name, error_name(result));
}

static int32_t load_kernels(struct device *d) {
    int most_shared = 0;
    TRY(DeviceGetAttribute, &most_shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, d->handle);
    for (unsigned i = 0; i < KERNELS; ++i) {
        TRY(ModuleGetFunction, &d->functions[i], d->module, kernels[i].name);
        if (kernels[i].shared_bytes <= PLAIN_SHARED) continue;
        if (kernels[i].shared_bytes > (uint32_t)most_shared) {
            return fail(INTVIT_CUDA_OTHER_DEVICE,
                        "%s needs %u bytes of shared memory, this GPU (%s) has %d: compile there with --target cuda",
                        kernels[i].name, kernels[i].shared_bytes, d->name, most_shared);
        }
        TRY(FuncSetAttribute, d->functions[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            (int)kernels[i].shared_bytes);
    }
    return INTVIT_CUDA_DONE;
}

static int32_t load(struct device *d, const struct image *image) {
    int32_t status = load_image(d, image);
    if (!status) status = load_kernels(d);
    if (!status) status = allocate(d, INTVIT_CONSTANT_BYTES, "the model", &d->constants);
    if (status) return status;
    if (INTVIT_CONSTANT_BYTES) TRY(MemcpyHtoD, d->constants, intvit_constants, INTVIT_CONSTANT_BYTES);
    TRY(StreamCreate, &d->stream, CU_STREAM_NON_BLOCKING);
    TRY(EventCreate, &d->first, CU_EVENT_DEFAULT);
    TRY(EventCreate, &d->last, CU_EVENT_DEFAULT);
    return INTVIT_CUDA_DONE;
}

static void unload(struct device *d) {
    for (int i = 0; i < PLANS; ++i) destroy(&d->plans[i]);
    if (d->last) cu.EventDestroy(d->last);
    if (d->first) cu.EventDestroy(d->first);
    if (d->stream) cu.StreamDestroy(d->stream);
    if (d->staging) cu.MemFree(d->staging);
    if (d->constants) cu.MemFree(d->constants);
    if (d->module) cu.ModuleUnload(d->module);
    *d = (struct device){0};
}

static int32_t make_current(const struct device *d) {
    TRY(CtxPushCurrent, d->context);
    return INTVIT_CUDA_DONE;
}

/* With the device's context current, as after open_device. */
static void close_device(struct device *d) {
    CUdevice handle = d->handle;
    CUcontext popped;
    unload(d);
    cu.CtxPopCurrent(&popped);
    cu.DevicePrimaryCtxRelease(handle);
}

/* Leaves the device's context current, where it succeeds. */
static int32_t open_device(struct device *d, int number) {
    int32_t status = start_driver();
    if (!status) status = find_device(d, number);
    if (status) return status;
    const struct image *image = image_for(d->architecture);
    if (!image) return no_image(d);
    TRY(DevicePrimaryCtxRetain, &d->context, d->handle);
    status = make_current(d);
    if (status) {
        cu.DevicePrimaryCtxRelease(d->handle);
        d->context = NULL;
        return status;
    }
    status = load(d, image);
    if (status) close_device(d);
    return status;
}

static int32_t lock_device(int32_t number, struct device **locked) {
    if (forked) return fork_failed();
    if (number < 0 || number >= DEVICES) {
        return fail(INTVIT_CUDA_NO_DEVICE, "there is no GPU %d: they are numbered from 0", (int)number);
    }
    *locked = &devices[number];
    pthread_mutex_lock(&locks[number]);
    return INTVIT_CUDA_DONE;
}

/* Locks a device with the model on it and makes its context current; after a success, `leave` must follow. */
static int32_t enter(int32_t number, struct device **entered) {
    int32_t status = lock_device(number, entered);
    if (status) return status;
    struct device *d = *entered;
    status = d->context ? make_current(d) : open_device(d, number);
    if (status) pthread_mutex_unlock(&locks[number]);
    return status;
}

static int32_t leave(struct device *d, int32_t status) {
    CUcontext popped;
    cu.CtxPopCurrent(&popped);
    pthread_mutex_unlock(&locks[d - devices]);
    return status;
}

#endif
