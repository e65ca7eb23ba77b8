/* golden.c: every stage of a model at every depth, printed as hexadecimal
 * numbers, so that two machines can be compared with diff.
 *
 *     golden MODEL
 *
 * The features given to the network are made up here, because the front end
 * alone may differ between machines; its own output is printed too. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

/* Numbers, not bytes: the same on a big-endian host. */
static void print(void *depth, const char *stage, int k, const void *data,
                  size_t bytes)
{
    const int bits = !strcmp(stage, "conv1") || !strcmp(stage, "conv2") ||
                     !strcmp(stage, "pointwise1");
    const char *at = data;
    const char *end = at + bytes;

    printf("%d %s %d", *(int *)depth, stage, k);
    while (at < end) {
        int8_t feature;
        uint64_t word;
        uint32_t real;

        if (!strcmp(stage, "features")) {
            memcpy(&feature, at, sizeof feature);
            printf(" %d", feature);
            at += sizeof feature;
        } else if (bits) {
            memcpy(&word, at, sizeof word);
            printf(" %016llx", (unsigned long long)word);
            at += sizeof word;
        } else {
            memcpy(&real, at, sizeof real);
            printf(" %08lx", (unsigned long)real);
            at += sizeof real;
        }
    }
    puts("");
}

int main(int argc, char **argv)
{
    static unsigned char file[1 << 20];
    FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
    const size_t size = in ? fread(file, 1, sizeof file, in) : 0;
    struct bifsmn_info info;
    uint32_t noise = 1;
    size_t bytes;
    bifsmn *net;
    int16_t *pcm;
    int8_t *features;
    float *scores;
    int i, error, depth = 0;

    if ((error = bifsmn_workspace_size(file, size, &bytes)) ||
        (error = bifsmn_open(file, size, malloc(bytes), bytes, &net))) {
        puts(bifsmn_message(error));
        return 1;
    }
    bifsmn_info(net, &info);
    pcm = malloc(2 * (size_t)info.samples);
    features = malloc((size_t)info.frames * (size_t)info.mels);
    scores = malloc(4 * (size_t)info.classes);
    bifsmn_set_trace(net, print, &depth);

    for (i = 0; i < info.samples; i++) {
        noise = noise * 1664525u + 1013904223u;
        pcm[i] = (int16_t)(noise >> 20) - 2048;
    }
    bifsmn_features(net, pcm, (size_t)info.samples, features);
    for (i = 0; i < info.frames * info.mels; i++) {
        noise = noise * 1664525u + 1013904223u;
        features[i] = (int8_t)((int)(noise >> 24) - 128);
    }
    for (i = 0; i < info.depths; i++) {
        depth = info.depth[i];
        bifsmn_run_features(net, features, depth, scores);
    }
    return 0;
}
