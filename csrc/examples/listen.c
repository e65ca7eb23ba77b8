/* listen.c: keywords in a stream, as they are heard.
 *     arecord -q -t raw -f S16_LE -r 16000 | ./listen MODEL [DEPTH [THRESHOLD]]
 * Reads 16-bit little-endian mono PCM, moves a window over it, averages
 * posteriors over the last four and prints a keyword that reaches the
 * threshold; then not again until none of them has heard what that one has.
 * What is shorter than a window is not heard. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

enum { MOST = 1 << 24, SMOOTHED = 4, CLASSES = 1 << 15 };
static unsigned char model[MOST]; /* bytes */
static float scores[CLASSES];
static double recent[SMOOTHED][CLASSES], next[CLASSES];

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "listen: %s: %s\n", what, why);
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

static size_t read_pcm(int16_t *pcm, size_t samples)
{
    size_t n;

    for (n = 0; n < samples; n++) {
        const int low = getchar(), high = getchar();
        if (high == EOF)
            break;
        pcm[n] = (int16_t)(low | high << 8);
    }
    return n;
}

/* Adds the n-th window's posteriors; gives the surest keyword, or -1. */
static int surest(const bifsmn *net, int classes, size_t n, double *probability)
{
    double *row = recent[n % SMOOTHED], sum, mean;
    int i, k, top = 0, best = -1;

    for (i = 1; i < classes; i++)
        top = scores[i] > scores[top] ? i : top;
    for (sum = 0, i = 0; i < classes; i++) /* softmax */
        sum += exp(scores[i] - scores[top]);
    for (i = 0; i < classes; i++) {
        row[i] = exp(scores[i] - scores[top]) / sum;
        for (mean = 0, k = 0; k < SMOOTHED; k++) /* zeros, at first */
            mean += recent[k][i];
        mean /= n + 1 < SMOOTHED ? (double)(n + 1) : SMOOTHED;
        if (*bifsmn_label(net, i) != '_' && (best < 0 || mean > *probability))
            best = i, *probability = mean;
    }
    return best;
}

int main(int argc, char **argv)
{
    FILE *in = argc > 1 ? fopen(argv[1], "rb") : NULL;
    size_t size = in ? fread(model, 1, MOST, in) : 0, bytes;
    size_t samples, hop, step, heard, n;
    struct bifsmn_info info;
    void *room;
    bifsmn *net = NULL;
    int error = bifsmn_workspace_size(model, size, &bytes), depth, best;
    double threshold = argc > 3 ? number(argv[3]) : 0.7, probability = 0, apart;
    int16_t *pcm;
    int8_t *features;

    if (argc < 2)
        fail("usage", "listen MODEL [DEPTH [THRESHOLD]] < PCM");
    if (!(threshold >= 0 && threshold <= 1))
        fail(argv[3], "a threshold is from 0 to 1");
    room = malloc(error ? 1 : bytes);
    if (error || (error = bifsmn_open(model, size, room, bytes, &net)))
        fail(argv[1], in ? bifsmn_message(error) : "cannot open");
    bifsmn_info(net, &info);
    depth = argc > 2 ? find_depth(&info, argv[2]) : info.depth[0];
    samples = (size_t)info.samples;
    /* The least that it can tell apart; a window may be no longer. */
    hop = (size_t)info.hop_length;
    apart = (double)info.stride * info.stride * info.hop_length;
    step = (size_t)(apart < info.samples ? apart : info.samples);
    pcm = malloc(samples * sizeof *pcm);
    features = malloc((size_t)info.frames * (size_t)info.mels);
    heard = read_pcm(pcm, samples);
    if (heard > 1 && pcm[0] == 0x4952 && pcm[1] == 0x4646) /* RIFF */
        fail("input", "a WAV file: give it to spot, here go bare samples");
    for (n = 0; heard == samples; n++) {
        const double at = (double)n * (double)step;

        if (n == 0 || step % hop) /* else most frames stay */
            error = bifsmn_features(net, pcm, samples, features);
        else
            error = bifsmn_features_next(net, pcm, samples, step / hop,
                                         features);
        if (error || (error = bifsmn_run_features_next(
                          net, features, step / hop, depth, scores)))
            fail(argv[1], bifsmn_message(error));
        best = surest(net, info.classes, n, &probability);
        if (best >= 0 && probability >= threshold && at >= next[best]) {
            printf("%s %.3f at %.2f s\n", bifsmn_label(net, best), probability,
                   at / info.sample_rate);
            if (fflush(stdout))
                fail("output", "cannot write");
            next[best] = at + (double)((SMOOTHED - 1) * step + samples);
        }
        memmove(pcm, pcm + step, (samples - step) * sizeof *pcm);
        heard = samples - step + read_pcm(pcm + samples - step, step);
    }
    if (ferror(stdin))
        fail("input", "cannot read");
    free(pcm);
    free(features);
    free(room);
    return 0;
}
