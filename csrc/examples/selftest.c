/* selftest.c: the golden vectors of golden.h, for firmware: no files, nothing
 * printed, nothing allocated.
 *
 * Makes noise and compares its features within one step; runs the expected ones
 * at every depth and compares a hash of every stage, and the scores within 1e-4
 * of the largest of them or of 1. */

#include "selftest.h"

#include <string.h>

#include "golden.h"

struct hash {
    uint32_t stages[GOLDEN_STAGES];
    size_t count;
};

static void add_word(uint32_t *hash, uint32_t word)
{
    *hash = (*hash ^ word) * 16777619u;
}

/* Of numbers, not of bytes: the same in either byte order. */
static void keep_hash(void *user, const char *stage, int k, const void *data,
                      size_t bytes)
{
    const int bits = !strcmp(stage, "conv1") || !strcmp(stage, "conv2") ||
                     !strcmp(stage, "pointwise1");
    const unsigned char *at = data, *end = at + bytes;
    struct hash *hash = user;
    uint32_t sum = 2166136261u;

    (void)k;
    if (!strcmp(stage, "scores"))
        return;
    for (; at < end; at += bits ? 8 : 4) {
        uint64_t word;
        uint32_t real;

        if (bits) {
            memcpy(&word, at, sizeof word);
            add_word(&sum, (uint32_t)word);
            add_word(&sum, (uint32_t)(word >> 32));
        } else {
            memcpy(&real, at, sizeof real);
            add_word(&sum, real);
        }
    }
    if (hash->count < GOLDEN_STAGES)
        hash->stages[hash->count] = sum;
    hash->count++;
}

/* The i-th stage of the network at some depth. */
static const char *stage_name(size_t i)
{
    static const char *const names[] = {"conv1",  "conv2",      "fc",
                                        "memory", "pointwise1", "pointwise2"};

    return names[i < 3 ? i : 3 + i % 3];
}

static float absolute(float x)
{
    return x < 0 ? -x : x;
}

const char *bifsmn_selftest(bifsmn *net, int16_t *pcm, int8_t *features,
                            float *scores)
{
    const uint32_t *expected = golden_hashes;
    const float *golden = golden_scores;
    struct bifsmn_info info;
    uint32_t noise = 1;
    int d, i;

    if (bifsmn_info(net, &info) || info.depths != GOLDEN_DEPTHS ||
        info.classes != GOLDEN_CLASSES || info.depth[0] != GOLDEN_LAYERS ||
        info.frames * info.mels != (int)sizeof golden_features)
        return "another model";
    for (i = 0; i < info.samples; i++) {
        noise = noise * 1664525u + 1013904223u;
        pcm[i] = (int16_t)((int)(noise >> 18) - 8192);
    }
    if (bifsmn_features(net, pcm, (size_t)info.samples, features))
        return "features";
    for (i = 0; i < info.frames * info.mels; i++) {
        const int step = features[i] - golden_features[i];

        if (step < -1 || step > 1)
            return "features";
        features[i] = golden_features[i];
    }
    for (d = 0; d < info.depths; d++, golden += GOLDEN_CLASSES) {
        const size_t stages = 3 + 3 * (size_t)info.depth[d];
        struct hash hash = {{0}, 0};
        float tolerance = 1;
        size_t s;

        bifsmn_set_trace(net, keep_hash, &hash);
        i = bifsmn_run_features(net, features, info.depth[d], scores);
        bifsmn_set_trace(net, NULL, NULL);
        if (i || hash.count != stages)
            return "another model";
        for (s = 0; s < stages; s++)
            if (hash.stages[s] != *expected++)
                return stage_name(s);
        for (i = 0; i < GOLDEN_CLASSES; i++)
            if (absolute(golden[i]) > tolerance)
                tolerance = absolute(golden[i]);
        for (i = 0; i < GOLDEN_CLASSES; i++)
            if (!(absolute(scores[i] - golden[i]) <= 1e-4f * tolerance))
                return "scores";
    }
    return NULL;
}
