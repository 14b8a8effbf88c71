/* A model compiled for NVIDIA GPUs: what a program without Python calls. Load model.so with dlopen; it needs nothing
   but NVIDIA's driver.

   All functions may be called from any thread. Functions that return int32_t return 0, or a negative number of the
   list below; intvit_cuda_error() tells in one line what went wrong. Devices have the numbers that CUDA gives them. */
#ifndef INTVIT_CUDA_H
#define INTVIT_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    INTVIT_CUDA_DONE = 0,
    INTVIT_CUDA_NO_DRIVER = -1,
    INTVIT_CUDA_NO_DEVICE = -2,
    INTVIT_CUDA_OTHER_DEVICE = -3, /* no machine code in the module fits this GPU */
    INTVIT_CUDA_OLD_DRIVER = -4,
    INTVIT_CUDA_OUT_OF_MEMORY = -5,
    INTVIT_CUDA_BATCH = -6,
    INTVIT_CUDA_NOT_ALIGNED = -7,
    INTVIT_CUDA_CAPTURING = -8, /* the stream, or one that it waits for, is being captured into a CUDA graph */
    INTVIT_CUDA_FORKED = -9,    /* CUDA works in the process that began with it, not in its children */
    INTVIT_CUDA_FAILED = -10,
};

/* Why the last call of this thread that failed did so. */
const char *intvit_cuda_error(void);

/* JSON: name, input and output shapes, scales, preprocessing, labels, digest. */
const char *intvit_metadata(void);

/* What the module holds for GPUs: its index-th image, machine code for an architecture such as "sm_90" (ELF), or "PTX"
   (text), and its index-th kernel; NULL where there are no more. */
const uint8_t *intvit_cuda_image(int32_t index, const char **name, int64_t *bytes);
const char *intvit_cuda_kernel(int32_t index);

/* Bytes of one image, and of the output of one image: of the model's index-th, 0 where it has no more. */
int64_t intvit_image_bytes(void);
int64_t intvit_output_bytes(int32_t index);

/* Bytes of a device's memory that a batch takes beside its images and outputs; kept for the next one of that size. */
int64_t intvit_workspace_bytes(int64_t batch);

/* Puts the model on a device, if it is not there yet. Running does so, too. */
int32_t intvit_cuda_open(int32_t device);

/* Takes the model off a device: waits for its runs and frees its memory. */
int32_t intvit_cuda_close(int32_t device);

/* Runs a batch when `stream` (a CUstream or cudaStream_t of the device's primary context, NULL for its default) comes
   to it. images: uint8 [batch, height, width, channels]; outputs[i]: the model's i-th output, [batch, ...] of the
   metadata's shape, int32, aligned to 16 bytes; all in the device's memory. */
int32_t intvit_cuda_run(int32_t device, const void *images, int64_t batch, void *const *outputs, void *stream);

/* The same with images and outputs in the host's memory; returns when it is done. */
int32_t intvit_cuda_run_host(int32_t device, const void *images, int64_t batch, void *const *outputs);

/* The time that each step of a batch takes on the device, run `repeats` times on its own. */
int32_t intvit_cuda_profile(int32_t device, int64_t batch, int32_t repeats, float *microseconds);

#ifdef __cplusplus
}
#endif
#endif
