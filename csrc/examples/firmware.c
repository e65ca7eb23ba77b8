/* firmware.c: keywords in a stream with no files, no heap and no system.
 *
 *     arecord -q -t raw -f S16_LE -r 16000 | ./firmware
 *
 * On a device write read_step and heard anew; all else may stay. Hears what
 * listen.c hears. RAM: what is static here, and stack. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "selftest.h"

/* Bytes; too few are refused. `make check CFLAGS=-DBIFSMN_PORTABLE` tells how
 * many a PC needs, which has longer pointers, and so more than a device. */
#ifndef WORKSPACE
#define WORKSPACE 66000
#endif

enum {
    STEP = BIFSMN_MODEL_STEP, /* samples from one window to the next */
    ROOM = BIFSMN_MODEL_SAMPLES + 2 * STEP,
    SMOOTHED = 4 /* windows whose posteriors are averaged */
};

static unsigned char workspace[WORKSPACE];
static int16_t pcm[ROOM];
static int8_t features[BIFSMN_MODEL_FEATURES];
static float scores[BIFSMN_MODEL_CLASSES];
static float recent[SMOOTHED][BIFSMN_MODEL_CLASSES];
static unsigned long next[BIFSMN_MODEL_CLASSES]; /* window; not before */

/* The next STEP samples; 0: there are none. On a device: sleep until one half
 * of a buffer of 2 * STEP is full, which DMA goes round, and copy it while the
 * other one fills. */
static int read_step(int16_t *to)
{
    unsigned char bytes[2];
    int i;

    for (i = 0; i < STEP; i++) {
        if (fread(bytes, 2, 1, stdin) != 1)
            return 0;
        to[i] = (int16_t)(bytes[0] | bytes[1] << 8);
    }
    return 1;
}

static void heard(const char *keyword, float probability, unsigned long window)
{
    printf("%s %.3f at %.2f s\n", keyword, probability,
           (double)window * STEP / BIFSMN_MODEL_RATE);
    fflush(stdout);
}

/* What the n-th window's scores and those before say. */
static void decide(const bifsmn *net, unsigned long n)
{
    const unsigned long windows = n < SMOOTHED ? n + 1 : SMOOTHED;
    float *row = recent[n % SMOOTHED], most = scores[0], sum = 0, surest = 0;
    int i, k, best = -1;

    for (i = 1; i < BIFSMN_MODEL_CLASSES; i++)
        most = scores[i] > most ? scores[i] : most;
    for (i = 0; i < BIFSMN_MODEL_CLASSES; i++) /* softmax */
        sum += row[i] = expf(scores[i] - most);
    for (i = 0; i < BIFSMN_MODEL_CLASSES; i++) {
        float mean = 0;

        row[i] /= sum;
        for (k = 0; k < SMOOTHED; k++) /* zeros, at first */
            mean += recent[k][i] / (float)windows;
        if (*bifsmn_label(net, i) != '_' && mean > surest)
            surest = mean, best = i;
    }
    if (best < 0 || surest < 0.7f || n < next[best])
        return;
    heard(bifsmn_label(net, best), surest, n);
    /* Not again until none of the windows has heard what this one has. */
    next[best] = n + SMOOTHED - 1 + (BIFSMN_MODEL_SAMPLES + STEP - 1) / STEP;
}

int main(void)
{
    size_t start = 0, end = 0; /* of the window, of what has come */
    const char *wrong;
    unsigned long n;
    struct bifsmn_info info;
    bifsmn *net;
    int error = bifsmn_open(bifsmn_model, sizeof bifsmn_model, workspace,
                            sizeof workspace, &net);

    if (error) {
        puts(bifsmn_message(error));
        return 1;
    }
    if ((wrong = bifsmn_selftest(net, pcm, features, scores)) != NULL) {
        printf("the self-test fails at: %s\n", wrong);
        return 1;
    }
    bifsmn_info(net, &info);
    for (n = 0;; n++, start += STEP) {
        if (end + STEP > ROOM) {
            memmove(pcm, pcm + start, (end - start) * sizeof *pcm);
            end -= start;
            start = 0;
        }
        for (; end < start + BIFSMN_MODEL_SAMPLES; end += STEP)
            if (!read_step(pcm + end))
                return 0;
        if (n == 0) /* or after samples were lost */
            bifsmn_features(net, pcm, BIFSMN_MODEL_SAMPLES, features);
        else
            bifsmn_features_next(net, pcm + start, BIFSMN_MODEL_SAMPLES,
                                 BIFSMN_MODEL_HOPS, features);
        bifsmn_run_features_next(net, features, BIFSMN_MODEL_HOPS,
                                 info.depth[0], scores);
        decide(net, n);
    }
}
