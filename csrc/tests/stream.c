/* stream.c: a window of a stream has the same scores, whatever was kept of the
 * one before, and is it kept?
 *
 *     stream MODEL
 *
 * Prints, of a first window and of the next, the rows of the first convolution
 * and the positions of the second that were computed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "network.h"

static const struct bifsmn_kernels *kernels;
static size_t inputs; /* of the second convolution */
static size_t rows, positions;
static uint64_t state = 1;

static size_t draw(size_t below) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (size_t)((z ^ z >> 31) % below);
}

static void conv_bits(size_t M, size_t N, size_t height, size_t width,
                      const uint8_t *x, size_t step, size_t pitch,
                      const uint8_t *w, size_t cuts, const int32_t *threshold,
                      const uint8_t *direction, size_t plane, uint64_t *out)
{
    rows++;
    kernels->i8_conv_bits(M, N, height, width, x, step, pitch, w, cuts,
                          threshold, direction, plane, out);
}

static void gemm_counts(size_t M, size_t N, size_t K, size_t planes,
                        const uint64_t *x, const uint8_t *w,
                        const uint32_t *gain, uint32_t *d)
{
    positions += K == inputs ? M : 0;
    kernels->b1_gemm_counts(M, N, K, planes, x, w, gain, d);
}

static bifsmn *open_model(const uint8_t *file, size_t size)
{
    size_t bytes;
    bifsmn *net;
    int error;

    if ((error = bifsmn_workspace_size(file, size, &bytes)) ||
        (error = bifsmn_open(file, size, malloc(bytes), bytes, &net))) {
        puts(bifsmn_message(error));
        exit(1);
    }
    return net;
}

int main(int argc, char **argv)
{
    static uint8_t file[1 << 20];
    FILE *in = argc == 2 ? fopen(argv[1], "rb") : NULL;
    const size_t size = in ? fread(file, 1, sizeof file, in) : 0;
    bifsmn *net = open_model(file, size), *other = open_model(file, size);
    const struct model *m = &net->model;
    const size_t window = m->frames * m->mels, step = m->stride * m->stride;
    struct bifsmn_kernels counted = *net->kernels;
    int8_t *stream = malloc(3 * window), *features = malloc(window);
    float *scores = malloc(8 * m->classes), *expected = scores + m->classes;
    size_t i, start = 0, hops, said;

    for (i = 0; i < 3 * window; i++) /* some of it silent */
        stream[i] = i / window == 1 && i % window < 4 * m->mels
                        ? 0
                        : (int8_t)draw(256);
    for (i = 0; i < 200; i++) {
        const int depth = net->depth[i % m->depths];

        hops = draw(3) ? step * draw(3) : draw(m->frames + 2);
        said = draw(4) ? hops : draw(m->frames + 2);
        start = (start + hops) % (2 * m->frames);
        memcpy(features, stream + start * m->mels, window);
        memset(features, (int)draw(2), /* before it began */
               min_size(draw(3), m->frames) * m->mels);
        if (bifsmn_run_features_next(net, features, said, depth, scores) ||
            bifsmn_run_features(other, features, depth, expected) ||
            memcmp(scores, expected, 4 * m->classes)) {
            puts("the next window has other scores");
            return 1;
        }
    }

    kernels = net->kernels;
    counted.i8_conv_bits = conv_bits;
    counted.b1_gemm_counts = gemm_counts;
    net->kernels = &counted;
    inputs = m->kernel * m->kernel * m->conv1_channels;
    for (i = 0; i < 2; i++) {
        memcpy(features, stream + min_size(i * step, 2 * m->frames) * m->mels,
               window);
        memset(features, 0, min_size(step, m->frames) * m->mels); /* the same */
        bifsmn_run_features_next(net, features, step, net->depth[0], scores);
        printf("%zu %zu\n", rows, positions);
        rows = positions = 0;
    }
    return 0;
}
