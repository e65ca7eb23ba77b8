/* bench.c: runs the network on made-up features, or the front end on made-up
 * samples, a given number of times.
 *
 *     bench MODEL DEPTH|features|next|nextDEPTH RUNS KERNELS
 *
 * next is the front end for the next window of a stream, nextDEPTH all that it
 * takes, at most 8 times. What one run costs is the difference between two
 * numbers of runs. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

enum { MOST = 8 }; /* windows of a stream after the first */

int main(int argc, char **argv)
{
    static unsigned char file[1 << 20];
    FILE *in = argc == 5 ? fopen(argv[1], "rb") : NULL;
    const size_t size = in ? fread(file, 1, sizeof file, in) : 0;
    const char *what = argc == 5 ? argv[2] : "";
    const int next = !strncmp(what, "next", 4);
    const int depth = atoi(what + (next ? 4 : 0));
    const int whole = !strcmp(what, "features");
    int runs = argc == 5 ? atoi(argv[3]) : 0;
    struct bifsmn_info info;
    uint32_t noise = 1;
    int16_t *pcm;
    int8_t *features;
    float *scores;
    size_t bytes, samples, hops, step;
    bifsmn *net;
    int i, error;

    if ((error = bifsmn_workspace_size(file, size, &bytes)) ||
        (error = bifsmn_open(file, size, malloc(bytes), bytes, &net)) ||
        (error = bifsmn_use_kernels(net, argv[4]))) {
        fprintf(stderr, "%s\n", bifsmn_message(error));
        return 1;
    }
    bifsmn_info(net, &info);
    samples = (size_t)info.samples;
    hops = (size_t)info.stride * (size_t)info.stride;
    step = hops * (size_t)info.hop_length;
    pcm = malloc((samples + MOST * step) * sizeof *pcm);
    features = malloc((size_t)info.frames * (size_t)info.mels);
    scores = malloc((size_t)info.classes * sizeof *scores);
    for (i = 0; i < info.frames * info.mels; i++) {
        noise = noise * 1664525u + 1013904223u;
        features[i] = (int8_t)((int)(noise >> 24) - 128);
    }
    for (i = 0; i < info.samples + MOST * (int)step; i++) {
        noise = noise * 1664525u + 1013904223u;
        pcm[i] = (int16_t)((int)(noise >> 18) - 8192);
    }
    if (next && runs > MOST) {
        fprintf(stderr, "at most %d windows\n", MOST);
        return 1;
    }
    if (next && depth) { /* the window before */
        bifsmn_features(net, pcm, samples, features);
        bifsmn_run_features(net, features, depth, scores);
    }
    for (; runs > 0; runs--) {
        error = whole ? bifsmn_features(net, pcm, samples, features)
                : next ? bifsmn_features_next(net, pcm += step, samples, hops,
                                              features)
                       : bifsmn_run_features(net, features, depth, scores);
        if (!error && next && depth)
            error = bifsmn_run_features_next(net, features, hops, depth,
                                             scores);
        if (error) {
            fprintf(stderr, "%s\n", bifsmn_message(error));
            return 1;
        }
    }
    printf("%zu bytes of workspace, first score %g, first feature %d\n", bytes,
           (double)scores[0], features[0]);
    return 0;
}
