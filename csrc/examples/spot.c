/* spot.c: which keyword is in this recording?
 *     ./spot MODEL WAV [DEPTH [THRESHOLD]]
 * Moves a window over a 16-bit mono WAV, averages posteriors over the last
 * four and prints the surest keyword; below the threshold, what else it was. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

enum { MOST = 1 << 24 }; /* bytes; what is longer is refused as truncated */
enum { UNKNOWN = 0x7fff0000 }; /* bytes of data, from who cannot tell */
enum { SMOOTHED = 4, CLASSES = 1 << 15 };
static unsigned char model[MOST], wav[MOST];
static int16_t pcm[MOST]; /* zeros after the recording */
static float scores[CLASSES];
static double recent[SMOOTHED][CLASSES];

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "spot: %s: %s\n", what, why);
    exit(1);
}

static double number(const char *text)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end)
        fail(text, "not a number");
    return value;
}

static int find_depth(const struct bifsmn_info *info, const char *text)
{
    const double wanted = number(text);
    int i;
    for (i = 0; i < info->depths; i++)
        if (info->depth[i] == wanted)
            return info->depth[i];
    fail(text, bifsmn_message(BIFSMN_ERROR_DEPTH));
    return 0;
}

static size_t read_file(const char *name, unsigned char *data)
{
    FILE *in = fopen(name, "rb");
    if (!in)
        fail(name, "cannot open");
    return fread(data, 1, MOST, in);
}

static size_t u32(const unsigned char *p)
{
    return p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

static size_t read_wav(const char *name, int rate) /* to pcm: how many */
{
    size_t end = read_file(name, wav), at = 12, size, known = 0, i;
    if (end < 12 || memcmp(wav, "RIFF", 4) || memcmp(wav + 8, "WAVE", 4))
        fail(name, "not a WAV file");
    for (;; at += 8 + size + size % 2) { /* from chunk to chunk */
        unsigned char *chunk = wav + at, *format = chunk + 8;
        if (at + 8 > end)
            fail(name, "the WAV file is truncated, too long or has no data");
        size = u32(chunk + 4);
        if (!memcmp(chunk, "data", 4) && size >= UNKNOWN && end < MOST)
            size = end - at - 8; /* written to a pipe */
        if (size > end - at - 8)
            fail(name, "the WAV file is truncated, too long or has no data");
        if (!memcmp(chunk, "fmt ", 4) && size >= 16) { /* PCM, mono; bits */
            if (format[0] == 0xFE && format[1] == 0xFF && size >= 40)
                format[0] = format[24], format[1] = format[25]; /* extensible */
            known = u32(format) == 1 + (1 << 16) &&
                    u32(format + 4) == (size_t)rate && format[14] == 16;
        }
        if (!memcmp(chunk, "data", 4))
            break;
    }
    if (!known)
        fail(name, "must be 16-bit mono PCM at the model's sample rate");
    if (size < 2)
        fail(name, "no samples in it");
    for (i = 0; i < size / 2; i++)
        pcm[i] = (int16_t)(wav[at + 8 + 2 * i] | wav[at + 9 + 2 * i] << 8);
    return size / 2;
}

int main(int argc, char **argv)
{
    size_t size = argc > 2 ? read_file(argv[1], model) : 0, bytes, last, at, step;
    struct bifsmn_info info;
    void *room;
    bifsmn *net = NULL;
    int error = bifsmn_workspace_size(model, size, &bytes), depth, i, k, n, top;
    double start[2] = {0, 0}, surest[2] = {-1, -1}, sum, apart, threshold;
    const char *best[2] = {NULL, NULL}; /* keyword; _silence_ and its like */

    if (argc < 3)
        fail("usage", "spot MODEL WAV [DEPTH [THRESHOLD]]");
    room = malloc(error ? 1 : bytes);
    if (error || (error = bifsmn_open(model, size, room, bytes, &net)))
        fail(argv[1], bifsmn_message(error));
    bifsmn_info(net, &info);
    depth = argc > 3 ? find_depth(&info, argv[3]) : info.depth[0];
    threshold = argc > 4 ? number(argv[4]) : 0.7;
    if (!(threshold >= 0 && threshold <= 1))
        fail(argv[4], "a threshold is from 0 to 1");
    last = read_wav(argv[2], info.sample_rate);
    last -= last < (size_t)info.samples ? last : (size_t)info.samples;
    /* The least that it can tell apart; a window may be no longer. */
    apart = (double)info.stride * info.stride * info.hop_length;
    step = (size_t)(apart < info.samples ? apart : info.samples);
    for (at = 0, n = 1;; n++, at = last - at > step ? at + step : last) {
        error = bifsmn_run(net, pcm + at, (size_t)info.samples, depth, scores);
        if (error)
            fail(argv[1], bifsmn_message(error));
        for (top = 0, i = 1; i < info.classes; i++)
            top = scores[i] > scores[top] ? i : top;
        for (sum = 0, i = 0; i < info.classes; i++) /* softmax */
            sum += exp(scores[i] - scores[top]);
        for (i = 0; i < info.classes; i++)
            recent[n % SMOOTHED][i] = exp(scores[i] - scores[top]) / sum;
        for (i = 0; i < info.classes; i++) {
            const char *label = bifsmn_label(net, i);
            const int other = *label == '_';

            for (sum = 0, k = 0; k < SMOOTHED; k++) /* zeros, at first */
                sum += recent[k][i];
            sum /= n < SMOOTHED ? n : SMOOTHED;
            if (sum > surest[other])
                best[other] = label, surest[other] = sum,
                start[other] = (double)at;
        }
        if (at == last)
            break;
    }
    top = best[1] && surest[0] < threshold; /* no keyword was sure enough */
    if (!best[top])
        fail(argv[1], "its scores are not numbers");
    printf("%s %.3f at %.2f s\n", best[top], surest[top],
           start[top] / info.sample_rate);
    free(room);
    return fflush(stdout) != 0;
}
