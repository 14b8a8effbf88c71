/* What a compiled module calls of NVIDIA's driver, libcuda.so.1, which is loaded when a device is opened.

   Names, types and numbers are those of the CUDA driver API (https://docs.nvidia.com/cuda/cuda-driver-api); nothing of
   the CUDA toolkit is needed to compile a module. All functions are in drivers since CUDA 11.4. */
#ifndef INTVIT_CUDA_DRIVER_H
#define INTVIT_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

enum {
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
};
enum {
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};
enum { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
enum { CU_STREAM_NON_BLOCKING = 1, CU_EVENT_DEFAULT = 0, CU_EVENT_DISABLE_TIMING = 2 };

typedef int CUresult, CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

typedef struct {
    CUfunction func;
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void **kernelParams, **extra;
} CUDA_KERNEL_NODE_PARAMS;

/* F(name, its name in the library, its parameters) */
#define CUDA_FUNCTIONS(F)                                                                                              \
    F(Init, "cuInit", unsigned flags)                                                                                  \
    F(DriverGetVersion, "cuDriverGetVersion", int *version)                                                            \
    F(GetErrorName, "cuGetErrorName", CUresult error, const char **name)                                               \
    F(GetErrorString, "cuGetErrorString", CUresult error, const char **text)                                           \
    F(DeviceGetCount, "cuDeviceGetCount", int *count)                                                                  \
    F(DeviceGet, "cuDeviceGet", CUdevice *device, int ordinal)                                                         \
    F(DeviceGetName, "cuDeviceGetName", char *name, int length, CUdevice device)                                       \
    F(DeviceGetAttribute, "cuDeviceGetAttribute", int *value, int attribute, CUdevice device)                          \
    F(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", CUcontext *context, CUdevice device)                         \
    F(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", CUdevice device)                                        \
    F(CtxPushCurrent, "cuCtxPushCurrent_v2", CUcontext context)                                                        \
    F(CtxPopCurrent, "cuCtxPopCurrent_v2", CUcontext *context)                                                         \
    F(ModuleLoadData, "cuModuleLoadData", CUmodule *module, const void *image)                                         \
    F(ModuleUnload, "cuModuleUnload", CUmodule module)                                                                 \
    F(ModuleGetFunction, "cuModuleGetFunction", CUfunction *function, CUmodule module, const char *name)               \
    F(FuncSetAttribute, "cuFuncSetAttribute", CUfunction function, int attribute, int value)                           \
    F(MemAlloc, "cuMemAlloc_v2", CUdeviceptr *memory, size_t bytes)                                                    \
    F(MemFree, "cuMemFree_v2", CUdeviceptr memory)                                                                     \
    F(MemcpyHtoD, "cuMemcpyHtoD_v2", CUdeviceptr to, const void *from, size_t bytes)                                   \
    F(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", CUdeviceptr to, const void *from, size_t bytes, CUstream stream)        \
    F(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", void *to, CUdeviceptr from, size_t bytes, CUstream stream)              \
    F(StreamCreate, "cuStreamCreate", CUstream *stream, unsigned flags)                                                \
    F(StreamDestroy, "cuStreamDestroy_v2", CUstream stream)                                                            \
    F(StreamSynchronize, "cuStreamSynchronize", CUstream stream)                                                       \
    F(StreamWaitEvent, "cuStreamWaitEvent", CUstream stream, CUevent event, unsigned flags)                            \
    F(StreamIsCapturing, "cuStreamIsCapturing", CUstream stream, int *status)                                          \
    F(EventCreate, "cuEventCreate", CUevent *event, unsigned flags)                                                    \
    F(EventDestroy, "cuEventDestroy_v2", CUevent event)                                                                \
    F(EventRecord, "cuEventRecord", CUevent event, CUstream stream)                                                    \
    F(EventSynchronize, "cuEventSynchronize", CUevent event)                                                           \
    F(EventElapsedTime, "cuEventElapsedTime", float *milliseconds, CUevent first, CUevent last)                        \
    F(GraphCreate, "cuGraphCreate", CUgraph *graph, unsigned flags)                                                    \
    F(GraphDestroy, "cuGraphDestroy", CUgraph graph)                                                                   \
    F(GraphAddKernelNode, "cuGraphAddKernelNode", CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,   \
      size_t count, const CUDA_KERNEL_NODE_PARAMS *parameters)                                                         \
    F(GraphInstantiate, "cuGraphInstantiateWithFlags", CUgraphExec *exec, CUgraph graph, unsigned long long flags)     \
    F(GraphExecDestroy, "cuGraphExecDestroy", CUgraphExec exec)                                                        \
    F(GraphExecKernelNodeSetParams, "cuGraphExecKernelNodeSetParams", CUgraphExec exec, CUgraphNode node,              \
      const CUDA_KERNEL_NODE_PARAMS *parameters)                                                                       \
    F(GraphLaunch, "cuGraphLaunch", CUgraphExec exec, CUstream stream)                                                 \
    F(LaunchKernel, "cuLaunchKernel", CUfunction function, unsigned gridDimX, unsigned gridDimY, unsigned gridDimZ,    \
      unsigned blockDimX, unsigned blockDimY, unsigned blockDimZ, unsigned sharedMemBytes, CUstream stream,            \
      void **kernelParams, void **extra)

#define CUDA_FIELD(name, symbol, ...) CUresult (*name)(__VA_ARGS__);
struct cuda_driver {
    CUDA_FUNCTIONS(CUDA_FIELD)
};

#endif
