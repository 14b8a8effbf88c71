// libcuda.so.1 over the emulator: one device whose modules are host libraries (`emulated` in __init__.py).
//
// It does what the CUDA driver API promises as late as it may (work.h), keeps host and device memory apart, and checks
// handles. Types are the API's up to names; handles are addresses of the structures here.
#include "driver.h"

namespace {

struct Text {
    CUresult result;
    const char *name, *text;
};
constexpr Text TEXTS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};

long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? strtol(value, nullptr, 10) : otherwise;
}

// Copies between the two memories: `target` and `source` must lie where `to` and `from` the device say.
CUresult copy(uintptr_t target, bool to, uintptr_t source, bool from, size_t bytes, Stream *stream, bool at_once) {
    auto lies = [=](uintptr_t at, bool here) {
        return here ? device.holds(at, bytes) != nullptr : !device.holds(at, 0);
    };
    if (!lies(target, to) || !lies(source, from)) return CUDA_ERROR_INVALID_VALUE;
    auto run = [=] {
        if (!device.lost) memcpy(reinterpret_cast<void *>(target), reinterpret_cast<void *>(source), bytes);
    };
    CUresult result = add(stream, run);
    return result || !at_once ? result : wait(stream);
}

CUresult fill(uintptr_t target, uint8_t value, size_t bytes, Stream *stream) {
    if (!device.holds(target, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return add(stream, [=] {
        if (!device.lost) memset(reinterpret_cast<void *>(target), value, bytes);
    });
}

}  // namespace

// ---- For tests: the device. cuInit reads SIMT_ARCH, SIMT_PROCESSORS, SIMT_DEVICES, SIMT_SEED, SIMT_MEMORY ----

API simt_device(int arch, int processors, uint64_t seed, size_t memory) {
    LOCK;
    device.arch = arch, device.processors = processors, device.memory = memory;
    device.queue.random.seed(seed);
    return CUDA_SUCCESS;
}

// As a new process would, after a kernel that failed.
API simt_recover() {
    LOCK;
    device.lost = CUDA_SUCCESS;
    return CUDA_SUCCESS;
}

extern "C" __attribute__((visibility("default"))) size_t simt_launches() { return device.launches; }
extern "C" __attribute__((visibility("default"))) size_t simt_allocated() { return device.used; }

// ---- Initialization, device, context ----

API cuInit(unsigned flags) {
    LOCK;
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (device.initialized) return device.process == getpid() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
    device.arch = int(setting("SIMT_ARCH", device.arch));
    device.processors = int(setting("SIMT_PROCESSORS", device.processors));
    device.count = int(setting("SIMT_DEVICES", device.count));
    device.memory = size_t(setting("SIMT_MEMORY", long(device.memory)));
    if (const char *seed = getenv("SIMT_SEED")) device.queue.random.seed(strtoull(seed, nullptr, 10));
    if (!device.count) return CUDA_ERROR_NO_DEVICE;
    device.process = getpid();
    device.initialized = true;
    return CUDA_SUCCESS;
}

API cuDriverGetVersion(int *version) {
    LOCK;
    *version = 13000;
    return CUDA_SUCCESS;
}

API cuDeviceGetCount(int *count) {
    LOCK;
    *count = device.count ? 1 : 0;
    return CUDA_SUCCESS;
}

API cuDeviceGet(int *got, int ordinal) {
    LOCK;
    *got = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

API cuDeviceGetName(char *name, int length, int) {
    LOCK;
    snprintf(name, length, "emulated sm_%d", device.arch);
    return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int) {
    LOCK;
    switch (attribute) {
        case 1: *value = 1024; break;                // CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        case 8: *value = 48 << 10; break;            // ..._MAX_SHARED_MEMORY_PER_BLOCK
        case 10: *value = 32; break;                 // ..._WARP_SIZE
        case 16: *value = device.processors; break;  // ..._MULTIPROCESSOR_COUNT
        case 75: *value = device.arch / 10; break;   // ..._COMPUTE_CAPABILITY_MAJOR
        case 76: *value = device.arch % 10; break;
        case 97: *value = device.most_shared(); break;  // ..._MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRetain(Context **context, int) {
    LOCK;
    *context = &device;
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) {
    LOCK;
    return CUDA_SUCCESS;
}

API cuCtxPushCurrent_v2(Context *context) {
    LOCK;
    if (context != &device) return CUDA_ERROR_INVALID_CONTEXT;
    if (device.process != getpid()) return CUDA_ERROR_NOT_INITIALIZED;
    contexts.push_back(context);
    return CUDA_SUCCESS;
}

API cuCtxPopCurrent_v2(Context **context) {
    LOCK;
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}

API cuCtxSetCurrent(Context *context) {
    LOCK;
    if (!contexts.empty()) contexts.pop_back();
    if (context) contexts.push_back(context);
    return CUDA_SUCCESS;
}

API cuCtxGetCurrent(Context **context) {
    LOCK;
    *context = current();
    return CUDA_SUCCESS;
}

API cuCtxSynchronize() {
    READY;
    device.queue.wait_for_all();
    return device.lost;
}

API cuGetErrorName(CUresult error, const char **name) {
    LOCK;
    for (const Text &t : TEXTS)
        if (t.result == error) return *name = t.name, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}

API cuGetErrorString(CUresult error, const char **text) {
    LOCK;
    for (const Text &t : TEXTS)
        if (t.result == error) return *text = t.text, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}

// ---- Modules and functions ----

API cuModuleLoadData(Module **module, const void *image) {
    READY;
    return device.load(module, image);
}

API cuModuleLoadDataEx(Module **module, const void *image, unsigned, int *, void **) {
    READY;
    return device.load(module, image);
}

API cuModuleUnload(Module *module) {
    READY;
    return device.unload(module);
}

API cuModuleGetFunction(Function **f, Module *module, const char *name) {
    READY;
    return device.find(f, module, name);
}

API cuFuncSetAttribute(Function *f, int attribute, int value) {
    READY;
    if (!device.functions.count(f)) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == 9) return CUDA_SUCCESS;  // CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (attribute != 8 || value < 0 || value + int(f->about.static_shared) > device.most_shared())
        return CUDA_ERROR_INVALID_VALUE;
    f->most_dynamic = value;
    return CUDA_SUCCESS;
}

API cuFuncGetAttribute(int *value, int attribute, Function *f) {
    READY;
    if (!device.functions.count(f)) return CUDA_ERROR_INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = f->about.most_threads; break;        // CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        case 1: *value = int(f->about.static_shared); break;  // ..._SHARED_SIZE_BYTES
        case 8: *value = f->most_dynamic; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

// ---- Memory ----

API cuMemAlloc_v2(uintptr_t *memory, size_t bytes) {
    READY;
    return device.allocate(memory, bytes);
}

API cuMemFree_v2(uintptr_t memory) {
    READY;
    return device.release(memory);
}

API cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t n) {
    READY;
    return copy(to, true, uintptr_t(from), false, n, nullptr, true);
}

API cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t n) {
    READY;
    return copy(uintptr_t(to), false, from, true, n, nullptr, true);
}

API cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t n, Stream *stream) {
    READY;
    return copy(to, true, uintptr_t(from), false, n, stream, false);
}

API cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t n, Stream *stream) {
    READY;
    return copy(uintptr_t(to), false, from, true, n, stream, false);
}

API cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t n, Stream *stream) {
    READY;
    return copy(to, true, from, true, n, stream, false);
}

API cuMemsetD8_v2(uintptr_t to, unsigned char value, size_t n) {
    READY;
    CUresult result = fill(to, value, n, nullptr);
    return result ? result : wait(nullptr);
}

API cuMemsetD8Async(uintptr_t to, unsigned char value, size_t n, Stream *stream) {
    READY;
    return fill(to, value, n, stream);
}
