/* misuse.c: every public function called wrongly returns its error, does
 * nothing else, and leaves a handle that still runs.
 *
 *     misuse MODEL
 *
 * Every buffer is a block of exactly its size. Build with
 * -fsanitize=address,undefined, which sees what is touched beyond. */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

enum {
    ALIGNMENT = 64, /* of what the runtime lays out in the workspace */
    HEADER = 24     /* bytes of a file before its table */
};

static uint8_t *file;
static size_t size, bytes;
static int16_t *pcm;
static int8_t *features;
static float *scores, *expected;
static struct bifsmn_info info;

#define CHECK(condition)                                          \
    do                                                            \
        if (!(condition)) {                                       \
            printf("line %d: not so: %s\n", __LINE__, #condition); \
            exit(1);                                              \
        }                                                         \
    while (0)

/* That a call returns this error, which has a sentence of its own. */
#define FAILS(error, call)                                               \
    do {                                                                 \
        CHECK((call) == BIFSMN_ERROR_##error);                           \
        CHECK(strcmp(bifsmn_message(BIFSMN_ERROR_##error), "unknown error")); \
    } while (0)

static void trace(void *user, const char *stage, int k, const void *data,
                  size_t count)
{
    CHECK(stage && k >= 0 && data && count > 0);
    ++*(int *)user;
}

/* That the handle still computes what it did when it was new. */
static void check_runs(bifsmn *net)
{
    memset(scores, 255, sizeof *scores * (size_t)info.classes);
    CHECK(!bifsmn_run(net, pcm, (size_t)info.samples, info.depth[0], scores));
    CHECK(!memcmp(scores, expected, sizeof *scores * (size_t)info.classes));
}

static void misuse_messages(void)
{
    int error;

    for (error = BIFSMN_OK; error <= BIFSMN_ERROR_KERNELS; error++)
        CHECK(strcmp(bifsmn_message(error), "unknown error"));
    CHECK(!strcmp(bifsmn_message(error), "unknown error"));
    CHECK(!strcmp(bifsmn_message(-1), "unknown error"));
    CHECK(!strcmp(bifsmn_message(INT_MIN), "unknown error"));
    CHECK(!strcmp(bifsmn_message(INT_MAX), "unknown error"));
}

static void misuse_open(void)
{
    uint8_t *workspace = malloc(bytes);
    bifsmn *net = (bifsmn *)workspace;
    size_t i, any = 77;

    FAILS(ARGUMENT, bifsmn_workspace_size(NULL, size, &any));
    FAILS(ARGUMENT, bifsmn_workspace_size(NULL, 0, &any));
    FAILS(ARGUMENT, bifsmn_workspace_size(file, size, NULL));
    CHECK(any == 77);

    FAILS(ARGUMENT, bifsmn_open(file, size, workspace, bytes, NULL));
    FAILS(ARGUMENT, bifsmn_open(NULL, size, workspace, bytes, &net));
    CHECK(!net); /* what failed to open is no handle */
    net = (bifsmn *)workspace;
    FAILS(ARGUMENT, bifsmn_open(file, size, NULL, bytes, &net));
    CHECK(!net);
    net = (bifsmn *)workspace;
    FAILS(WORKSPACE, bifsmn_open(file, size, workspace, 0, &net));
    CHECK(!net);

    for (i = 0; i < size; i += i < 64 ? 1 : 997) { /* cut short anywhere */
        uint8_t *cut = malloc(i ? i : 1);
        const int error = i < HEADER ? BIFSMN_ERROR_MAGIC : BIFSMN_ERROR_SIZE;

        memcpy(cut, file, i);
        CHECK(bifsmn_workspace_size(cut, i, &any) == error);
        CHECK(bifsmn_open(cut, i, workspace, bytes, &net) == error && !net);
        free(cut);
    }
    free(workspace);
}

/* A workspace at every address: as much as it needs there opens and runs, a
 * byte less is refused. Where all `bytes` are needed nothing is left after
 * them, and what is written beyond is seen. */
static void misuse_workspace(void)
{
    size_t past;

    for (past = 0; past < ALIGNMENT; past++) {
        uint8_t *block = malloc(past + bytes), *workspace = block + past;
        const size_t skipped = -(uintptr_t)workspace % ALIGNMENT;
        const size_t needed = bytes - (ALIGNMENT - 1) + skipped;
        bifsmn *net;

        FAILS(WORKSPACE, bifsmn_open(file, size, workspace, needed - 1, &net));
        CHECK(!net);
        CHECK(!bifsmn_open(file, size, workspace, needed, &net));
        CHECK(!bifsmn_info(net, &info));
        check_runs(net);
        free(block);
    }
}

static void misuse_handle(bifsmn *net)
{
    const size_t samples = (size_t)info.samples;
    const int depth = info.depth[0];
    const int unknown[] = {0, -1, info.layers + 1, INT_MIN, INT_MAX};
    const size_t counts[] = {0, samples - 1, samples + 1, (size_t)-1};
    int calls = 0;
    size_t i;

    FAILS(ARGUMENT, bifsmn_info(NULL, &info));
    FAILS(ARGUMENT, bifsmn_info(net, NULL));
    CHECK(!bifsmn_label(NULL, 0));
    CHECK(!bifsmn_label(net, -1));
    CHECK(!bifsmn_label(net, info.classes));
    CHECK(!bifsmn_label(net, INT_MAX));
    CHECK(!bifsmn_label(net, INT_MIN));
    CHECK(!bifsmn_kernel_name(-1));
    CHECK(!bifsmn_kernel_name(INT_MIN));
    CHECK(!bifsmn_kernel_name(INT_MAX));

    FAILS(ARGUMENT, bifsmn_use_kernels(NULL, "scalar"));
    FAILS(ARGUMENT, bifsmn_use_kernels(net, NULL));
    FAILS(KERNELS, bifsmn_use_kernels(net, "abacus"));
    FAILS(KERNELS, bifsmn_use_kernels(net, ""));
    check_runs(net); /* with the kernels that it had */
    for (i = 0; i < (size_t)info.frames + 3; i++) { /* nowhere else */
        CHECK(!bifsmn_features_next(net, pcm, samples, i, features));
        CHECK(!bifsmn_features_next(net, pcm, samples, counts[3] - i,
                                    features));
    }

    FAILS(ARGUMENT, bifsmn_features(NULL, pcm, samples, features));
    FAILS(ARGUMENT, bifsmn_features(net, NULL, samples, features));
    FAILS(ARGUMENT, bifsmn_features(net, pcm, samples, NULL));
    FAILS(ARGUMENT, bifsmn_features_next(NULL, pcm, samples, 1, features));
    FAILS(ARGUMENT, bifsmn_features_next(net, NULL, samples, 1, features));
    FAILS(ARGUMENT, bifsmn_features_next(net, pcm, samples, 1, NULL));
    FAILS(ARGUMENT, bifsmn_run_features(NULL, features, depth, scores));
    FAILS(ARGUMENT, bifsmn_run_features(net, NULL, depth, scores));
    FAILS(ARGUMENT, bifsmn_run_features(net, features, depth, NULL));
    FAILS(ARGUMENT, bifsmn_run_features_next(NULL, features, 4, depth, scores));
    FAILS(ARGUMENT, bifsmn_run_features_next(net, NULL, 4, depth, scores));
    FAILS(ARGUMENT, bifsmn_run_features_next(net, features, 4, depth, NULL));
    FAILS(ARGUMENT, bifsmn_run(NULL, pcm, samples, depth, scores));
    FAILS(ARGUMENT, bifsmn_run(net, NULL, samples, depth, scores));
    FAILS(ARGUMENT, bifsmn_run(net, pcm, samples, depth, NULL));
    for (i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        FAILS(SAMPLES, bifsmn_features(net, pcm, counts[i], features));
        FAILS(SAMPLES,
              bifsmn_features_next(net, pcm, counts[i], 1, features));
        FAILS(SAMPLES, bifsmn_run(net, pcm, counts[i], depth, scores));
    }
    FAILS(ARGUMENT, bifsmn_set_trace(NULL, trace, &calls));
    CHECK(!bifsmn_set_trace(net, trace, &calls));
    for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        FAILS(DEPTH, bifsmn_run_features(net, features, unknown[i], scores));
        FAILS(DEPTH, bifsmn_run_features_next(net, features, 4, unknown[i],
                                              scores));
        FAILS(DEPTH, bifsmn_run(net, pcm, samples, unknown[i], scores));
    }
    CHECK(calls == 0); /* not even the front end ran */
    check_runs(net);
    CHECK(calls == 5 + 3 * depth);
    CHECK(!bifsmn_set_trace(net, NULL, NULL));
    check_runs(net);
    CHECK(calls == 5 + 3 * depth);
}

int main(int argc, char **argv)
{
    static uint8_t whole[1 << 20];
    FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
    uint8_t *workspace;
    bifsmn *net;
    int i;

    size = in ? fread(whole, 1, sizeof whole, in) : 0;
    file = malloc(size);
    memcpy(file, whole, size);
    CHECK(!bifsmn_workspace_size(file, size, &bytes));
    workspace = malloc(bytes);
    CHECK(!bifsmn_open(file, size, workspace, bytes, &net));
    CHECK(!bifsmn_info(net, &info));
    pcm = malloc(sizeof *pcm * (size_t)info.samples);
    features = calloc((size_t)info.frames * (size_t)info.mels, 1);
    scores = malloc(sizeof *scores * (size_t)info.classes);
    expected = malloc(sizeof *expected * (size_t)info.classes);
    for (i = 0; i < info.samples; i++)
        pcm[i] = (int16_t)(i * 12345);
    CHECK(!bifsmn_run(net, pcm, (size_t)info.samples, info.depth[0], expected));

    misuse_messages();
    misuse_open();
    misuse_handle(net);
    misuse_workspace();
    CHECK(!memcmp(file, whole, size)); /* a file is only read */
    free(file), free(workspace), free(pcm), free(features);
    free(scores), free(expected);
    puts("every misuse is refused");
    return 0;
}
