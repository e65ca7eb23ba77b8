/* neon.c: every NEON kernel against the scalar one, on random data and on what
 * random data never hits. Prints what differs; exit status 1 if anything did.
 *
 * Inputs end where their memory ends, so that reading on is caught, if this is
 * built with -fsanitize=address; outputs are followed by a mark. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "kernels.h"

static const struct bifsmn_kernels *tables[2] = {&bifsmn_kernels_scalar,
                                                 &bifsmn_kernels_neon};
static uint32_t noise = 1;
static int failures, cases;

enum { MARK = 0x5a };

static uint32_t random32(void)
{
    noise = noise * 1664525u + 1013904223u;
    return noise >> 8 ^ noise << 13;
}

/* From low to high, both included. */
static int between(int low, int high)
{
    return low + (int)(random32() % (uint32_t)(high - low + 1));
}

static void *take(size_t bytes)
{
    uint8_t *p = malloc(bytes + 1);

    memset(p, 0, bytes);
    p[bytes] = MARK;
    return p;
}

/* Rows of n bits, padded with zeros; fill: 0, 1, or 2 for random ones. */
static void *take_bits(size_t rows, size_t n, int fill)
{
    uint64_t *bits = take(8 * rows * words(n));
    size_t i, k;

    for (i = 0; i < rows; i++)
        for (k = 0; k < n; k++)
            bits[i * words(n) + k / 64] |=
                (uint64_t)(fill == 2 ? random32() >> 7 & 1 : (uint32_t)fill)
                << k % 64;
    return bits;
}

static void expect(const char *op, size_t M, size_t N, size_t K, int variant,
                   const void *a, const void *b, size_t bytes)
{
    cases++;
    if (!memcmp(a, b, bytes) && ((const uint8_t *)b)[bytes] == MARK)
        return;
    printf("%s differs: M %zu N %zu K %zu variant %d\n", op, M, N, K, variant);
    failures++;
}

/* How the bits of a case are filled, inputs and weights. */
static const int fills[5][2] = {{2, 2}, {1, 0}, {1, 1}, {0, 1}, {2, 0}};

static void check_gemm_bits(size_t M, size_t N, size_t K, int variant)
{
    uint64_t *x = take_bits(M, K, fills[variant][0]);
    uint8_t *w = take_bits(N, K, fills[variant][1]);
    uint8_t *direction = take_bits(1, N, variant % 2 ? 2 : 0);
    uint16_t *threshold = take(2 * N);
    uint64_t *out[2];
    size_t n;
    int i;

    for (n = 0; n < N; n++) {
        const int limits[] = {0, 1, (int)K / 2, (int)K, (int)K + 1,
                              between(0, (int)K + 1)};

        /* Random sums are near K / 2, and there the ties. */
        threshold[n] = (uint16_t)limits[n % 7 ? 5 : n / 7 % 6];
        if (n % 3 == 1 && K > 8)
            threshold[n] = (uint16_t)((int)K / 2 + between(-4, 4));
    }
    for (i = 0; i < 2; i++) {
        out[i] = take(8 * M * words(N));
        tables[i]->b1_gemm_bits(M, N, K, x, w, threshold, direction, out[i]);
    }
    expect("b1_gemm_bits", M, N, K, variant, out[0], out[1], 8 * M * words(N));
    free(x), free(w), free(direction), free(threshold);
    free(out[0]), free(out[1]);
}

static const float slopes[] = {0.25f, 0.0f, -0.5f, 1.0f, 1.5f};

/* The real ops on a stream of any layout; taps 0: the GEMM. */
static void check_real(size_t M, size_t N, size_t K, int variant, size_t taps,
                       size_t left, size_t dilation)
{
    const float slope = slopes[variant % 5];
    const size_t inputs = taps ? N : K;
    uint64_t *x = take_bits(M, inputs, fills[variant % 5][0]);
    uint8_t *w = take_bits(taps ? taps : N, inputs, fills[variant % 5][1]);
    float *affine = take(8 * N);
    float *start = take(4 * M * N), *end = take(4 * M * N);
    uint64_t *sign[2];
    size_t m, n;
    int i;

    for (n = 0; n < N; n++) {
        affine[n] = n % 5 == 3 ? 0.0f : (float)between(-1000, 1000) / 777;
        affine[N + n] = n % 4 == 1 ? -0.0f : (float)between(-999, 999) / 7;
    }
    for (n = 0; n < M * N; n++)
        start[n] = n % 3 ? 0.0f : (float)between(-9999, 9999) / 99;
    for (i = 0; i < 2; i++) {
        const struct bifsmn_kernels *k = tables[i];
        const size_t tile = k->tile, tiles = (M + tile - 1) / tile;
        float *stream = take(4 * tiles * tile * N);

        sign[i] = take(8 * M * words(N));
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n++)
                stream[(m / tile * N + n) * tile + m % tile] = start[m * N + n];
        if (taps)
            k->b1_memory_real(M, N, taps, left, dilation, x, w, affine, slope,
                              stream, sign[i]);
        else
            k->b1_gemm_real(M, N, K, x, w, affine, slope, stream, sign[i]);
        if (((uint8_t *)(stream + tiles * tile * N))[0] != MARK)
            failures++;
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n++) {
                const float value =
                    stream[(m / tile * N + n) * tile + m % tile];

                if (i == 0)
                    end[m * N + n] = value;
                else if (memcmp(&value, &end[m * N + n], 4)) {
                    printf("at %zu %zu: %a, not %a\n", m, n, (double)value,
                           (double)end[m * N + n]);
                    m = M - 1, n = N - 1;
                    failures++;
                }
            }
        free(stream);
    }
    expect(taps ? "b1_memory_real" : "b1_gemm_real", M, N, taps ? taps : K,
           variant, sign[0], sign[1], 8 * M * words(N));
    free(x), free(w), free(affine), free(start), free(end);
    free(sign[0]), free(sign[1]);
}

static void check_conv(size_t M, size_t N, size_t rows, size_t columns,
                       size_t step, int variant)
{
    const size_t padded =
        (N + CONV1_CHANNELS - 1) / CONV1_CHANNELS * CONV1_CHANNELS;
    const size_t pitch = (M - 1) * step + columns;
    const size_t values = rows * pitch + 3 * (step + 1);
    int16_t *x = take(2 * values), *w = take(2 * rows * columns * padded);
    const size_t fours = (columns + 3) / 4;
    int8_t *w4 = take(rows * fours * padded * 4);
    int32_t *threshold = take(4 * padded);
    uint8_t *direction = take_bits(1, N, 2);
    uint64_t *out[2];
    size_t i, n;

    for (i = 0; i < values; i++)
        x[i] = (int16_t)(variant ? -128 : between(-128, 127));
    for (n = 0; n < padded; n++) {
        const int32_t limits[] = {-(1 << 30), 1 << 30, 0,
                                  (int32_t)(16384 * rows * columns), 1};

        threshold[n] = n >= N ? 1 : variant ? limits[n % 5]
                                            : between(-20000, 20000);
        for (i = 0; i < rows * columns && n < N; i++) {
            const size_t four = i / columns * fours + i % columns / 4;
            const int value =
                variant ? (n % 2 ? -128 : 127) : between(-128, 127);

            w[i * padded + n] = (int16_t)value;
            w4[(four * padded + n) * 4 + i % columns % 4] = (int8_t)value;
        }
    }
    for (i = 0; i < 2; i++) {
        out[i] = take(8 * M * words(N));
        tables[i]->i16_conv_bits(M, N, rows, columns, step, pitch, x, w,
                                 w4, threshold, direction, out[i]);
    }
    expect("i16_conv_bits", M, N, rows * columns, variant, out[0], out[1],
           8 * M * words(N));
    free(x), free(w), free(w4), free(threshold), free(direction);
    free(out[0]), free(out[1]);
}

static void check_gemv(size_t N, size_t K)
{
    float *x = take(4 * K), *w = take(4 * N * K), *out[2];
    size_t i, n;

    for (i = 0; i < K; i++)
        x[i] = (float)between(-999, 999) / 100;
    for (i = 0; i < N * K; i++)
        w[i] = (float)between(-8, 7);
    for (i = 0; i < 2; i++) {
        out[i] = take(4 * N);
        tables[i]->f32_gemv(N, K, x, w, out[i]);
    }
    cases++;
    for (n = 0; n < N; n++) {
        const float off = out[0][n] - out[1][n];

        if (!(off < 0.01f && off > -0.01f)) {
            printf("f32_gemv differs: N %zu K %zu\n", N, K);
            failures++;
            break;
        }
    }
    free(x), free(w), free(out[0]), free(out[1]);
}

int main(void)
{
    static const size_t Ms[] = {1, 3, 7, 8, 9, 16, 21};
    static const size_t Ns[] = {1, 5, 16, 31, 32, 33, 63, 64, 65, 128, 192, 2000};
    static const size_t Ks[] = {1,   63,  64,  65,  100, 127, 128, 129, 192, 255,
                                256, 257, 384, 385, 399, 400, 401, 2100};
    size_t m, n, k;
    int variant;

    for (m = 0; m < sizeof Ms / sizeof Ms[0]; m++)
        for (n = 0; n < sizeof Ns / sizeof Ns[0]; n++) {
            for (k = 0; k < sizeof Ks / sizeof Ks[0]; k++)
                for (variant = 0; variant < 5; variant++) {
                    /* The large ones once, and never both. */
                    if ((Ns[n] == 2000 || Ks[k] == 2100) &&
                        (variant || Ms[m] % 8 != 1 || Ns[n] * Ks[k] > 999999))
                        continue;
                    check_gemm_bits(Ms[m], Ns[n], Ks[k], variant);
                    check_real(Ms[m], Ns[n], Ks[k], variant, 0, 0, 0);
                }
            for (k = 0; k < 12; k++) {
                static const size_t shapes[12][3] = { /* taps, left, dilation */
                    {5, 2, 1}, {5, 0, 2}, {5, 4, 2}, {1, 0, 1}, {7, 3, 2},
                    {7, 3, 3}, {2, 1, 8}, {2, 0, 8}, {2, 1, 9}, {8, 3, 1},
                    {4, 1, 50}, {6, 2, 1}};

                if (Ns[n] <= 192)
                    for (variant = 0; variant < 5; variant++)
                        check_real(Ms[m], Ns[n], 0, variant, shapes[k][0],
                                   shapes[k][1], shapes[k][2]);
            }
            for (k = 0; k < 12; k++) {
                tables[1] = k < 6 ? &bifsmn_kernels_neon : bifsmn_best_neon();
                if (Ns[n] <= 192)
                    check_conv(Ms[m], Ns[n], 1 + k % 5,
                               k % 2 ? 5 : (size_t)between(1, 9),
                               1 + k % 3, k % 6 > 3);
            }
            check_gemv(Ns[n], Ms[m] * 13 + 3);
        }
    check_gemm_bits(8, 64, 65534, 1); /* thresholds at the end of 16 bits */
    check_real(8, 3, 1 << 17, 1, 0, 0, 0);
    printf("%d cases, %d failures\n", cases, failures);
    return failures != 0;
}
