/* kernels.c: every operation of every table that this machine can run, against
 * the scalar one or the definition, bit for bit.
 *
 *     kernels [NAME]
 *
 * Shapes around the ends of tiles and words; inputs that are random, equal to
 * the weights, or their opposite; thresholds, constants and slopes at their
 * ends. Every array is a block of exactly its size, so -fsanitize=address sees
 * what is read or written beyond. NAME alone is tested if given. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "kernels.h"

static const struct bifsmn_kernels *kernels;
static uint64_t state = 1;

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(size_t n)
{
    return (size_t)(draw() % n);
}

static void *block(size_t bytes)
{
    uint8_t *p = malloc(bytes);
    size_t i;

    for (i = 0; i < bytes; i++)
        p[i] = (uint8_t)draw();
    return p;
}

/* Where packed weights may begin. */
static uint8_t *aligned(void *room)
{
    return (uint8_t *)room + (64 - (uintptr_t)room % 64) % 64;
}

/* Zeros after rows of n bits. */
static void trim(uint64_t *bits, size_t rows, size_t n)
{
    size_t i;

    if (n % 64)
        for (i = words(n) - 1; i < rows * words(n); i += words(n))
            bits[i] &= ~(uint64_t)0 >> (64 - n % 64);
}

/* Rows of n bits. */
static uint64_t *bit_rows(size_t rows, size_t n)
{
    uint64_t *bits = block(8 * rows * words(n));

    trim(bits, rows, n);
    return bits;
}

/* The same as a file holds them. */
static uint8_t *in_file(const uint64_t *bits, size_t count)
{
    uint8_t *bytes = malloc(8 * count);
    size_t i;

    for (i = 0; i < 8 * count; i++)
        bytes[i] = (uint8_t)(bits[i / 8] >> i % 8 * 8);
    return bytes;
}

/* Random, or zeros of either sign, or tiny, or huge. */
static float *reals(size_t n)
{
    static const float odd[] = {0, -0.0f, 1, -1, 1e-42f, -1e30f, 1e30f};
    float *values = malloc(n * sizeof *values);
    size_t i;

    for (i = 0; i < n; i++)
        values[i] = below(4) ? (float)((double)(int32_t)draw() * 1e-9)
                             : odd[below(sizeof odd / sizeof odd[0])];
    return values;
}

static float slope(void)
{
    static const float values[] = {0.25f, 0, -0.0f, -0.5f, 1, 3};

    return values[below(sizeof values / sizeof values[0])];
}

static void same(const char *what, const void *expected, const void *actual,
                 size_t bytes, size_t M, size_t N, size_t K)
{
    if (memcmp(expected, actual, bytes)) {
        printf("%s of %s differs at M = %zu, N = %zu, K = %zu\n", what,
               kernels->name, M, N, K);
        exit(1);
    }
}

/* The stream [M][N] in the tiles of `k`, positions after the last random. */
static float *in_tiles(const struct bifsmn_kernels *k, const float *stream,
                       size_t M, size_t N)
{
    const size_t tile = k->tile, tiles = (M + tile - 1) / tile;
    float *tiled = reals(tiles * tile * N);
    size_t m, n;

    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++) /* 0 + x is never -0 */
            tiled[(m / tile * N + n) * tile + m % tile] = 0 + stream[m * N + n];
    return tiled;
}

static void same_stream(const char *what, const float *expected,
                        const float *tiled, size_t M, size_t N, size_t K)
{
    const size_t tile = kernels->tile;
    float *actual = malloc(4 * M * N);
    size_t m, n;

    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++)
            actual[m * N + n] = tiled[(m / tile * N + n) * tile + m % tile];
    same(what, expected, actual, 4 * M * N, M, N, K);
    free(actual);
}

static void test_i8_conv(size_t M, size_t N, size_t rows, size_t columns,
                         size_t step)
{
    const size_t K = rows * columns, pitch = (M - 1) * step + columns;
    const size_t row = words(N), plane = M * row + below(3);
    const size_t cuts = below(2) ? 3 : 1, used = cuts == 3 ? plane : 0;
    uint8_t *x = block(rows * pitch + x_slack(step)), *w = block(N * K);
    uint64_t *bits = bit_rows(1, N);
    uint8_t *direction = in_file(bits, row);
    int32_t *threshold = malloc(4 * cuts * N);
    uint64_t *expected = block(8 * (M * row + plane));
    uint64_t *actual = block(8 * (M * row + plane));
    void *room = malloc(i8_packed_size(N, rows, columns) + 63);
    uint8_t *packed = aligned(room);
    const size_t all = below(4);
    size_t n, k;

    if (all < 2) { /* the greatest sums */
        memset(x, 255, rows * pitch);
        memset(w, all ? 127 : 128, N * K);
    }
    for (n = 0; n < cuts * N; n++) { /* just below, at, or above a sum */
        const int32_t most = 128 * 128 * (int32_t)K + 1;
        int32_t sum = (int32_t)below(3) - 1, middle = 0;

        for (k = 0; k < K; k++) {
            sum += x[k / columns * pitch + k % columns] * (int8_t)w[n % N * K + k];
            middle += 128 * (int8_t)w[n % N * K + k];
        }
        threshold[n] = below(20)  ? sum
                       : below(2) ? middle + most
                                  : middle - most;
    }
    if (kernels->i8_pack)
        kernels->i8_pack(N, rows, columns, w, packed);
    bifsmn_kernels_scalar.i8_conv_bits(M, N, rows, columns, x, step, pitch, w,
                                       cuts, threshold, direction, plane,
                                       expected);
    kernels->i8_conv_bits(M, N, rows, columns, x, step, pitch,
                          kernels->i8_pack ? packed : w, cuts, threshold,
                          direction, plane, actual);
    same("i8_conv_bits", expected, actual, 8 * M * row, M, N, K);
    same("i8_conv_bits", expected + used, actual + used, 8 * M * row, M, N, K);
    free(x), free(w), free(bits), free(direction), free(threshold);
    free(expected), free(actual), free(room);
}

static uint32_t differing(size_t K, const uint64_t *x, const uint64_t *w)
{
    uint32_t d = 0;
    size_t k;

    for (k = 0; k < words(K); k++)
        d += (uint32_t)__builtin_popcountll(x[k] ^ w[k]);
    return d;
}

/* Against the definition, so of the scalar table too. */
static void test_b1_gemm(size_t M, size_t N, size_t K)
{
    const size_t row = words(N);
    uint64_t *x = bit_rows(M, K), *w = bit_rows(N, K), *bits = bit_rows(1, N);
    uint8_t *file, *direction = in_file(bits, row);
    uint16_t *threshold = malloc(2 * N);
    uint64_t *expected = block(8 * M * row), *actual = block(8 * M * row);
    float *affine = reals(2 * N), *stream = reals(M * N), a = slope();
    float *tiled = in_tiles(kernels, stream, M, N);
    void *room = malloc(b1_packed_size(N, K) + 63);
    uint8_t *packed = aligned(room);
    const uint64_t opposite = below(2) ? ~(uint64_t)0 : 0;
    size_t m, n, k;

    if (below(2)) /* every bit equal, or every bit different, in one row */
        for (n = 0; n < N; n++)
            for (k = 0; k < words(K); k++)
                w[n * words(K) + k] = x[k] ^ opposite;
    trim(w, N, K);
    for (n = 0; n < N; n++) {
        const uint32_t d = differing(K, x, w + n * words(K));

        /* just below, at, or above a count */
        threshold[n] = (uint16_t)(d + below(3) - (d > 0));
        if (!below(10))
            threshold[n] = (uint16_t)(below(2) ? K + 1 : 0);
    }
    file = in_file(w, N * words(K));
    if (kernels->b1_pack)
        kernels->b1_pack(N, K, file, packed);
    else
        packed = file;
    memset(expected, 0, 8 * M * row);
    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++)
            expected[m * row + n / 64] |=
                (uint64_t)((differing(K, x + m * words(K), w + n * words(K)) <
                            threshold[n]) ^
                           (bits[n / 64] >> n % 64 & 1))
                << n % 64;
    kernels->b1_gemm_bits(M, N, K, x, packed, threshold, direction, actual);
    same("b1_gemm_bits", expected, actual, 8 * M * row, M, N, K);
    memset(expected, 0, 8 * M * row);
    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++) {
            const uint32_t d =
                differing(K, x + m * words(K), w + n * words(K));
            float z = (float)((int32_t)K - 2 * (int32_t)d) * affine[n], y;

            z = z + affine[N + n];
            y = z >= 0 ? z : z * a;
            stream[m * N + n] = 0 + stream[m * N + n] + y;
            expected[m * row + n / 64] |= (uint64_t)(stream[m * N + n] >= 0)
                                          << n % 64;
        }
    kernels->b1_gemm_real(M, N, K, x, packed, affine, a, tiled, actual);
    same("b1_gemm_real", expected, actual, 8 * M * row, M, N, K);
    same_stream("b1_gemm_real", stream, tiled, M, N, K);
    free(x), free(w), free(bits), free(file), free(direction);
    free(threshold), free(expected), free(actual), free(affine), free(stream);
    free(tiled), free(room);
}

static void test_memory(size_t M, size_t N, size_t taps, size_t left,
                        size_t dilation)
{
    const size_t row = words(N);
    uint64_t *x = bit_rows(M, N), *w = bit_rows(taps, N);
    uint8_t *file;
    uint64_t *expected = block(8 * M * row), *actual = block(8 * M * row);
    float *affine = reals(2 * N), *stream = reals(M * N), a = slope();
    float *whole = in_tiles(&bifsmn_kernels_scalar, stream, M, N);
    float *tiled = in_tiles(kernels, stream, M, N);

    if (below(2)) { /* all taps equal, or all different; +1 outside */
        memset(x, 255, 8 * M * row);
        memset(w, below(2) ? 255 : 0, 8 * taps * row);
        trim(x, M, N), trim(w, taps, N);
    }
    file = in_file(w, taps * row);
    bifsmn_kernels_scalar.b1_memory_real(M, N, taps, left, dilation, x, file,
                                         affine, a, whole, expected);
    kernels->b1_memory_real(M, N, taps, left, dilation, x, file, affine, a,
                            tiled, actual);
    same("b1_memory_real", expected, actual, 8 * M * row, M, N, taps);
    same_stream("b1_memory_real", whole, tiled, M, N, taps);
    free(x), free(w), free(file), free(expected), free(actual), free(affine);
    free(stream), free(whole), free(tiled);
}

/* Of up to two planes; one may count twice what the other does. */
static size_t any_gains(uint32_t gain[2])
{
    static const uint32_t values[] = {1, 64, 255};

    gain[1] = values[below(3)];
    gain[0] = below(2) ? 2 * gain[1] : values[below(3)];
    return 1 + below(2);
}

/* Values that a table of that tile keeps of [M][N], whole tiles. */
static size_t tiled_size(const struct bifsmn_kernels *k, size_t M, size_t N)
{
    return (M + k->tile - 1) / k->tile * k->tile * N;
}

static size_t tiled_at(const struct bifsmn_kernels *k, size_t N, size_t m,
                       size_t n)
{
    return (m / k->tile * N + n) * k->tile + m % k->tile;
}

static void same_counts(const char *what, const uint32_t *expected,
                        const uint32_t *tiled, size_t M, size_t N, size_t K)
{
    uint32_t *actual = malloc(4 * M * N);
    size_t m, n;

    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++)
            actual[m * N + n] = tiled[tiled_at(kernels, N, m, n)];
    same(what, expected, actual, 4 * M * N, M, N, K);
    free(actual);
}

/* Against the definition, so of the scalar table too. */
static void test_gemm_counts(size_t M, size_t N, size_t K)
{
    uint32_t gain[2];
    const size_t planes = any_gains(gain), row = words(K);
    uint64_t *x = bit_rows(planes * M, K), *w = bit_rows(N, K);
    uint8_t *file;
    uint32_t *expected = malloc(4 * M * N);
    uint32_t *actual = block(4 * tiled_size(kernels, M, N));
    void *room = malloc(b1_packed_size(N, K) + 63);
    uint8_t *packed;
    size_t m, n, p;

    if (below(2)) { /* every bit differs, or none */
        memset(x, 255, 8 * planes * M * row);
        memset(w, below(2) ? 255 : 0, 8 * N * row);
        trim(x, planes * M, K), trim(w, N, K);
    }
    memset(expected, 0, 4 * M * N);
    for (p = 0; p < planes; p++)
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n++)
                expected[m * N + n] +=
                    gain[p] *
                    differing(K, x + (p * M + m) * row, w + n * row);
    file = in_file(w, N * row);
    packed = kernels->b1_pack ? aligned(room) : file;
    if (kernels->b1_pack)
        kernels->b1_pack(N, K, file, packed);
    kernels->b1_gemm_counts(M, N, K, planes, x, packed, gain, actual);
    same_counts("b1_gemm_counts", expected, actual, M, N, K);
    free(x), free(w), free(file), free(expected), free(actual), free(room);
}

/* Against the definition, so of the scalar table too. */
static void test_memory_counts(size_t M, size_t N, size_t taps, size_t left,
                               size_t dilation)
{
    uint32_t gain[2];
    const size_t row = words(N), planes = any_gains(gain);
    uint64_t *x = bit_rows(planes * M, N), *w = bit_rows(taps, N);
    uint8_t *file;
    uint32_t *expected = calloc(M * N, 4);
    uint32_t *actual = block(4 * tiled_size(kernels, M, N));
    size_t p, m, n, j;

    if (below(2)) { /* all taps differ, but outside */
        memset(x, 255, 8 * planes * M * row);
        memset(w, 0, 8 * taps * row);
        trim(x, planes * M, N);
    }
    file = in_file(w, taps * row);
    for (p = 0; p < planes; p++)
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n++)
                for (j = 0; j < taps; j++) {
                    const size_t t = m + j * dilation - left * dilation;
                    const uint64_t in =
                        t < M ? x[(p * M + t) * row + n / 64] >> n % 64 : 1;

                    if ((in ^ w[j * row + n / 64] >> n % 64) & 1)
                        expected[m * N + n] += gain[p];
                }
    kernels->b1_memory_counts(M, N, taps, left, dilation, planes, x, file, gain,
                              actual);
    same_counts("b1_memory_counts", expected, actual, M, N, taps);
    free(x), free(w), free(file), free(expected), free(actual);
}

/* What follows from counts and from the stream, against the definition. */
static void test_cuts(size_t M, size_t N, size_t cuts)
{
    const size_t row = words(N), plane = M * row, out = cuts == 3 ? 2 : 1;
    const uint32_t most = 1 << below(25);
    uint32_t *d = block(4 * tiled_size(kernels, M, N)), *cut = malloc(12 * N);
    uint64_t *bits = bit_rows(1, N);
    uint8_t *direction = in_file(bits, row);
    float *affine = reals(2 * N), *slopes = reals(N), *level = reals(cuts * N);
    float *plain = reals(M * N);
    float *stream = in_tiles(&bifsmn_kernels_scalar, plain, M, N);
    float *tiled = in_tiles(kernels, plain, M, N);
    uint64_t *counted = calloc(2 * plane, 8), *reached = calloc(2 * plane, 8);
    uint64_t *actual = block(16 * plane);
    size_t m, n, i;

    for (i = 0; i < tiled_size(kernels, M, N); i++)
        d[i] = (uint32_t)below(most + 1);
    for (i = 0; i < cuts * N; i++) { /* at a value, or next to it */
        const size_t at = tiled_at(kernels, N, below(M), i % N);

        cut[i] = below(10) ? d[at] + (uint32_t)below(2)
                           : (uint32_t)(below(2) ? INT32_MAX : 0);
        if (below(2))
            level[i] = tiled[at];
    }
    for (i = 0; cuts == 1 && i < 2 * N; i++)
        cut[N + i] = 0;
    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++) {
            const size_t at = tiled_at(kernels, N, m, n);
            const uint64_t turn = bits[n / 64] >> n % 64 & 1;
            uint64_t c[3], s[3];
            float z, below_zero;

            for (i = 0; i < 3; i++) {
                c[i] = d[at] < cut[i * N + n];
                s[i] = stream[m * N + n] >= level[(cuts == 3 ? i : 0) * N + n];
            }
            counted[m * row + n / 64] |= (c[1] ^ turn) << n % 64;
            counted[plane + m * row + n / 64] |= (c[0] ^ c[1] ^ c[2] ^ turn)
                                                 << n % 64;
            reached[m * row + n / 64] |= s[1] << n % 64;
            reached[plane + m * row + n / 64] |= (s[0] ^ s[1] ^ s[2]) << n % 64;

            z = (float)((int32_t)most - 2 * (int32_t)d[at]) * affine[n];
            z = z + affine[N + n];
            below_zero = z * slopes[n];
            stream[m * N + n] =
                stream[m * N + n] + (z >= 0 ? z : below_zero);
        }
    kernels->counts_to_bits(M, N, d, cut, direction, actual);
    same("counts_to_bits", counted, actual, 16 * plane, M, N, cuts);
    kernels->stream_to_bits(M, N, cuts, tiled, level, actual);
    same("stream_to_bits", reached, actual, 8 * out * plane, M, N, cuts);
    kernels->counts_to_stream(M, N, most, d, affine, slopes, tiled);
    same_stream("counts_to_stream", stream, tiled, M, N, most);
    free(d), free(cut), free(bits), free(direction), free(affine);
    free(slopes), free(level), free(plain), free(stream), free(tiled);
    free(counted), free(reached), free(actual);
}

static void test_head(size_t N, size_t K)
{
    float *x = malloc(4 * K), *w = malloc(4 * N * K), sum = 0;
    float *expected = malloc(4 * N), *actual = malloc(4 * N);
    size_t n, k;

    for (k = 0; k < K; k++) {
        x[k] = (float)(int32_t)draw() * 0x1p-31f;
        sum += fabsf(x[k]);
    }
    for (k = 0; k < N * K; k++)
        w[k] = (float)below(256) - 128;
    bifsmn_kernels_scalar.head(N, K, x, w, expected);
    if (kernels->head_pack)
        kernels->head_pack(N, K, w);
    kernels->head(N, K, x, w, actual);
    for (n = 0; n < N; n++)
        if (!(fabsf(actual[n] - expected[n]) <= 1e-6f * 128 * sum)) {
            printf("head of %s differs at N = %zu, K = %zu\n",
                   kernels->name, N, K);
            exit(1);
        }
    free(x), free(w), free(expected), free(actual);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70,
                                   127, 128, 129, 192, 200, 248, 249, 255, 256, 257,
                                   384, 385, 399, 400, 401, 511, 512, 513};
    static const size_t positions[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17};
    const size_t S = sizeof sizes / sizeof sizes[0];
    const size_t P = sizeof positions / sizeof positions[0];
    size_t t, i, j;

    for (t = 0; (kernels = bifsmn_kernels_at(t)) != NULL; t++) {
        if (argc > 1 && strcmp(argv[1], kernels->name))
            continue;
        for (i = 0; i < 200; i++) {
            const size_t taps = 1 + below(below(10) ? 12 : 600);

            test_memory_counts(positions[below(P)], sizes[below(S)], taps,
                               below(taps), 1 + below(3));
        }
        for (i = 0; i < 50; i++) /* around the most that a byte holds */
            test_memory_counts(3, 70, (i % 2 ? 126 : 254) + i % 5, 60, 1);
        for (i = 0; i < 100; i++) /* up to 7 taps, which NEON has apart */
            test_memory_counts(positions[below(P)], 64 * (1 + below(3)),
                               1 + i % 8, below(1 + i % 8), 1 + below(9));
        for (i = 0; i < S; i++)
            for (j = 0; j < P; j++)
                test_cuts(positions[j], sizes[i], i % 3 ? 3 : 1);
        for (i = 0; i < S; i++)
            for (j = 0; j < S; j++)
                test_gemm_counts(positions[below(P)], sizes[i], sizes[j]);
        test_gemm_counts(5, 33, 65534);
        for (i = 0; i < S; i++)
            for (j = 0; j < S; j++)
                test_b1_gemm(positions[below(P)], sizes[i], sizes[j]);
        test_b1_gemm(1000, 70, 100);
        test_b1_gemm(5, 33, 65534);
        if (kernels == &bifsmn_kernels_scalar)
            continue;
        for (i = 0; i < 300; i++)
            test_i8_conv(positions[below(P)], 1 + below(70), 1 + below(6),
                         1 + below(20), 1 + below(4));
        for (i = 0; i < 100; i++) /* which NEON has apart */
            test_i8_conv(positions[below(P)], 1 + below(70), 5, 5, 2);
        test_i8_conv(3, 5, 255, 255, 2);
        for (i = 0; i < 300; i++) {
            const size_t taps = below(10) ? 1 + below(12) : 1 + below(700);

            test_memory(positions[below(P)], sizes[below(S)], taps,
                        below(taps), 1 + below(3));
        }
        for (i = 0; i < 50; i++) /* around the most that a byte holds */
            test_memory(3, 70, (i % 2 ? 126 : 254) + i % 5, 60, 1);
        for (i = 0; i < 100; i++) /* up to 7 taps, which NEON has apart */
            test_memory(positions[below(P)], 64 * (1 + below(3)), 1 + i % 8,
                        below(1 + i % 8), 1 + below(9));
        for (i = 0; i < S; i++)
            test_head(1 + below(20), sizes[i]);
        printf("%s equals scalar\n", kernels->name);
    }
    return 0;
}
