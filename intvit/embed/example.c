/* Runs a compiled model without Python and without TVM:

       example IMAGES OUTPUTS ./MODEL.so

   IMAGES holds raw pixels, uint8 [batch, height, width, channels]. OUTPUTS is written: all outputs of the model, one behind
   the other, int32 [batch, ...]. What cannot be done is said in one line, with exit status 2. With -DINTVIT_STATIC the
   model is a part of the program (model.o), and not named. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "intvit.h"

enum { ALIGNMENT = 64, MOST_OUTPUTS = 16, RUNS = 20, ENOUGH = 1000 /* milliseconds */ };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

static struct {
    int32_t (*ready)(void);
    const char *(*target)(void);
    int64_t (*image_bytes)(void), (*output_bytes)(int32_t index), (*workspace_bytes)(int64_t batch);
    int32_t (*run)(const uint8_t *images, int64_t batch, void *const *outputs, void *workspace);
} model; /* the functions of intvit.h */

#ifdef INTVIT_STATIC
enum { ARGUMENTS = 3 };
#define OPEN(path)
#define FIND(name) model.name = intvit_##name
#else
#include <dlfcn.h>
enum { ARGUMENTS = 4 };
#define OPEN(path)                                      \
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); \
    if (!library) fail("cannot load the model", dlerror())
#define FIND(name) \
    if (!(*(void **)&model.name = dlsym(library, "intvit_" #name))) fail("not a compiled model", dlerror())
#endif

static void load(char **arguments) {
    (void)arguments;
    OPEN(arguments[3]);
    FIND(ready);
    FIND(target);
    FIND(image_bytes);
    FIND(output_bytes);
    FIND(workspace_bytes);
    FIND(run);
    int32_t status = model.ready();
    if (status == INTVIT_CPU_LACKS_INSTRUCTIONS) fail("this CPU cannot run the model, which is for", model.target());
    if (status == INTVIT_AMX_REFUSED) fail("the system refuses the tile registers of", model.target());
}

static void *allocate(int64_t bytes) {
    void *memory = aligned_alloc(ALIGNMENT, ((size_t)bytes / ALIGNMENT + 1) * ALIGNMENT);
    if (!memory) fail("not enough memory", "give fewer images at once");
    return memory;
}

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != ARGUMENTS) fail("arguments", ARGUMENTS == 3 ? "IMAGES OUTPUTS" : "IMAGES OUTPUTS MODEL.so");
    load(arguments);

    FILE *file = fopen(arguments[1], "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail(arguments[1], strerror(errno));
    int64_t bytes = ftell(file), batch = bytes / model.image_bytes();
    if (batch <= 0 || bytes % model.image_bytes()) fail(arguments[1], "does not hold whole images");
    uint8_t *images = allocate(bytes);
    rewind(file);
    if (fread(images, 1, (size_t)bytes, file) != (size_t)bytes) fail(arguments[1], "cannot be read to its end");
    fclose(file);

    void *outputs[MOST_OUTPUTS], *workspace = allocate(model.workspace_bytes(batch));
    for (int32_t i = 0; i < MOST_OUTPUTS; ++i) outputs[i] = allocate(batch * model.output_bytes(i));
    double best = 0, first = milliseconds();
    for (int run = 0; run < RUNS && (!run || milliseconds() - first < ENOUGH); ++run) {
        double start = milliseconds();
        if (model.run(images, batch, outputs, workspace) != INTVIT_DONE) fail("the run failed", "out of memory");
        double taken = milliseconds() - start;
        if (!run || taken < best) best = taken;
    }

    if (!(file = fopen(arguments[2], "wb"))) fail(arguments[2], strerror(errno));
    for (int32_t i = 0; i < MOST_OUTPUTS; ++i)
        fwrite(outputs[i], 1, (size_t)(batch * model.output_bytes(i)), file);
    int incomplete = ferror(file);
    if (fclose(file) || incomplete) fail(arguments[2], "cannot be written to its end");
    const int32_t *logits = outputs[0];
    for (int64_t image = 0, classes = model.output_bytes(0) / (int64_t)sizeof *logits; image < batch; ++image) {
        int64_t top = 0;
        for (int64_t i = 1; i < classes; ++i)
            if (logits[image * classes + i] > logits[image * classes + top]) top = i;
        printf("image %lld: class %lld\n", (long long)image, (long long)top);
    }
    printf("%s: %.2f ms for %lld images\n", model.target(), best, (long long)batch);
    return 0;
}
