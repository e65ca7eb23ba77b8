/* spot.c: which keyword is in this recording?
 *
 *     cc -O3 -std=c99 -ffp-contract=off csrc/src/ *.c csrc/examples/spot.c \
 *        -Icsrc/include -lm -o spot
 *     ./spot MODEL WAV [DEPTH]
 *
 * Looks through windows of one decision, moved by as little as the network can
 * tell apart, and prints the keyword it is surest of; labels like _silence_
 * are no keywords. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "spot: %s: %s\n", what, why);
    exit(1);
}

static unsigned char *read_file(const char *name, size_t *size)
{
    FILE *in = fopen(name, "rb");
    unsigned char *data = NULL;
    size_t room = 0;

    if (!in)
        fail(name, "cannot open");
    for (*size = 0; *size == room; *size += fread(data + *size, 1, room / 2, in))
        if (!(data = realloc(data, room = 2 * (room ? room : 1 << 16))))
            fail(name, "too large");
    fclose(in);
    return data;
}

static unsigned long number(const unsigned char *p, int bytes)
{
    return bytes ? *p | number(p + 1, bytes - 1) << 8 : 0;
}

/* Samples of a 16-bit mono WAV, padded with zeros to at least one decision. */
static int16_t *read_wav(const char *name, const struct bifsmn_info *info,
                         size_t *samples)
{
    size_t size, at = 12, i;
    const unsigned char *wav = read_file(name, &size);
    int16_t *pcm;
    int known = 0;

    if (size < 12 || memcmp(wav, "RIFF", 4) || memcmp(wav + 8, "WAVE", 4))
        fail(name, "not a WAV file");
    for (;; at += 8 + (i + i % 2)) {
        if (at + 8 > size || size - at - 8 < (i = number(wav + at + 4, 4)))
            fail(name, "the WAV file is truncated or has no data");
        if (!memcmp(wav + at, "data", 4))
            break;
        if (!memcmp(wav + at, "fmt ", 4) && i >= 16)
            known = number(wav + at + 8, 2) == 1 &&
                    number(wav + at + 10, 2) == 1 &&
                    number(wav + at + 12, 4) == (size_t)info->sample_rate &&
                    number(wav + at + 22, 2) == 16;
    }
    if (!known)
        fail(name, "must be 16-bit mono PCM at the model's sample rate");
    *samples = i / 2;
    pcm = calloc(*samples + (size_t)info->samples, sizeof *pcm);
    if (!pcm)
        fail(name, "too large");
    for (i = 0; i < *samples; i++)
        pcm[i] = (int16_t)number(wav + at + 8 + 2 * i, 2);
    if (*samples < (size_t)info->samples)
        *samples = (size_t)info->samples;
    return pcm;
}

int main(int argc, char **argv)
{
    size_t file_size, bytes, samples, at, hop, last;
    struct bifsmn_info info;
    const unsigned char *file;
    const char *best = NULL;
    float *scores, best_probability = 0;
    int16_t *pcm;
    bifsmn *net;
    int error, depth, i;
    double best_time = 0;

    if (argc < 3 || argc > 4)
        fail("usage", "spot MODEL WAV [DEPTH]");
    file = read_file(argv[1], &file_size);
    if ((error = bifsmn_workspace_size(file, file_size, &bytes)) ||
        (error = bifsmn_open(file, file_size, malloc(bytes), bytes, &net)))
        fail(argv[1], bifsmn_message(error));
    bifsmn_info(net, &info);
    pcm = read_wav(argv[2], &info, &samples);
    depth = argc == 4 ? atoi(argv[3]) : info.depth[0];
    scores = malloc((size_t)info.classes * sizeof *scores);
    hop = (size_t)(info.stride * info.stride * info.hop_length);

    last = samples - (size_t)info.samples;
    for (at = 0;; at = at + hop < last ? at + hop : last) {
        int top = 0, better;
        float sum = 0, probability;

        error = bifsmn_run(net, pcm + at, (size_t)info.samples, depth, scores);
        if (error)
            fail(argv[1], bifsmn_message(error));
        for (i = 1; i < info.classes; i++)
            top = scores[i] > scores[top] ? i : top;
        for (i = 0; i < info.classes; i++) /* softmax */
            sum += expf(scores[i] - scores[top]);
        probability = 1 / sum;

        /* Any keyword beats every _class_; otherwise the surer one wins. */
        better = !best || (*bifsmn_label(net, top) == '_') == (*best == '_')
                     ? probability > best_probability
                     : *best == '_';
        if (better) {
            best = bifsmn_label(net, top);
            best_probability = probability;
            best_time = (double)at / info.sample_rate;
        }
        if (at == last) /* the window that ends with the clip */
            break;
    }
    printf("%s %.3f at %.2f s\n", best, best_probability, best_time);
    return 0;
}
