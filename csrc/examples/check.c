/* check.c: does this build give the golden vectors?
 *
 *     check MODEL golden.txt golden.bin
 *
 * Runs the clips of golden.bin through the front end and the network at every
 * depth and compares each stage: features within one step, bits and reals
 * equal, scores within 1e-4 of the largest of them or of 1. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

/* One line of golden.txt. */
struct golden {
    char clip[32], stage[32], type[16];
    int depth, k;
    unsigned long offset, size;
};

static struct {
    const unsigned char *bytes; /* golden.bin */
    struct golden *lines;
    size_t count;
    const char *clip; /* what runs now */
    int depth;
    unsigned long compared, wrong;
} golden;

static unsigned char *read_file(const char *name, size_t *size)
{
    FILE *in = fopen(name, "rb");
    unsigned char *data;
    long end;

    if (!in || fseek(in, 0, SEEK_END) || (end = ftell(in)) < 0 ||
        !(data = malloc((size_t)end + 1))) {
        fprintf(stderr, "check: cannot read %s\n", name);
        exit(1);
    }
    rewind(in);
    *size = fread(data, 1, (size_t)end, in);
    data[*size] = 0;
    fclose(in);
    return data;
}

/* A little-endian number of 1 to 8 bytes. */
static unsigned long long number(const unsigned char *p, int bytes)
{
    return bytes ? *p | number(p + 1, bytes - 1) << 8 : 0;
}

/* Of `size` bytes, if that is not 0. */
static const struct golden *find(const char *clip, int depth,
                                 const char *stage, int k, size_t size)
{
    size_t i;

    for (i = 0; i < golden.count; i++) {
        const struct golden *g = &golden.lines[i];
        if (!strcmp(g->clip, clip) && g->depth == depth &&
            !strcmp(g->stage, stage) && g->k == k &&
            (!size || g->size == size))
            return g;
    }
    fprintf(stderr, "check: golden.txt has no %s %d %s %d of this model\n",
            clip, depth, stage, k);
    exit(1);
}

/* Called after every stage with what the runtime made. */
static void compare(void *user, const char *stage, int k, const void *data,
                    size_t bytes)
{
    const int layered = !strcmp(stage, "memory") ||
                        !strcmp(stage, "pointwise1") ||
                        !strcmp(stage, "pointwise2");
    const int scores = !strcmp(stage, "scores");
    const int features = !strcmp(stage, "features");
    const struct golden *g = find(golden.clip, features ? 0 : golden.depth,
                                  stage, layered ? k : -1, 0);
    const int width = features ? 1 : strcmp(g->type, "bits") ? 4 : 8;
    const unsigned char *ours = data, *theirs = golden.bytes + g->offset;
    float a, b, tolerance = scores ? 1e-4f : 0;
    size_t i;
    int bad = bytes != g->size;

    (void)user;
    for (i = 0; scores && i + 4 <= g->size; i += 4) {
        const uint32_t bits = (uint32_t)number(theirs + i, 4);

        memcpy(&b, &bits, 4);
        tolerance = fmaxf(tolerance, 1e-4f * fabsf(b));
    }
    for (i = 0; i < g->size && !bad; i += (size_t)width) {
        const unsigned long long expected = number(theirs + i, width);
        const uint32_t low = (uint32_t)expected;
        uint64_t word;
        int8_t step;

        if (width == 8) {
            memcpy(&word, ours + i, 8);
            bad = word != expected;
        } else if (width == 1) {
            memcpy(&step, ours + i, 1);
            bad = abs(step - (int8_t)expected) > 1;
        } else {
            memcpy(&a, ours + i, 4);
            memcpy(&b, &low, 4);
            bad = scores ? !(fabsf(a - b) <= tolerance)
                         : memcmp(&a, &b, 4) != 0;
        }
    }
    golden.compared++;
    if (bad) {
        golden.wrong++;
        printf("differs: clip %s, depth %d, stage %s %d\n", golden.clip,
               golden.depth, stage, k);
    }
}

int main(int argc, char **argv)
{
    static const char *const clips[] = {"silence", "square", "chirp", "noise"};
    size_t model_size, size, bytes, i, j;
    struct bifsmn_info info;
    unsigned char *model;
    int16_t *pcm;
    int8_t *features;
    float *scores;
    char *line;
    bifsmn *net;
    int error;

    if (argc != 4) {
        fputs("usage: check MODEL golden.txt golden.bin\n", stderr);
        return 1;
    }
    model = read_file(argv[1], &model_size);
    if ((error = bifsmn_workspace_size(model, model_size, &bytes)) ||
        (error = bifsmn_open(model, model_size, malloc(bytes), bytes, &net))) {
        fprintf(stderr, "check: %s: %s\n", argv[1], bifsmn_message(error));
        return 1;
    }
    bifsmn_info(net, &info);
    printf("%lu bytes of workspace, %lu of PCM\n", (unsigned long)bytes,
           2ul * (unsigned long)info.samples);
    line = (char *)read_file(argv[2], &size);
    golden.bytes = read_file(argv[3], &bytes);
    golden.lines = calloc(size / 8 + 1, sizeof *golden.lines);
    for (line = strtok(line, "\n"); line; line = strtok(NULL, "\n")) {
        struct golden *g = &golden.lines[golden.count++];
        if (sscanf(line, "%31s %d %31s %d %15s %lu %lu", g->clip, &g->depth,
                   g->stage, &g->k, g->type, &g->offset, &g->size) != 7 ||
            g->size > bytes || g->offset > bytes - g->size) {
            fprintf(stderr, "check: bad line: %s\n", line);
            return 1;
        }
    }
    pcm = malloc((size_t)info.samples * sizeof *pcm);
    features = malloc((size_t)info.frames * (size_t)info.mels);
    scores = malloc((size_t)info.classes * sizeof *scores);
    for (i = 0; i < sizeof clips / sizeof *clips; i++) {
        golden.clip = clips[i];
        golden.depth = 0;
        size = 2 * (size_t)info.samples;
        bytes = find(clips[i], 0, "pcm", -1, size)->offset;
        for (j = 0; j < (size_t)info.samples; j++)
            pcm[j] = (int16_t)number(golden.bytes + bytes + 2 * j, 2);
        bifsmn_set_trace(net, compare, NULL);
        bifsmn_features(net, pcm, (size_t)info.samples, features);
        /* The network on the golden features, whatever our own are. */
        size = (size_t)info.frames * (size_t)info.mels;
        bytes = find(clips[i], 0, "features", -1, size)->offset;
        memcpy(features, golden.bytes + bytes, size);
        for (j = 0; j < (size_t)info.depths; j++) {
            golden.depth = info.depth[j];
            bifsmn_run_features(net, features, golden.depth, scores);
        }
    }
    printf("%lu stages compared with %s kernels, %lu differ\n",
           golden.compared, info.kernels, golden.wrong);
    return golden.wrong != 0;
}
