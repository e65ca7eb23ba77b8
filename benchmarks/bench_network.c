/* bench_network.c: microseconds of the network, and of each of its operations,
 * with every kernel that this machine can run.
 *
 *     cc -O3 -std=c99 -ffp-contract=off -Icsrc/include -Icsrc/src \
 *        csrc/src/ *.c benchmarks/bench_network.c -lm -o bench_network
 *     ./bench_network MODEL
 *
 * Prints one line of JSON for each measurement. The kernels take turns, a few
 * milliseconds each, so that all meet the same noise; the median of the turns
 * is printed, and the least. */

#define _POSIX_C_SOURCE 199309L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "network.h"

enum { TURNS = 101, MOST_TABLES = 8 };

/* Everything that an operation touches, filled with noise. */
struct bench {
    bifsmn *net;
    int depth;
    int16_t *pcm;
    int8_t *features;
    float *scores;
    struct bifsmn_info info;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static void run_network(struct bench *b)
{
    bifsmn_run_features(b->net, b->features, b->depth, b->scores);
}

static void run_front_end(struct bench *b)
{
    bifsmn_features(b->net, b->pcm, (size_t)b->info.samples, b->features);
}

/* The operations as the network calls them, on what its last run left. */
static void run_conv1(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;
    size_t t;

    for (t = 0; t < m->frames1; t++)
        n->kernels->i8_conv_bits(m->mels1, m->conv1_channels, m->kernel,
                                 m->kernel, n->padded1, m->stride,
                                 m->mels + m->kernel - 1,
                                 n->conv1_weight.data, n->conv1_threshold,
                                 m->section[C1_D].data, n->conv1);
}

static void run_conv2(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;

    n->kernels->b1_gemm_bits(m->frames2 * m->mels2, m->conv2_channels,
                             m->kernel * m->kernel * m->conv1_channels,
                             n->gathered, n->conv2_weight.data,
                             n->conv2_threshold, m->section[C2_D].data,
                             n->conv2);
}

static void run_memory(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;

    n->kernels->b1_memory_real(m->frames2, m->channels, m->taps, m->left,
                               m->dilation, n->sign, m->section[ME_W].data,
                               n->memory_affine, 0.25f, n->stream, n->sign2);
}

static void run_pointwise1(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;

    n->kernels->b1_gemm_bits(m->frames2, m->expansion, m->channels, n->sign2,
                             n->p1_weight.data, n->p1_threshold,
                             m->section[P1_D].data, n->hidden);
}

static void run_pointwise2(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;

    n->kernels->b1_gemm_real(m->frames2, m->channels, m->expansion, n->hidden,
                             n->p2_weight.data, n->p2_affine, 0.25f,
                             n->stream, n->sign);
}

static void run_head(struct bench *b)
{
    bifsmn *n = b->net;
    const struct model *m = &n->model;
    const size_t tile = n->kernels->tile;

    n->kernels->f32_gemv(m->classes,
                         (m->frames2 + tile - 1) / tile * tile * m->channels,
                         n->stream, n->head_weight, b->scores);
}

/* Microseconds of one call in a turn of `calls`. */
static double turn(struct bench *b, void (*run)(struct bench *), int calls)
{
    double start = now();
    int i;

    for (i = 0; i < calls; i++)
        run(b);
    return (now() - start) / calls;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* One measurement with every table. The stream is made of noise again before
 * each turn: it grows with every layer that is added to it. */
static void measure(struct bench *b, const char *what,
                    void (*run)(struct bench *))
{
    static double times[MOST_TABLES][TURNS];
    int calls[MOST_TABLES], t, i;
    const char *name;

    for (i = 0; i < TURNS; i++)
        for (t = 0; (name = bifsmn_kernel_name(t)) && t < MOST_TABLES; t++) {
            bifsmn_use_kernels(b->net, name);
            run_network(b);
            if (i == 0) {
                const double once = turn(b, run, 10);
                calls[t] = once > 2000 ? 1 : (int)(2000 / (once + 0.01));
            }
            times[t][i] = turn(b, run, calls[t]);
        }
    for (t = 0; (name = bifsmn_kernel_name(t)) && t < MOST_TABLES; t++) {
        qsort(times[t], TURNS, sizeof(double), compare);
        printf("{\"kernels\": \"%s\", \"what\": \"%s\", \"median_us\": %.3f, "
               "\"least_us\": %.3f}\n",
               name, what, times[t][TURNS / 2], times[t][0]);
    }
}

int main(int argc, char **argv)
{
    static unsigned char file[1 << 22];
    FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
    const size_t size = in ? fread(file, 1, sizeof file, in) : 0;
    struct bench b;
    uint32_t noise = 1;
    size_t bytes;
    int error, i;
    char what[32];

    if ((error = bifsmn_workspace_size(file, size, &bytes)) ||
        (error = bifsmn_open(file, size, malloc(bytes), bytes, &b.net))) {
        fprintf(stderr, "bench_network MODEL: %s\n", bifsmn_message(error));
        return 1;
    }
    bifsmn_info(b.net, &b.info);
    b.pcm = malloc(2 * (size_t)b.info.samples);
    b.features = malloc((size_t)b.info.frames * (size_t)b.info.mels);
    b.scores = malloc(4 * (size_t)b.info.classes);
    for (i = 0; i < b.info.samples; i++) {
        noise = noise * 1664525u + 1013904223u;
        b.pcm[i] = (int16_t)((int)(noise >> 20) - 2048);
    }
    run_front_end(&b);
    for (i = 0; i < b.info.depths; i++) {
        b.depth = b.info.depth[i];
        snprintf(what, sizeof what, "depth %d", b.depth);
        measure(&b, what, run_network);
    }
    measure(&b, "conv1", run_conv1);
    measure(&b, "conv2", run_conv2);
    measure(&b, "memory", run_memory);
    measure(&b, "pointwise1", run_pointwise1);
    measure(&b, "pointwise2", run_pointwise2);
    measure(&b, "head", run_head);
    measure(&b, "front end", run_front_end);
    return 0;
}
