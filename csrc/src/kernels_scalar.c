/* kernels_scalar.c: every kernel in portable C99, and the reference for the
 * others.
 *
 * Few processors without vectors count the ones of a word, so sums of bits are
 * looked up. Four inputs have 16 patterns of weights; what they differ from
 * each goes into a table, which serves up to 64 outputs, or all that are counted.
 * A register holds that of several positions, a byte each. */

#include "kernels.h"

#include "bytes.h"

enum { BLOCK_SCALAR = 64, I8_OUTPUTS_SCALAR = 16, I8_TAPS_SCALAR = 32 };

/* A byte for each position. */
#if UINTPTR_MAX > 0xffffffffu
typedef uint64_t scalar_lanes;
#else
typedef uint32_t scalar_lanes;
#endif
enum { LANES_SCALAR = sizeof(scalar_lanes) };
#define ALL_LANES_SCALAR(byte) ((scalar_lanes)(-1) / 255 * (byte))

/* For a word of inputs: [its groups of four][patterns of four weights]. */
typedef scalar_lanes scalar_table[16][16];

/* Byte `b` of the words of up to LANES_SCALAR positions. */
static inline scalar_lanes bytes__scalar(size_t positions, size_t row,
                                         const uint64_t *x, size_t b)
{
    scalar_lanes bytes = 0;
    size_t p;

    for (p = 0; p < positions; p++) {
        const uint64_t word = x[p * row];
        const uint32_t half = (uint32_t)(b < 4 ? word : word >> 32);

        bytes |= (scalar_lanes)(half >> 8 * (b % 4) & 255) << 8 * p;
    }
    return bytes;
}

/* Input i of a byte, which counts once, or twice, or both. */
static inline scalar_lanes input__scalar(scalar_lanes ones, scalar_lanes twos,
                                         int i)
{
    const scalar_lanes one = ALL_LANES_SCALAR(1);

    return (ones >> i & one) + 2 * (twos >> i & one);
}

/* Inputs `ones` count once and `twos`, if there are some, twice: an input where
 * its weight is 0, else `most` less it. */
static void fill_table__scalar(size_t positions, size_t row,
                               const uint64_t *ones, const uint64_t *twos,
                               scalar_table t)
{
    const scalar_lanes most = ALL_LANES_SCALAR(twos ? 3 : 1);
    size_t b, g, i;

    for (b = 0; b < 8; b++) {
        scalar_lanes one = bytes__scalar(positions, row, ones, b);
        scalar_lanes two = twos ? bytes__scalar(positions, row, twos, b) : 0;

        for (g = 2 * b; g < 2 * b + 2; g++, one >>= 4, two >>= 4) {
            const scalar_lanes p = input__scalar(one, two, 0);
            const scalar_lanes q = input__scalar(one, two, 1);
            const scalar_lanes r = input__scalar(one, two, 2);
            const scalar_lanes s = input__scalar(one, two, 3);
            const scalar_lanes high[4] = {r + s, most - r + s, r + most - s,
                                          2 * most - r - s};
            scalar_lanes *out = t[g];

            for (i = 0; i < 4; i++, out += 4) {
                out[0] = high[i] + p + q;
                out[1] = high[i] + most - p + q;
                out[2] = high[i] + p + most - q;
                out[3] = high[i] + 2 * most - p - q;
            }
        }
    }
}

/* In how many places a word of each output differs, onto sums of words before
 * if there are `more`; the outputs' words are `row` apart. */
static void look_up__scalar(size_t outputs, size_t row, scalar_table t,
                            const uint8_t *w, int more,
                            scalar_lanes sums[BLOCK_SCALAR])
{
    size_t n;

    for (n = 0; n < outputs; n++, w += 8 * row) {
        const uint32_t low = load_u32(w), high = load_u32(w + 4);
        scalar_lanes sum = more ? sums[n] : 0;

        sum += t[0][low & 15] + t[1][low >> 4 & 15];
        sum += t[2][low >> 8 & 15] + t[3][low >> 12 & 15];
        sum += t[4][low >> 16 & 15] + t[5][low >> 20 & 15];
        sum += t[6][low >> 24 & 15] + t[7][low >> 28];
        sum += t[8][high & 15] + t[9][high >> 4 & 15];
        sum += t[10][high >> 8 & 15] + t[11][high >> 12 & 15];
        sum += t[12][high >> 16 & 15] + t[13][high >> 20 & 15];
        sum += t[14][high >> 24 & 15] + t[15][high >> 28];
        sums[n] = sum;
    }
}

/* d [positions][step] += gain * sums */
static void add_lanes__scalar(size_t positions, size_t outputs, size_t step,
                              const scalar_lanes sums[BLOCK_SCALAR],
                              uint32_t gain, uint32_t *d)
{
    size_t p, n;

    for (p = 0; p < positions; p++)
        for (n = 0; n < outputs; n++)
            d[p * step + n] += gain * (uint32_t)(sums[n] >> 8 * p & 255);
}

/* d [positions][step] += gain * differing bits of up to LANES_SCALAR rows and
 * of w [outputs][row], in words; of rows `twos`, if there are some, they count
 * twice. */
static void differences__scalar(size_t positions, size_t outputs, size_t row,
                                const uint64_t *ones, const uint64_t *twos,
                                const uint8_t *w, uint32_t gain, uint32_t *d,
                                size_t step)
{
    /* A byte holds 3 * 64. */
    const size_t at_once = twos || outputs > BLOCK_SCALAR ? 1 : 3;
    scalar_lanes sums[BLOCK_SCALAR];
    scalar_table t;
    size_t k, n;

    for (k = 0; k < row; k++) {
        fill_table__scalar(positions, row, ones + k, twos ? twos + k : NULL, t);
        for (n = 0; n < outputs; n += BLOCK_SCALAR) {
            const size_t block = min_size(outputs - n, BLOCK_SCALAR);

            look_up__scalar(block, row, t, w + 8 * (n * row + k),
                            k % at_once != 0, sums);
            if ((k + 1) % at_once == 0 || k + 1 == row)
                add_lanes__scalar(positions, block, step, sums, gain, d + n);
        }
    }
}

/* The bit outputs of one block. */
static uint64_t bit_outputs__scalar(size_t outputs,
                                    const uint32_t d[BLOCK_SCALAR],
                                    const uint16_t *threshold,
                                    uint64_t direction)
{
    uint64_t word = 0;

    for (; outputs > 0; outputs--)
        word = word << 1 | (d[outputs - 1] < threshold[outputs - 1]);
    return word ^ direction;
}

/* The real outputs of one block, K - 2 d each, onto `stream`; its signs. */
static uint64_t real_outputs__scalar(size_t outputs, size_t K,
                                     const uint32_t d[BLOCK_SCALAR],
                                     const float *scale, const float *bias,
                                     float slope, float *stream)
{
    uint64_t word = 0;
    size_t i;

    for (i = 0; i < outputs; i++) {
        float z = (float)((int32_t)K - 2 * (int32_t)d[i]) * scale[i];
        float below;

        z = z + bias[i];
        below = z * slope;
        stream[i] = stream[i] + (z >= 0 ? z : below);
    }
    for (i = outputs; i > 0; i--)
        word = word << 1 | (stream[i - 1] >= 0);
    return word;
}

/* The weights of taps `from` on of some outputs, in 16 bits, which compilers
 * know how to multiply and add; zeros after the last. */
static void widen_weights__scalar(size_t outputs, size_t K, size_t from,
                                  const uint8_t *w,
                                  int16_t wide[I8_OUTPUTS_SCALAR]
                                              [I8_TAPS_SCALAR])
{
    const size_t taps = min_size(K - from, I8_TAPS_SCALAR);
    size_t i, k;

    memset(wide, 0, I8_OUTPUTS_SCALAR * sizeof *wide);
    for (i = 0; i < outputs; i++)
        for (k = 0; k < taps; k++)
            wide[i][k] = (int8_t)w[i * K + from + k];
}

/* Onto the sums of four outputs: an input is loaded once for them. */
static void dot__scalar_4(size_t taps, const int16_t *x,
                          int16_t w[4][I8_TAPS_SCALAR], int32_t *sum)
{
    int32_t a = sum[0], b = sum[1], c = sum[2], d = sum[3];
    size_t k;

    for (k = 0; k < taps; k++) {
        a += x[k] * w[0][k];
        b += x[k] * w[1][k];
        c += x[k] * w[2][k];
        d += x[k] * w[3][k];
    }
    sum[0] = a;
    sum[1] = b;
    sum[2] = c;
    sum[3] = d;
}

static uint16_t sums_reached__scalar(size_t outputs, const int32_t *sum,
                                     const int32_t *threshold)
{
    uint16_t bits = 0;
    size_t i;

    for (i = outputs; i > 0; i--)
        bits = (uint16_t)(bits << 1 | (sum[i - 1] >= threshold[i - 1]));
    return bits;
}

static void i8_conv_bits__scalar_1x16(size_t M, size_t N, size_t rows,
                                      size_t columns, const uint8_t *x,
                                      size_t step, size_t pitch,
                                      const uint8_t *w, size_t cuts,
                                      const int32_t *threshold,
                                      const uint8_t *direction, size_t plane,
                                      uint64_t *out)
{
    const size_t K = rows * columns;
    int16_t weights[I8_OUTPUTS_SCALAR][I8_TAPS_SCALAR];
    size_t m, n, i, k, at, r, c;

    memset(out, 0, 8 * M * words(N));
    if (cuts == 3)
        memset(out + plane, 0, 8 * M * words(N));
    for (n = 0; n < N; n += I8_OUTPUTS_SCALAR)
        for (m = 0; m < M; m++) {
            uint64_t *to = out + m * words(N) + n / 64;
            const int32_t *t = threshold + n;
            const size_t outputs = min_size(N - n, I8_OUTPUTS_SCALAR);
            const uint8_t *from = x + m * step;
            int32_t sum[I8_OUTPUTS_SCALAR] = {0};
            uint64_t bits;

            for (at = r = c = 0; at < K; at += I8_TAPS_SCALAR) {
                const size_t taps =
                    (min_size(K - at, I8_TAPS_SCALAR) + 7) / 8 * 8;
                int16_t inputs[I8_TAPS_SCALAR] = {0};

                if (m == 0 || K > I8_TAPS_SCALAR)
                    widen_weights__scalar(outputs, K, at, w + n * K, weights);
                for (k = 0; k < I8_TAPS_SCALAR && r < rows; k++) {
                    inputs[k] = from[r * pitch + c];
                    if (++c == columns)
                        c = 0, r++;
                }
                for (i = 0; i < outputs; i += 4)
                    dot__scalar_4(taps, inputs, weights + i, sum + i);
            }
            bits = sums_reached__scalar(outputs, sum, cuts == 3 ? t + N : t) ^
                   load_u16(direction + n / 8);
            *to |= bits << n % 64;
            if (cuts == 3) {
                bits ^= sums_reached__scalar(outputs, sum, t) ^
                        sums_reached__scalar(outputs, sum, t + 2 * N);
                to[plane] |= bits << n % 64;
            }
        }
}

static void b1_gemm_bits__scalar_1x64(size_t M, size_t N, size_t K,
                                      const uint64_t *x, const uint8_t *w,
                                      const uint16_t *threshold,
                                      const uint8_t *direction, uint64_t *out)
{
    const size_t row = words(K);
    uint32_t d[LANES_SCALAR][BLOCK_SCALAR];
    size_t m, n, p;

    for (m = 0; m < M; m += LANES_SCALAR)
        for (n = 0; n < N; n += BLOCK_SCALAR) {
            const size_t positions = min_size(M - m, LANES_SCALAR);
            const size_t outputs = min_size(N - n, BLOCK_SCALAR);

            memset(d, 0, sizeof d);
            differences__scalar(positions, outputs, row, x + m * row, NULL,
                                w + 8 * n * row, 1, d[0], BLOCK_SCALAR);
            for (p = 0; p < positions; p++)
                out[(m + p) * words(N) + n / 64] =
                    bit_outputs__scalar(outputs, d[p], threshold + n,
                                        load_u64(direction + n / 8));
        }
}

static void b1_gemm_real__scalar_1x64(size_t M, size_t N, size_t K,
                                      const uint64_t *x, const uint8_t *w,
                                      const float *affine, float slope,
                                      float *stream, uint64_t *sign)
{
    const size_t row = words(K);
    uint32_t d[LANES_SCALAR][BLOCK_SCALAR];
    size_t m, n, p;

    for (m = 0; m < M; m += LANES_SCALAR)
        for (n = 0; n < N; n += BLOCK_SCALAR) {
            const size_t positions = min_size(M - m, LANES_SCALAR);
            const size_t outputs = min_size(N - n, BLOCK_SCALAR);

            memset(d, 0, sizeof d);
            differences__scalar(positions, outputs, row, x + m * row, NULL,
                                w + 8 * n * row, 1, d[0], BLOCK_SCALAR);
            for (p = 0; p < positions; p++)
                sign[(m + p) * words(N) + n / 64] = real_outputs__scalar(
                    outputs, K, d[p], affine + n, affine + N + n, slope,
                    stream + (m + p) * N + n);
        }
}

/* Differing taps of 64 channels at position m of M; x and w are their word of
 * the first position and tap, `row` words before that of the next. They are
 * counted in the bytes of words, eight channels at once: byte b of count[i] is
 * that of channel 8 b + i, and of at most 255 taps. */
static void memory_differences__scalar(size_t m, size_t M, size_t row,
                                       size_t taps, size_t left,
                                       size_t dilation, const uint64_t *x,
                                       const uint8_t *w,
                                       uint32_t d[BLOCK_SCALAR])
{
    enum { MOST_COUNTED = 255 };
    const uint64_t lowest = 0x0101010101010101u;
    size_t i, j, b, end;

    memset(d, 0, 4 * BLOCK_SCALAR);
    for (j = 0; j < taps;) {
        uint64_t count[8] = {0};

        end = j + min_size(taps - j, MOST_COUNTED);
        for (; j < end; j++) {
            /* Before the first position this wraps, far beyond M. */
            const size_t t = m + j * dilation - left * dilation;
            const uint64_t inputs = t < M ? x[t * row] : ~(uint64_t)0;
            const uint64_t differ = inputs ^ load_u64(w + 8 * j * row);

            for (i = 0; i < 8; i++)
                count[i] += differ >> i & lowest;
        }
        for (b = 0; b < 8; b++)
            for (i = 0; i < 8; i++)
                d[8 * b + i] += (uint32_t)(count[i] >> 8 * b & 255);
    }
}

static void b1_memory_real__scalar_1x64(size_t M, size_t N, size_t taps,
                                        size_t left, size_t dilation,
                                        const uint64_t *x, const uint8_t *w,
                                        const float *affine, float slope,
                                        float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    uint32_t d[BLOCK_SCALAR];
    size_t m, n;

    for (m = 0; m < M; m++)
        for (n = 0; n < N; n += BLOCK_SCALAR) {
            memory_differences__scalar(m, M, row, taps, left, dilation,
                                       x + n / 64, w + n / 8, d);
            sign[m * row + n / 64] = real_outputs__scalar(
                min_size(N - n, BLOCK_SCALAR), taps, d, affine + n,
                affine + N + n, slope, stream + m * N + n);
        }
}

/* Four sums at once: one would wait for each addition to end. */
static void head__scalar_1x4(size_t N, size_t K, const float *x,
                                 const float *w, float *out)
{
    size_t n, k, i;

    for (n = 0; n < N; n++, w += K) {
        float sum[4] = {0};

        for (k = 0; k + 4 <= K; k += 4)
            for (i = 0; i < 4; i++)
                sum[i] += x[k + i] * w[k + i];
        for (; k < K; k++)
            sum[0] += x[k] * w[k];
        out[n] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

static void b1_gemm_counts__scalar_1x64(size_t M, size_t N, size_t K,
                                        size_t planes, const uint64_t *x,
                                        const uint8_t *w, const uint32_t *gain,
                                        uint32_t *d)
{
    const size_t row = words(K);
    const int twice = planes == 2 && gain[0] == 2 * gain[1];
    size_t m, p;

    memset(d, 0, 4 * M * N);
    for (m = 0; m < M; m += LANES_SCALAR) {
        const size_t positions = min_size(M - m, LANES_SCALAR);

        if (twice)
            differences__scalar(positions, N, row, x + (M + m) * row,
                                x + m * row, w, gain[1], d + m * N, N);
        for (p = 0; p < planes && !twice; p++)
            differences__scalar(positions, N, row, x + (p * M + m) * row, NULL,
                                w, gain[p], d + m * N, N);
    }
}

static void b1_memory_counts__scalar_1x64(size_t M, size_t N, size_t taps,
                                          size_t left, size_t dilation,
                                          size_t planes, const uint64_t *x,
                                          const uint8_t *w,
                                          const uint32_t *gain, uint32_t *d)
{
    const size_t row = words(N);
    uint32_t count[BLOCK_SCALAR];
    size_t p, m, n, i;

    memset(d, 0, 4 * M * N);
    for (p = 0; p < planes; p++, x += M * row)
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n += BLOCK_SCALAR) {
                memory_differences__scalar(m, M, row, taps, left, dilation,
                                           x + n / 64, w + n / 8, count);
                for (i = 0; i < min_size(N - n, BLOCK_SCALAR); i++)
                    d[m * N + n + i] += gain[p] * count[i];
            }
}

/* 64 bytes of 0 or 1 to a word, the first to its lowest bit. */
static uint64_t join_bytes(const uint8_t bytes[BLOCK_SCALAR])
{
    uint64_t word = 0;
    size_t i;

    /* The factor moves byte k to bit 56 + k; no two of its terms meet. */
    for (i = 0; i < BLOCK_SCALAR; i += 8)
        word |= (load_u64(bytes + i) * 0x0102040810204080u >> 56) << i;
    return word;
}

static uint64_t below__scalar(size_t count, const void *counts,
                              const void *cuts)
{
    const int32_t *d = counts, *cut = cuts; /* vectors compare signed numbers */
    uint8_t bytes[BLOCK_SCALAR] = {0};
    size_t i;

    for (i = 0; i < count; i++)
        bytes[i] = d[i] < cut[i];
    return join_bytes(bytes);
}

static uint64_t reached__scalar(size_t count, const void *stream,
                                const void *cuts)
{
    const float *x = stream, *cut = cuts;
    uint8_t bytes[BLOCK_SCALAR] = {0};
    size_t i;

    for (i = 0; i < count; i++)
        bytes[i] = x[i] >= cut[i];
    return join_bytes(bytes);
}

/* values [M][N] and cut [cuts][N] of 32 bits each; direction NULL: none. */
static void cut_bits__scalar(uint64_t (*compare)(size_t, const void *,
                                                 const void *),
                             size_t M, size_t N, size_t cuts,
                             const uint8_t *values, const uint8_t *cut,
                             const uint8_t *direction, uint64_t *out)
{
    size_t m, n, i;

    for (m = 0; m < M; m++, values += 4 * N)
        for (n = 0; n < N; n += BLOCK_SCALAR, out++) {
            const uint64_t turn = direction ? load_u64(direction + n / 8) : 0;
            uint64_t bits[3] = {0};

            for (i = 0; i < cuts; i++)
                bits[i] = compare(min_size(N - n, BLOCK_SCALAR), values + 4 * n,
                                  cut + 4 * (i * N + n));
            out[0] = bits[cuts / 2] ^ turn;
            if (cuts == 3)
                out[M * words(N)] = bits[0] ^ bits[1] ^ bits[2] ^ turn;
        }
}

static void counts_to_bits__scalar(size_t M, size_t N, const uint32_t *d,
                                   const uint32_t *cut,
                                   const uint8_t *direction, uint64_t *out)
{
    cut_bits__scalar(below__scalar, M, N, 3, (const uint8_t *)d,
                     (const uint8_t *)cut, direction, out);
}

static void counts_to_stream__scalar(size_t M, size_t N, uint32_t most,
                                     const uint32_t *d, const float *affine,
                                     const float *slope, float *stream)
{
    size_t m, n;

    for (m = 0; m < M; m++, d += N, stream += N)
        for (n = 0; n < N; n++) {
            float z = (float)((int32_t)most - 2 * (int32_t)d[n]) * affine[n];
            float below;

            z = z + affine[N + n];
            below = z * slope[n];
            stream[n] = stream[n] + (z >= 0 ? z : below);
        }
}

static void stream_to_bits__scalar(size_t M, size_t N, size_t cuts,
                                   const float *stream, const float *cut,
                                   uint64_t *out)
{
    cut_bits__scalar(reached__scalar, M, N, cuts, (const uint8_t *)stream,
                     (const uint8_t *)cut, NULL, out);
}

const struct bifsmn_kernels bifsmn_kernels_scalar = {
    "scalar",
    1,
    NULL,
    NULL,
    NULL,
    i8_conv_bits__scalar_1x16,
    b1_gemm_bits__scalar_1x64,
    b1_gemm_real__scalar_1x64,
    b1_memory_real__scalar_1x64,
    head__scalar_1x4,
    b1_gemm_counts__scalar_1x64,
    b1_memory_counts__scalar_1x64,
    counts_to_bits__scalar,
    counts_to_stream__scalar,
    stream_to_bits__scalar,
};
