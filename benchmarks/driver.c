/* driver.c: times the C runtime in short bursts, on request.
 *
 *     driver MODEL INPUT
 *
 * INPUT holds the 16-bit PCM of one decision, then the int8 features of some;
 * the first of them are timed. The first line of the output names the kernels
 * of this build, best first. Then each line of the input, "KERNELS WHAT DEPTH
 * NUMBER", is answered by one line of JSON. NUMBER is of calls, and WHAT
 *
 *     network   features to scores: microseconds of one call
 *     features  PCM to features: the same
 *     next      the same for the next window of a stream
 *     conv1 conv2 fc memory pointwise1 pointwise2 head
 *               one stage inside the network: microseconds of one execution
 *     scores    what the network computes, NUMBER being an index of features
 *
 * A call is timed in CPU time of the process, the mean of a burst. A stage is
 * timed from trace to trace, the median of a burst, less what reading the clock
 * takes. */

#define _POSIX_C_SOURCE 199309L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bifsmn.h"

struct input {
    const int16_t *pcm;
    size_t samples;
    size_t hops; /* from one window of a stream to the next */
    const int8_t *features;
    int8_t *spare; /* what the front end writes */
    float *scores;
};

enum { MOST_TIMES = 4096 };

struct stage {
    const char *name; /* as the trace calls it */
    double last, clock, times[MOST_TIMES]; /* microseconds */
    size_t used;
};

static double now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static void trace(void *user, const char *name, int k, const void *data,
                  size_t bytes)
{
    struct stage *stage = user;
    const double end = now(CLOCK_MONOTONIC);

    (void)k, (void)data, (void)bytes;
    if (!strcmp(name, stage->name) && stage->used < MOST_TIMES)
        stage->times[stage->used++] = end - stage->last - stage->clock;
    stage->last = now(CLOCK_MONOTONIC);
}

/* Least time from one reading of the clock to the next. */
static double clock_cost(void)
{
    double least = 1;
    int i;

    for (i = 0; i < 100000; i++) {
        const double start = now(CLOCK_MONOTONIC);
        const double time = now(CLOCK_MONOTONIC) - start;

        if (time < least)
            least = time;
    }
    return least;
}

static void *read_file(const char *path, size_t *size)
{
    enum { MOST = 1 << 22 };
    FILE *in = fopen(path, "rb");
    void *data = malloc(MOST);

    *size = in && data ? fread(data, 1, MOST, in) : 0;
    if (in)
        fclose(in);
    return data;
}

static void stop(int error)
{
    if (error) {
        fprintf(stderr, "driver: %s\n", bifsmn_message(error));
        exit(1);
    }
}

/* Microseconds of CPU time that one of `calls` calls takes, of what is called
 * so: "features", "next" or "network". */
static double time_calls(bifsmn *net, const struct input *in, const char *what,
                         int depth, int calls)
{
    const int whole = !strcmp(what, "features"), next = !strcmp(what, "next");
    double start = 0;
    int i;

    for (i = -(calls / 8 + 1); i < calls; i++) { /* below 0: warm-up */
        if (i == 0)
            start = now(CLOCK_PROCESS_CPUTIME_ID);
        if (whole)
            stop(bifsmn_features(net, in->pcm, in->samples, in->spare));
        else if (next)
            stop(bifsmn_features_next(net, in->pcm, in->samples, in->hops,
                                      in->spare));
        else
            stop(bifsmn_run_features(net, in->features, depth, in->scores));
    }
    return (now(CLOCK_PROCESS_CPUTIME_ID) - start) / calls;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Microseconds of one execution of a stage. */
static double time_stage(bifsmn *net, const struct input *in,
                         struct stage *stage, int depth, int calls)
{
    int i;

    for (i = -(calls / 8 + 1); i < calls; i++) {
        if (i == 0) {
            stage->used = 0;
            bifsmn_set_trace(net, trace, stage);
        }
        stage->last = now(CLOCK_MONOTONIC);
        stop(bifsmn_run_features(net, in->features, depth, in->scores));
    }
    bifsmn_set_trace(net, NULL, NULL);
    qsort(stage->times, stage->used, sizeof *stage->times, compare);
    return stage->times[stage->used / 2];
}

int main(int argc, char **argv)
{
    struct bifsmn_info info;
    static struct stage stage;
    struct input in;
    size_t size, input_size, clip, bytes;
    char kernels[32], what[32];
    const char *name;
    void *file;
    bifsmn *net;
    int i, depth, number;

    if (argc != 3) {
        fputs("driver MODEL INPUT\n", stderr);
        return 1;
    }
    file = read_file(argv[1], &size);
    in.pcm = read_file(argv[2], &input_size);
    stop(bifsmn_workspace_size(file, size, &bytes));
    stop(bifsmn_open(file, size, malloc(bytes), bytes, &net));
    bifsmn_info(net, &info);
    clip = (size_t)info.frames * (size_t)info.mels;
    in.samples = (size_t)info.samples;
    in.hops = (size_t)info.stride * (size_t)info.stride;
    in.features = (const int8_t *)(in.pcm + in.samples);
    in.spare = malloc(clip);
    in.scores = malloc(sizeof *in.scores * (size_t)info.classes);
    if (input_size < 2 * in.samples + clip)
        stop(BIFSMN_ERROR_SAMPLES);
    stage.clock = clock_cost();

    printf("{\"clock_us\": %.4f, \"kernels\": [", stage.clock);
    for (i = 0; (name = bifsmn_kernel_name(i)) != NULL; i++)
        printf("%s\"%s\"", i ? ", " : "", name);
    puts("]}");
    fflush(stdout);

    while (scanf("%31s %31s %d %d", kernels, what, &depth, &number) == 4) {
        stop(bifsmn_use_kernels(net, kernels));
        if (!strcmp(what, "scores")) {
            stop(bifsmn_run_features(net, in.features + (size_t)number * clip,
                                     depth, in.scores));
            for (i = 0; i < info.classes; i++)
                printf("%s%.9g", i ? ", " : "{\"scores\": [",
                       (double)in.scores[i]);
            puts("]}");
        } else {
            const int calls = !strcmp(what, "features") ||
                              !strcmp(what, "next") || !strcmp(what, "network");

            stage.name = strcmp(what, "head") ? what : "scores";
            printf("{\"us\": %.4f}\n",
                   calls
                       ? time_calls(net, &in, what, depth, number)
                       : time_stage(net, &in, &stage, depth, number));
        }
        fflush(stdout);
    }
    return 0;
}
