// What the two halves of the emulated driver share.
#pragma once

#include <mutex>

#include "device.h"

using simt::Function;
using simt::Module;
using simt::Stream;
using simt::Work;

using Context = simt::Device;

inline simt::Device device;
inline std::recursive_mutex one;
inline thread_local std::vector<Context *> contexts;
inline Context *current() { return contexts.empty() ? nullptr : contexts.back(); }

inline CUresult ready() {
    if (!device.initialized || device.process != getpid()) return CUDA_ERROR_NOT_INITIALIZED;
    return current() ? device.lost : CUDA_ERROR_INVALID_CONTEXT;
}

inline CUresult add(Stream *handle, std::function<void()> run, Work *work = nullptr, const Work &also = nullptr) {
    Stream *stream = device.queue.find(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    Work got = device.queue.submit(stream, std::move(run), also);
    if (work) *work = got;
    return CUDA_SUCCESS;
}

inline CUresult wait(Stream *handle) {
    Stream *stream = device.queue.find(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    // the legacy stream is behind all blocking ones
    device.queue.wait(handle ? stream->last : device.queue.submit(stream, [] {}));
    return device.lost;
}

// Every function holds the lock. READY: initialized, with a context, and no kernel has failed.
#define API extern "C" __attribute__((visibility("default"))) CUresult
#define LOCK std::lock_guard<std::recursive_mutex> lock(one)
#define READY \
    LOCK;     \
    if (CUresult not_ready = ready()) return not_ready
