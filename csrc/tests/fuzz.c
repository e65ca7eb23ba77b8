/* fuzz.c: damaged model files must be refused or run, never read beyond.
 *
 *     fuzz ROUNDS MODEL...
 *
 * Mutates each model ROUNDS times, mostly with a checksum made right again,
 * opens the result in a block of exactly its size at an odd address, and runs
 * what opens. Build with -fsanitize=address,undefined, which is the judge.
 * Prints how often every error was met. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bifsmn.h"

static uint64_t state = 1;

static uint32_t draw(uint32_t below) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 33) % below;
}

static uint32_t get(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static void put(uint8_t *p, uint32_t value)
{
    int i;
    for (i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static void repair_checksum(uint8_t *file, size_t size)
{
    uint32_t crc = ~(uint32_t)0;
    size_t i;
    int bit;

    for (i = 20; i < size; i++)
        for (crc ^= file[i], bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    put(file + 16, ~crc);
}

/* A number that code gets wrong: an end of a range, or a neighbour. */
static uint32_t awkward(uint32_t old)
{
    const uint32_t values[] = {0, 1, 2, 255, 256, 32767, 32768, 65535, 65536,
                               1u << 24, 0x7f800000u, 0x7fffffffu, 0x80000000u,
                               0xffffff80u, 0xffffffffu, old + 1, old - 1,
                               old * 2, old / 2, old ^ 0x80000000u};
    return values[draw(sizeof values / sizeof values[0])];
}

/* Returns the new size. Section 0 is CONF and 1 is DPTH, as Python writes. */
static size_t mutate(uint8_t *file, size_t size)
{
    const uint32_t table = 16 * get(file + 20);
    uint8_t *p;

    switch (draw(6)) {
    case 0: /* cut short, with or without saying so */
        size = draw((uint32_t)size + 1);
        if (size >= 24 && draw(4))
            put(file + 12, (uint32_t)size);
        break;
    case 1: /* header and table */
        file[draw(24 + table)] ^= (uint8_t)(1 + draw(255));
        break;
    case 2:
        p = file + 24 + 4 * draw(table / 4);
        put(p, awkward(get(p)));
        break;
    case 3: /* one or two sizes, or a depth */
        p = file + get(file + 24 + 8) + 4 * draw(20);
        put(p, awkward(get(p)));
        p = file + get(file + 24 + 16 * draw(2) + 8) + 4 * draw(20);
        put(p, draw(2) ? awkward(get(p)) : get(p));
        break;
    default: /* bytes anywhere in the body */
        do
            file[24 + table + draw((uint32_t)size - 24 - table)] ^=
                (uint8_t)(1 + draw(255));
        while (draw(3));
    }
    if (size >= 24 && draw(20))
        repair_checksum(file, size);
    return size;
}

static int run_all(bifsmn *net)
{
    struct bifsmn_info info;
    int16_t *pcm;
    int8_t *features;
    float *scores;
    int i, error = 0;

    bifsmn_info(net, &info);
    pcm = calloc((size_t)info.samples, sizeof *pcm);
    features = calloc((size_t)info.frames * (size_t)info.mels, 1);
    scores = calloc((size_t)info.classes, sizeof *scores);
    for (i = 0; i < info.samples; i++)
        pcm[i] = (int16_t)draw(65536);
    error |= bifsmn_features(net, pcm, (size_t)info.samples, features);
    for (i = 0; i < info.depths; i++) { /* of a stream of one value, too */
        const size_t hops = draw((unsigned)info.frames + 2);

        error |= bifsmn_run_features(net, features, info.depth[i], scores);
        memset(features, (int)draw(2), (size_t)info.frames * (size_t)info.mels);
        error |= bifsmn_run_features_next(net, features, 0, info.depth[i],
                                          scores);
        error |= bifsmn_run_features_next(net, features, hops, info.depth[i],
                                          scores);
    }
    error |= bifsmn_run(net, pcm, (size_t)info.samples, info.depth[0], scores);
    for (i = 0; i < info.classes; i++)
        error |= !bifsmn_label(net, i);
    free(pcm);
    free(features);
    free(scores);
    return error;
}

/* Opens a copy, and runs it unless mutation made it large. */
static int try_file(const uint8_t *data, size_t size)
{
    uint8_t *block = malloc(size + 1), *file = block + 1;
    size_t bytes;
    bifsmn *net;
    int error;

    memcpy(file, data, size);
    error = bifsmn_workspace_size(file, size, &bytes);
    if (!error && bytes < 1 << 19) {
        uint8_t *workspace = malloc(bytes + 1);

        if (bifsmn_open(file, size, workspace + 1, bytes, &net) ||
            run_all(net) || memcmp(file, data, size)) {
            puts("a file that was accepted does not run, or was written");
            exit(1);
        }
        free(workspace);
    }
    free(block);
    return error;
}

int main(int argc, char **argv)
{
    static uint8_t whole[1 << 20], file[1 << 20];
    long counts[32] = {0}, round;
    int i;

    for (i = 2; i < argc; i++) {
        FILE *in = fopen(argv[i], "rb");
        size_t size = in ? fread(whole, 1, sizeof whole, in) : 0;

        if (!in || try_file(whole, size) != BIFSMN_OK) {
            printf("%s is not a valid model\n", argv[i]);
            return 1;
        }
        fclose(in);
        for (round = 0; round < atol(argv[1]); round++) {
            memcpy(file, whole, size);
            counts[try_file(file, mutate(file, size))]++;
        }
    }
    for (i = 0; i < 32; i++)
        if (counts[i])
            printf("%d %ld %s\n", i, counts[i], bifsmn_message(i));
    return 0;
}
