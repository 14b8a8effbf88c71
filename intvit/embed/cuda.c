/* The part of a module for NVIDIA GPUs that is not kernels: it runs the model on devices.

   Of the machine it needs libcuda.so.1 alone. A batch size gets a plan once: memory for all values between images and
   outputs, and a CUDA graph of the steps' kernels, whose pointers to images and outputs follow those of the call.

   cuda_tables.h has the types of model.h's tables, which compiling a model writes beside this file, with:
     INTVIT_WORKSPACE       bytes between images and outputs at batch 1; a value with offset o lies at batch * o
     INTVIT_MOST_BATCH      the largest batch
     INTVIT_IMAGE_BYTES     of one image
     INTVIT_CONSTANT_BYTES  of constants.bin
     INTVIT_OUTPUTS         how many */
#define _POSIX_C_SOURCE 200809L
#include "cuda_device.h"

/* A step's kernel, launched for a batch. Parameters are copied when it is launched or put into a graph. */

struct call {
    CUDA_KERNEL_NODE_PARAMS node;
    CUdeviceptr pointers[ARGUMENTS];
    int32_t rows;
    void *parameters[ARGUMENTS + 1];
};

static int64_t blocks_of(const struct launch *launch, int64_t rows) {
    return (rows + launch->per - 1) / launch->per * launch->times;
}

/* The largest tiles that keep the device busy. */
static const struct launch *launch_for(const struct device *d, const struct step *step, int64_t rows) {
    const struct launch *launch = &launches[step->first_launch], *last = launch + step->launches - 1;
    while (launch < last && blocks_of(launch, rows) < d->processors) ++launch;
    return launch;
}

static CUdeviceptr address(const struct device *d, const struct plan *plan, const struct argument *argument) {
    const struct batch *batch = &plan->batch;
    switch (argument->role) {
        case IMAGE: return batch->images;
        case CONSTANT: return d->constants + (CUdeviceptr)argument->offset;
        case WORKSPACE: return plan->workspace + (CUdeviceptr)(batch->size * argument->offset);
        default: return batch->outputs[argument->offset];
    }
}

static void describe(const struct device *d, const struct plan *plan, const struct step *step, struct call *call) {
    int64_t rows = plan->batch.size * step->units;
    const struct launch *launch = launch_for(d, step, rows);
    const struct kernel *kernel = &kernels[launch->kernel];
    for (int32_t i = 0; i < step->arguments; ++i) {
        call->pointers[i] = address(d, plan, &arguments[step->first_argument + i]);
        call->parameters[i] = &call->pointers[i];
    }
    call->rows = (int32_t)rows;
    call->parameters[step->arguments] = &call->rows;
    call->node = (CUDA_KERNEL_NODE_PARAMS){
        .func = d->functions[launch->kernel],
        .gridDimX = (unsigned)blocks_of(launch, rows), .gridDimY = 1, .gridDimZ = 1,
        .blockDimX = kernel->threads, .blockDimY = 1, .blockDimZ = 1,
        .sharedMemBytes = kernel->shared_bytes,
        .kernelParams = call->parameters,
    };
}

static int32_t launch_alone(const struct call *call, CUstream stream) {
    const CUDA_KERNEL_NODE_PARAMS *node = &call->node;
    TRY(LaunchKernel, node->func, node->gridDimX, 1, 1, node->blockDimX, 1, 1, node->sharedMemBytes, stream,
        node->kernelParams, NULL);
    return INTVIT_CUDA_DONE;
}

/* Plans */

static int32_t build(struct device *d, struct plan *plan) {
    struct call call;
    int32_t status = allocate(d, (size_t)intvit_workspace_bytes(plan->batch.size), "the batch", &plan->workspace);
    if (status) return status;
    TRY(EventCreate, &plan->done, CU_EVENT_DISABLE_TIMING);
    TRY(GraphCreate, &plan->graph, 0);
    for (int i = 0, before = 0, phase = 0; i < STEPS; ++i) {
        if (steps[i].phase != steps[phase].phase) {
            before = phase;
            phase = i;
        }
        describe(d, plan, &steps[i], &call);
        TRY(GraphAddKernelNode, &plan->nodes[i], plan->graph, &plan->nodes[before], (size_t)(phase - before),
            &call.node);
    }
    TRY(GraphInstantiate, &plan->exec, plan->graph, 0);
    return INTVIT_CUDA_DONE;
}

static int moves(const struct step *step) {
    for (int32_t i = 0; i < step->arguments; ++i) {
        enum role role = arguments[step->first_argument + i].role;
        if (role == IMAGE || role == OUTPUT) return 1;
    }
    return 0;
}

/* Runs that were launched before keep their images and outputs. */
static int32_t redirect(const struct device *d, const struct plan *plan) {
    struct call call;
    for (int i = 0; i < STEPS; ++i) {
        if (!moves(&steps[i])) continue;
        describe(d, plan, &steps[i], &call);
        TRY(GraphExecKernelNodeSetParams, plan->exec, plan->nodes[i], &call.node);
    }
    return INTVIT_CUDA_DONE;
}

/* The plan of a batch: that of its size, or a new one in the place of the one that was used longest ago. */
static int32_t plan_for(struct device *d, const struct batch *batch, struct plan **found) {
    struct plan *plan = d->plans;
    while (plan < d->plans + PLANS && plan->batch.size != batch->size) ++plan;
    int is_new = plan == d->plans + PLANS;
    if (is_new) destroy(plan = oldest(d, 0));
    int32_t status = INTVIT_CUDA_DONE;
    if (memcmp(&plan->batch, batch, sizeof *batch) != 0) {
        plan->batch = *batch;
        status = is_new ? build(d, plan) : redirect(d, plan);
    }
    if (status) {
        destroy(plan);
        return status;
    }
    plan->used = ++d->clock;
    *found = plan;
    return INTVIT_CUDA_DONE;
}

/* A plan's memory is for one run at a time: this one waits for the last, on whatever stream that was. CUDA orders the
   launches of one graph, too, so that nothing is lost where a new stream has the address of an old one. */
static int32_t run_plan(struct plan *plan, CUstream stream) {
    if (plan->stream != stream) TRY(StreamWaitEvent, stream, plan->done, 0);
    TRY(GraphLaunch, plan->exec, stream);
    plan->stream = stream;
    TRY(EventRecord, plan->done, stream);
    return INTVIT_CUDA_DONE;
}

/* Running */

static int32_t require_size(int64_t size) {
    if (size >= 1 && size <= INTVIT_MOST_BATCH) return INTVIT_CUDA_DONE;
    return fail(INTVIT_CUDA_BATCH, "a batch must have 1 to %lld images, not %lld", (long long)INTVIT_MOST_BATCH,
                (long long)size);
}

/* Images may lie anywhere: they are read byte by byte. */
static int32_t require_aligned(const struct batch *batch) {
    CUdeviceptr bits = 0;
    for (int i = 0; i < INTVIT_OUTPUTS; ++i) bits |= batch->outputs[i];
    if (bits % ALIGNMENT == 0) return INTVIT_CUDA_DONE;
    return fail(INTVIT_CUDA_NOT_ALIGNED, "outputs must be aligned to %d bytes", ALIGNMENT);
}

static int32_t run_on(struct device *d, const struct batch *batch, CUstream stream) {
    int capturing = 0;
    CUresult result = cu.StreamIsCapturing(stream, &capturing);
    int other = result == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT; /* of one that the default stream would wait for */
    if (capturing || other) {
        return fail(INTVIT_CUDA_CAPTURING,
                    "%s stream is being captured, but the model is a CUDA graph already: run it outside of that",
                    other ? "another" : "the");
    }
    if (result) return failed(result, "cuStreamIsCapturing");
    struct plan *plan;
    int32_t status = plan_for(d, batch, &plan);
    return status ? status : run_plan(plan, stream);
}

static size_t staged_bytes(int64_t bytes) { return ((size_t)bytes + STAGED - 1) / STAGED * STAGED; }

/* Memory on the device for images and outputs, as large as the largest batch so far. */
static int32_t stage(struct device *d, struct batch *batch) {
    size_t bytes = staged_bytes(batch->size * INTVIT_IMAGE_BYTES);
    for (int i = 0; i < INTVIT_OUTPUTS; ++i) bytes += staged_bytes(batch->size * output_bytes[i]);
    if (bytes > d->staged) {
        if (d->staging) cu.MemFree(d->staging);
        d->staging = d->staged = 0;
        int32_t status = allocate(d, bytes, "the batch", &d->staging);
        if (status) return status;
        d->staged = bytes;
    }
    batch->images = d->staging;
    CUdeviceptr next = d->staging + staged_bytes(batch->size * INTVIT_IMAGE_BYTES);
    for (int i = 0; i < INTVIT_OUTPUTS; ++i) {
        batch->outputs[i] = next;
        next += staged_bytes(batch->size * output_bytes[i]);
    }
    return INTVIT_CUDA_DONE;
}

static int32_t copy_and_run(struct device *d, const struct batch *batch, const void *images, void *const *outputs) {
    struct plan *plan;
    int32_t status = plan_for(d, batch, &plan);
    if (status) return status;
    TRY(MemcpyHtoDAsync, batch->images, images, (size_t)(batch->size * INTVIT_IMAGE_BYTES), d->stream);
    status = run_plan(plan, d->stream);
    if (status) return status;
    for (int i = 0; i < INTVIT_OUTPUTS; ++i) {
        TRY(MemcpyDtoHAsync, outputs[i], batch->outputs[i], (size_t)(batch->size * output_bytes[i]), d->stream);
    }
    return INTVIT_CUDA_DONE;
}

/* Whatever happens, nothing uses the host's memory afterwards. */
static int32_t run_host_on(struct device *d, struct batch *batch, const void *images, void *const *outputs) {
    int32_t status = stage(d, batch);
    if (!status) status = copy_and_run(d, batch, images, outputs);
    CUresult waited = cu.StreamSynchronize(d->stream);
    return status || !waited ? status : failed(waited, "cuStreamSynchronize");
}

/* The first launch is not timed: it loads the kernel's code. */
static int32_t time_step(const struct device *d, const struct call *call, int32_t repeats, float *microseconds) {
    int32_t status = launch_alone(call, d->stream);
    TRY(EventRecord, d->first, d->stream);
    for (int32_t i = 0; i < repeats && !status; ++i) status = launch_alone(call, d->stream);
    if (status) return status;
    float milliseconds = 0;
    TRY(EventRecord, d->last, d->stream);
    TRY(EventSynchronize, d->last);
    TRY(EventElapsedTime, &milliseconds, d->first, d->last);
    *microseconds = milliseconds * 1000 / (float)repeats;
    return INTVIT_CUDA_DONE;
}

static int32_t profile_on(struct device *d, struct batch *batch, int32_t repeats, float *microseconds) {
    struct plan *plan;
    struct call call;
    int32_t status = stage(d, batch);
    if (!status) status = plan_for(d, batch, &plan);
    if (!status) status = run_plan(plan, d->stream); /* so that the values are those of a run */
    for (int i = 0; i < STEPS && !status; ++i) {
        describe(d, plan, &steps[i], &call);
        status = time_step(d, &call, repeats, &microseconds[i]);
    }
    return status;
}

/* The interface */

const char *intvit_cuda_error(void) { return error_text; }

const char *intvit_metadata(void) { return intvit_metadata_text; }

const uint8_t *intvit_cuda_image(int32_t index, const char **name, int64_t *bytes) {
    if (index < 0 || index >= (int32_t)COUNT(images)) return NULL;
    *name = images[index].name;
    *bytes = images[index].end - images[index].begin;
    return images[index].begin;
}

const char *intvit_cuda_kernel(int32_t index) { return index >= 0 && index < KERNELS ? kernels[index].name : NULL; }

int64_t intvit_image_bytes(void) { return INTVIT_IMAGE_BYTES; }

int64_t intvit_output_bytes(int32_t index) { return index >= 0 && index < INTVIT_OUTPUTS ? output_bytes[index] : 0; }

int64_t intvit_workspace_bytes(int64_t batch) { return batch * INTVIT_WORKSPACE; }

int32_t intvit_cuda_open(int32_t device) {
    struct device *d;
    int32_t status = enter(device, &d);
    return status ? status : leave(d, status);
}

int32_t intvit_cuda_close(int32_t device) {
    struct device *d = NULL;
    int32_t status = lock_device(device, &d);
    if (status) return status;
    if (d->context) status = make_current(d);
    if (d->context && !status) close_device(d);
    pthread_mutex_unlock(&locks[device]);
    return status;
}

int32_t intvit_cuda_run(int32_t device, const void *images, int64_t batch, void *const *outputs, void *stream) {
    struct batch described = {.size = batch, .images = (uintptr_t)images};
    for (int i = 0; i < INTVIT_OUTPUTS; ++i) described.outputs[i] = (uintptr_t)outputs[i];
    struct device *d;
    int32_t status = require_size(batch);
    if (!status) status = require_aligned(&described);
    if (!status) status = enter(device, &d);
    return status ? status : leave(d, run_on(d, &described, stream));
}

int32_t intvit_cuda_run_host(int32_t device, const void *images, int64_t batch, void *const *outputs) {
    struct batch described = {.size = batch};
    struct device *d;
    int32_t status = require_size(batch);
    if (!status) status = enter(device, &d);
    return status ? status : leave(d, run_host_on(d, &described, images, outputs));
}

int32_t intvit_cuda_profile(int32_t device, int64_t batch, int32_t repeats, float *microseconds) {
    struct batch described = {.size = batch};
    struct device *d;
    int32_t status = require_size(batch);
    if (!status && repeats < 1) status = fail(INTVIT_CUDA_BATCH, "repeats must be 1 or more, not %d", (int)repeats);
    if (!status) status = enter(device, &d);
    return status ? status : leave(d, profile_on(d, &described, repeats, microseconds));
}
