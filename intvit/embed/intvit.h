/* A compiled intvit model: what a program without Python calls. Link model.o, or load model.so; example.c does both, and
   runtime.c is all else that it needs.

   All functions may be called from any thread; intvit_run at once from several, each with its own workspace.
   A program links one model.o; several models are loaded as model.so. */
#ifndef INTVIT_H
#define INTVIT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { INTVIT_READY, INTVIT_CPU_LACKS_INSTRUCTIONS, INTVIT_AMX_REFUSED };
enum { INTVIT_DONE, INTVIT_OUT_OF_MEMORY, INTVIT_NOT_READY, INTVIT_NOT_ALIGNED };

/* INTVIT_READY, or why the model can not run on this machine. */
int32_t intvit_ready(void);

/* The instructions that are used, the best of the model's variants that this machine has; where it has none, their list. */
const char *intvit_target(void);

/* JSON: name, input and output shapes, scales, preprocessing, labels, digest. */
const char *intvit_metadata(void);

/* Bytes of one image, and of the output of one image: of the model's index-th, 0 where it has no more. */
int64_t intvit_image_bytes(void);
int64_t intvit_output_bytes(int32_t index);

/* Bytes of memory that intvit_run needs for a batch beside its images and outputs, aligned to 64 bytes. */
int64_t intvit_workspace_bytes(int64_t batch);

/* Runs a batch. images: uint8 [batch, height, width, channels]; outputs[i]: the model's i-th output, [batch, ...] of the
   metadata's shape, int32. All pointers are aligned to 64 bytes. INTVIT_DONE, or what went wrong. */
int32_t intvit_run(const uint8_t *images, int64_t batch, void *const *outputs, void *workspace);

#ifdef __cplusplus
}
#endif
#endif
