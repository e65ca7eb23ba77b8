/* kernels_avx2.c: kernels for x86 from Haswell and Zen on.
 *
 * No instruction counts bits here, but one looks up 32 bytes in a table of 16.
 * Four inputs of a position choose the table, four weights of an output the
 * byte in it, and the byte says how many differ. Weights are packed
 * [N/64][K/8][64], one byte for the next 8 inputs of each of 64 outputs. */

#include "kernels.h"

#ifdef BIFSMN_X86

#include <immintrin.h>
#include <string.h>

#include "bytes.h"

#define AVX2 __attribute__((target("avx2")))
/* Tiles: inlined where `rows` is a constant, so that sums stay in registers. */
#define TILE_AVX2 AVX2 static inline __attribute__((always_inline))

enum {
    BLOCK_AVX2 = 64, /* outputs of one word */
    ROWS_AVX2 = 4,   /* positions of a tile */
    CHANNELS = 16,   /* outputs of an i8 tile */
    CHUNK = 16,      /* inputs that an i8 tile widens at once */
    MOST_BYTES = 31  /* of inputs whose differing bits a byte can count */
};

/* [N/16][rows][columns/2][16][2] of i16, zeros after the last. */
static void i8_pack__avx2(size_t N, size_t rows, size_t columns,
                          const uint8_t *w, uint8_t *packed)
{
    int16_t *out = (int16_t *)packed;
    size_t n, r, c, i, j;

    for (n = 0; n < N; n += CHANNELS)
        for (r = 0; r < rows; r++)
            for (c = 0; c < columns; c += 2)
                for (i = n; i < n + CHANNELS; i++)
                    for (j = c; j < c + 2; j++)
                        *out++ = i < N && j < columns
                                     ? (int8_t)w[(i * rows + r) * columns + j]
                                     : 0;
}

static void b1_pack__avx2(size_t N, size_t K, const uint8_t *w,
                          uint8_t *packed)
{
    size_t n, k, i;

    for (n = 0; n < N; n += BLOCK_AVX2)
        for (k = 0; k < (K + 7) / 8; k++)
            for (i = n; i < n + BLOCK_AVX2; i++)
                *packed++ = i < N ? w[i * 8 * words(K) + k] : 0;
}

/* The inputs of an i8 tile. */
struct window_avx2 {
    size_t rows, columns;
    size_t to_next, to_row; /* bytes from a position or row to the next */
};

/* Sums of 16 outputs at `positions`. */
TILE_AVX2 void i8_sums(const size_t positions, struct window_avx2 in,
                       const uint8_t *x, const __m256i *w,
                       __m256i sum[ROWS_AVX2][2])
{
    int16_t wide[ROWS_AVX2][CHUNK];
    size_t r, c, k, m;

    for (m = 0; m < positions; m++)
        sum[m][0] = sum[m][1] = _mm256_setzero_si256();
    for (r = 0; r < in.rows; r++, x += in.to_row)
        for (c = 0; c < in.columns; c += CHUNK) {
            for (m = 0; m < positions; m++)
                _mm256_storeu_si256(
                    (__m256i *)wide[m],
                    _mm256_cvtepu8_epi16(_mm_loadu_si128(
                        (const __m128i *)(x + m * in.to_next + c))));
            for (k = 0; k < min_size(in.columns - c, CHUNK); k += 2, w += 2)
                for (m = 0; m < positions; m++) {
                    int32_t two;
                    __m256i inputs;

                    memcpy(&two, wide[m] + k, 4);
                    inputs = _mm256_set1_epi32(two);
                    sum[m][0] = _mm256_add_epi32(
                        sum[m][0], _mm256_madd_epi16(inputs, w[0]));
                    sum[m][1] = _mm256_add_epi32(
                        sum[m][1], _mm256_madd_epi16(inputs, w[1]));
                }
        }
}

/* Lanes that are greater, as bits. */
TILE_AVX2 unsigned greater(__m256i a, __m256i b)
{
    return (unsigned)_mm256_movemask_ps(
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)));
}

/* Thresholds of 16 outputs, and where their bits go. */
struct i8_outputs_avx2 {
    __m256i threshold[3][2];
    size_t cuts, row, plane;
    unsigned direction, first; /* outputs */
};

/* Lanes that reach a threshold, as bits. */
TILE_AVX2 unsigned reached__avx2(const __m256i sum[2],
                                 const __m256i threshold[2])
{
    return ~(greater(threshold[0], sum[0]) | greater(threshold[1], sum[1]) << 8);
}

/* Bits of 16 outputs at `positions`. */
TILE_AVX2 void i8_tile__avx2(const size_t positions, struct window_avx2 in,
                             const uint8_t *x, const __m256i *w,
                             const struct i8_outputs_avx2 *o, uint8_t *out)
{
    __m256i sum[ROWS_AVX2][2];
    size_t m;

    i8_sums(positions, in, x, w, sum);
    for (m = 0; m < positions; m++, out += 8 * o->row) {
        unsigned bits = reached__avx2(sum[m], o->threshold[o->cuts / 2]) ^
                        o->direction;

        bits &= o->first;
        memcpy(out, &bits, 2);
        if (o->cuts == 3) {
            bits ^= (reached__avx2(sum[m], o->threshold[0]) ^
                     reached__avx2(sum[m], o->threshold[2])) &
                    o->first;
            memcpy(out + 8 * o->plane, &bits, 2);
        }
    }
}

AVX2 static void i8_conv_bits__avx2_16x4(size_t M, size_t N, size_t rows,
                                         size_t columns, const uint8_t *x,
                                         size_t step, size_t pitch,
                                         const uint8_t *w, size_t cuts,
                                         const int32_t *threshold,
                                         const uint8_t *direction,
                                         size_t plane, uint64_t *out)
{
    const struct window_avx2 in = {rows, columns, step, pitch};
    const __m256i *tile = (const __m256i *)w;
    const size_t row = words(N);
    size_t n, m, i;

    for (m = 0; m < M; m++)
        out[(m + 1) * row - 1] = out[(m + 1) * row - 1 + cuts / 2 * plane] = 0;
    for (n = 0; n < N; n += CHANNELS, tile += rows * ((columns + 1) / 2) * 2) {
        const size_t count = min_size(N - n, CHANNELS);
        struct i8_outputs_avx2 o = {
            {{{0}}}, cuts, row, plane, load_u16(direction + n / 8),
            (1u << count) - 1};
        uint8_t *to = (uint8_t *)out + n / 8;

        for (i = 0; i < cuts; i++)
            memcpy(o.threshold[i], threshold + i * N + n, 4 * count);
        for (m = 0; m + ROWS_AVX2 <= M; m += ROWS_AVX2)
            i8_tile__avx2(ROWS_AVX2, in, x + m * step, tile, &o,
                          to + 8 * m * row);
        for (; m < M; m++)
            i8_tile__avx2(1, in, x + m * step, tile, &o, to + 8 * m * row);
    }
}

/* What the four inputs of a row differ from each four weights. */
static const uint8_t differing[16][16] __attribute__((aligned(16))) = {
    {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4},
    {1, 0, 2, 1, 2, 1, 3, 2, 2, 1, 3, 2, 3, 2, 4, 3},
    {1, 2, 0, 1, 2, 3, 1, 2, 2, 3, 1, 2, 3, 4, 2, 3},
    {2, 1, 1, 0, 3, 2, 2, 1, 3, 2, 2, 1, 4, 3, 3, 2},
    {1, 2, 2, 3, 0, 1, 1, 2, 2, 3, 3, 4, 1, 2, 2, 3},
    {2, 1, 3, 2, 1, 0, 2, 1, 3, 2, 4, 3, 2, 1, 3, 2},
    {2, 3, 1, 2, 1, 2, 0, 1, 3, 4, 2, 3, 2, 3, 1, 2},
    {3, 2, 2, 1, 2, 1, 1, 0, 4, 3, 3, 2, 3, 2, 2, 1},
    {1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3},
    {2, 1, 3, 2, 3, 2, 4, 3, 1, 0, 2, 1, 2, 1, 3, 2},
    {2, 3, 1, 2, 3, 4, 2, 3, 1, 2, 0, 1, 2, 3, 1, 2},
    {3, 2, 2, 1, 4, 3, 3, 2, 2, 1, 1, 0, 3, 2, 2, 1},
    {2, 3, 3, 4, 1, 2, 2, 3, 1, 2, 2, 3, 0, 1, 1, 2},
    {3, 2, 4, 3, 2, 1, 3, 2, 2, 1, 3, 2, 1, 0, 2, 1},
    {3, 4, 2, 3, 2, 3, 1, 2, 2, 3, 1, 2, 1, 2, 0, 1},
    {4, 3, 3, 2, 3, 2, 2, 1, 3, 2, 2, 1, 2, 1, 1, 0},
};

/* Adds what four inputs of each row differ from the weights w, as bytes; the
 * inputs are the high half of the byte x << shift. */
TILE_AVX2 void add_nibbles(const size_t rows, const size_t halves, size_t row,
                           const uint8_t *x, int shift, const __m256i w[2],
                           __m256i sum[ROWS_AVX2][2])
{
    size_t r, h;

    for (r = 0; r < rows; r++) {
        const size_t nibble = x[r * row] << shift & 0xf0;
        const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(
            (const __m128i *)((const uint8_t *)differing + nibble)));

        for (h = 0; h < halves; h++) {
            sum[r][h] = _mm256_add_epi8(sum[r][h],
                                        _mm256_shuffle_epi8(table, w[h]));
            /* Or gcc adds in an order that takes more registers than any. */
            if (halves > 1)
                __asm__("" : "+x"(sum[r][h]));
        }
    }
}

/* Differing bits of 32 outputs, or twice as many, at `rows` positions, as
 * bytes; of inputs in at most MOST_BYTES bytes from x on. */
TILE_AVX2 void count_bytes(const size_t rows, const size_t halves, size_t bytes,
                           size_t row, const uint8_t *x, const __m256i *w,
                           __m256i sum[ROWS_AVX2][2])
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i weight[2];
    size_t k, r, h;

    for (r = 0; r < rows; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (k = 0; k < bytes; k++, w += 2) {
        for (h = 0; h < halves; h++)
            weight[h] = _mm256_and_si256(w[h], low);
        add_nibbles(rows, halves, row, x + k, 4, weight, sum);
        for (h = 0; h < halves; h++)
            weight[h] = _mm256_and_si256(_mm256_srli_epi16(w[h], 4), low);
        add_nibbles(rows, halves, row, x + k, 0, weight, sum);
    }
}

/* Their bytes to 32 bits each. */
TILE_AVX2 void widen(const size_t halves, const __m256i sum[2],
                     __m256i d[BLOCK_AVX2 / 8])
{
    uint8_t bytes[BLOCK_AVX2];
    size_t i;

    for (i = 0; i < halves; i++)
        _mm256_storeu_si256((__m256i *)bytes + i, sum[i]);
    for (i = 0; i < 4 * halves; i++)
        d[i] = _mm256_cvtepu8_epi32(
            _mm_loadl_epi64((const __m128i *)(bytes + 8 * i)));
}

/* The same for any number of inputs, in 32 bits. */
TILE_AVX2 void count_wide(const size_t rows, const size_t halves, size_t K,
                          const uint64_t *x, const __m256i *w,
                          __m256i d[ROWS_AVX2][BLOCK_AVX2 / 8])
{
    const size_t bytes = (K + 7) / 8;
    size_t k, r, i;

    for (r = 0; r < rows; r++)
        for (i = 0; i < BLOCK_AVX2 / 8; i++)
            d[r][i] = _mm256_setzero_si256();
    for (k = 0; k < bytes; k += MOST_BYTES) {
        __m256i sum[ROWS_AVX2][2];

        count_bytes(rows, halves, min_size(bytes - k, MOST_BYTES), 8 * words(K),
                    (const uint8_t *)x + k, w + 2 * k, sum);
        for (r = 0; r < rows; r++) {
            __m256i count[BLOCK_AVX2 / 8];

            widen(halves, sum[r], count);
            for (i = 0; i < 4 * halves; i++)
                d[r][i] = _mm256_add_epi32(d[r][i], count[i]);
        }
    }
}

TILE_AVX2 void differences__avx2(const size_t rows, size_t outputs, size_t K,
                                 const uint64_t *x, const __m256i *w,
                                 __m256i d[ROWS_AVX2][BLOCK_AVX2 / 8])
{
    if (outputs <= BLOCK_AVX2 / 2)
        count_wide(rows, 1, K, x, w, d);
    else
        count_wide(rows, 2, K, x, w, d);
}

/* Thresholds of up to 64 outputs, 0 after the last: d is never below. */
struct thresholds {
    __m256i byte[2];
    __m256i wide[BLOCK_AVX2 / 8];
};

TILE_AVX2 void bits_tile__avx2(const size_t rows, size_t outputs, size_t K,
                               const uint64_t *x, const __m256i *w,
                               const struct thresholds *t, uint64_t direction,
                               size_t row, uint64_t *out)
{
    __m256i d[ROWS_AVX2][BLOCK_AVX2 / 8], sum[ROWS_AVX2][2];
    size_t r, i;

    if (K <= 8 * MOST_BYTES) {
        const __m256i zero = _mm256_setzero_si256();

        count_bytes(rows, 2, (K + 7) / 8, 8 * words(K), (const uint8_t *)x, w,
                    sum);
        for (r = 0; r < rows; r++) {
            uint64_t word = direction;

            for (i = 0; i < 2; i++) {
                const __m256i below = _mm256_subs_epu8(t->byte[i], sum[r][i]);

                word ^= (uint64_t)~(uint32_t)_mm256_movemask_epi8(
                            _mm256_cmpeq_epi8(below, zero))
                        << 32 * i;
            }
            out[r * row] = word;
        }
        return;
    }
    differences__avx2(rows, outputs, K, x, w, d);
    for (r = 0; r < rows; r++) {
        uint64_t word = direction;

        for (i = 0; i < BLOCK_AVX2 / 8; i++)
            word ^= (uint64_t)greater(t->wide[i], d[r][i]) << 8 * i;
        out[r * row] = word;
    }
}

AVX2 static void b1_gemm_bits__avx2_64x4(size_t M, size_t N, size_t K,
                                         const uint64_t *x, const uint8_t *w,
                                         const uint16_t *threshold,
                                         const uint8_t *direction,
                                         uint64_t *out)
{
    const size_t row_in = words(K), row_out = words(N);
    const __m256i *weight = (const __m256i *)w;
    size_t n, m, i;

    for (n = 0; n < N; n += BLOCK_AVX2, weight += 2 * ((K + 7) / 8), out++) {
        uint32_t wide[BLOCK_AVX2] = {0};
        uint8_t byte[BLOCK_AVX2] = {0};
        struct thresholds t;
        const uint64_t d = load_u64(direction + n / 8);
        const size_t outputs = min_size(N - n, BLOCK_AVX2);

        for (i = 0; i < outputs; i++) {
            wide[i] = threshold[n + i];
            byte[i] = (uint8_t)min_size(threshold[n + i], 255);
        }
        memcpy(t.wide, wide, sizeof wide);
        memcpy(t.byte, byte, sizeof byte);
        for (m = 0; m + ROWS_AVX2 <= M; m += ROWS_AVX2)
            bits_tile__avx2(ROWS_AVX2, outputs, K, x + m * row_in, weight, &t,
                            d, row_out, out + m * row_out);
        for (; m < M; m++)
            bits_tile__avx2(1, outputs, K, x + m * row_in, weight, &t, d,
                            row_out, out + m * row_out);
    }
}

/* Sums K - 2 d of up to 64 outputs to the stream; returns its signs. The slope
 * is one, or `each` has its own. */
TILE_AVX2 uint64_t real_outputs__avx2(size_t outputs, size_t K,
                                      const __m256i d[BLOCK_AVX2 / 8],
                                      const float *scale, const float *bias,
                                      const float *slope, const int each,
                                      float *stream)
{
    const __m256i all = _mm256_set1_epi32((int32_t)K);
    const __m256 zero = _mm256_setzero_ps();
    int32_t sum[8];
    uint64_t word = 0;
    size_t i, j;

    for (i = 0; i < outputs; i += 8) {
        const __m256i sums =
            _mm256_sub_epi32(all, _mm256_add_epi32(d[i / 8], d[i / 8]));
        __m256 z = _mm256_cvtepi32_ps(sums), slopes;

        if (i + 8 > outputs) { /* the last ones, one by one */
            _mm256_storeu_si256((__m256i *)sum, sums);
            break;
        }
        z = _mm256_mul_ps(z, _mm256_loadu_ps(scale + i));
        z = _mm256_add_ps(z, _mm256_loadu_ps(bias + i));
        slopes = each ? _mm256_loadu_ps(slope + i) : _mm256_set1_ps(*slope);
        z = _mm256_blendv_ps(_mm256_mul_ps(z, slopes), z,
                             _mm256_cmp_ps(z, zero, _CMP_GE_OQ));
        z = _mm256_add_ps(_mm256_loadu_ps(stream + i), z);
        _mm256_storeu_ps(stream + i, z);
        word |= (uint64_t)_mm256_movemask_ps(
                    _mm256_cmp_ps(z, zero, _CMP_GE_OQ))
                << i;
    }
    for (j = i; j < outputs; j++) {
        float z = (float)sum[j - i] * scale[j], below;

        z = z + bias[j];
        below = z * slope[each ? j : 0];
        stream[j] = stream[j] + (z >= 0 ? z : below);
        word |= (uint64_t)(stream[j] >= 0) << j;
    }
    return word;
}

TILE_AVX2 void real_tile__avx2(const size_t rows, size_t K, const uint64_t *x,
                               const __m256i *w, const float *affine,
                               float slope, size_t n, size_t N, float *stream,
                               uint64_t *sign)
{
    const size_t outputs = min_size(N - n, BLOCK_AVX2);
    __m256i d[ROWS_AVX2][BLOCK_AVX2 / 8];
    size_t r;

    differences__avx2(rows, outputs, K, x, w, d);
    for (r = 0; r < rows; r++)
        sign[r * words(N)] =
            real_outputs__avx2(outputs, K, d[r], affine + n, affine + N + n,
                               &slope, 0, stream + r * N + n);
}

AVX2 static void b1_gemm_real__avx2_64x4(size_t M, size_t N, size_t K,
                                         const uint64_t *x, const uint8_t *w,
                                         const float *affine, float slope,
                                         float *stream, uint64_t *sign)
{
    const size_t row_in = words(K), row_out = words(N);
    const __m256i *weight = (const __m256i *)w;
    size_t n, m;

    for (n = 0; n < N; n += BLOCK_AVX2, weight += 2 * ((K + 7) / 8), sign++) {
        for (m = 0; m + ROWS_AVX2 <= M; m += ROWS_AVX2)
            real_tile__avx2(ROWS_AVX2, K, x + m * row_in, weight, affine, slope,
                            n, N, stream + m * N, sign + m * row_out);
        for (; m < M; m++)
            real_tile__avx2(1, K, x + m * row_in, weight, affine, slope, n, N,
                            stream + m * N, sign + m * row_out);
    }
}

/* Differing taps of 64 channels at position m, of at most 255, to 32 bits. */
TILE_AVX2 void memory_differences__avx2(size_t m, size_t M, size_t row,
                                        size_t taps, size_t left,
                                        size_t dilation, const uint64_t *x,
                                        const uint8_t *w,
                                        __m256i d[BLOCK_AVX2 / 8])
{
    /* Byte i of a register gets byte i / 8 of 32 bits, then bit i of them. */
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101,
                                              0x0202020202020202,
                                              0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i sum[2];
    size_t j, h;

    sum[0] = sum[1] = _mm256_setzero_si256();
    for (j = 0; j < taps; j++) {
        /* Before the first position this wraps, far beyond M. */
        const size_t t = m + (j - left) * dilation;
        const uint64_t outside = -(uint64_t)(t >= M);
        const uint64_t inputs = x[(outside ? 0 : t) * row] | outside;
        const uint64_t differ = inputs ^ load_u64(w + 8 * j * row);

        for (h = 0; h < 2; h++) {
            const __m256i bits = _mm256_and_si256(
                _mm256_shuffle_epi8(
                    _mm256_set1_epi32((int32_t)(differ >> 32 * h)), spread),
                bit);

            /* A byte whose bit is set becomes all ones, that is -1. */
            sum[h] = _mm256_sub_epi8(sum[h], _mm256_cmpeq_epi8(bits, bit));
        }
    }
    widen(2, sum, d);
}

AVX2 static void b1_memory_real__avx2_64x1(size_t M, size_t N, size_t taps,
                                           size_t left, size_t dilation,
                                           const uint64_t *x, const uint8_t *w,
                                           const float *affine, float slope,
                                           float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    size_t m, n;

    if (taps > 255) { /* more than a byte can count */
        bifsmn_kernels_scalar.b1_memory_real(M, N, taps, left, dilation, x, w,
                                             affine, slope, stream, sign);
        return;
    }
    for (m = 0; m < M; m++)
        for (n = 0; n < N; n += BLOCK_AVX2) {
            __m256i d[BLOCK_AVX2 / 8];

            memory_differences__avx2(m, M, row, taps, left, dilation,
                                     x + n / 64, w + n / 8, d);
            sign[m * row + n / 64] = real_outputs__avx2(
                min_size(N - n, BLOCK_AVX2), taps, d, affine + n,
                affine + N + n, &slope, 0, stream + m * N + n);
        }
}

TILE_AVX2 float add_lanes(__m256 v)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v),
                            _mm256_extractf128_ps(v, 1));

    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/* Four rows share each load of x; of the last few, some are the same. */
AVX2 static void head__avx2_4x8(size_t N, size_t K, const float *x,
                                    const float *w, float *out)
{
    size_t n, k, i;

    for (n = 0; n < N; n += 4) {
        const float *row[4];
        __m256 sum[4];

        for (i = 0; i < 4; i++) {
            row[i] = w + min_size(n + i, N - 1) * K;
            sum[i] = _mm256_setzero_ps();
        }
        for (k = 0; k + 8 <= K; k += 8)
            for (i = 0; i < 4; i++)
                sum[i] = _mm256_add_ps(
                    sum[i], _mm256_mul_ps(_mm256_loadu_ps(row[i] + k),
                                          _mm256_loadu_ps(x + k)));
        for (i = 0; i < min_size(4, N - n); i++) {
            float end = 0;
            size_t j;

            for (j = k; j < K; j++)
                end += x[j] * row[i][j];
            out[n + i] = end + add_lanes(sum[i]);
        }
    }
}

/* Lanes of eight that are among the first `count`. */
TILE_AVX2 __m256i lanes__avx2(size_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)min_size(count, 8)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* gain * d to counts, or onto those of an earlier plane. Masked stores take
 * longer than all the rest, so only the last lanes have one. */
TILE_AVX2 void store_counts(size_t outputs, const __m256i d[BLOCK_AVX2 / 8],
                            uint32_t gain, int more, uint32_t *counts)
{
    const __m256i gains = _mm256_set1_epi32((int32_t)gain);
    size_t i;

    for (i = 0; i < outputs; i += 8) {
        const __m256i in = lanes__avx2(outputs - i);
        int *to = (int *)counts + i;
        __m256i sum = _mm256_mullo_epi32(d[i / 8], gains);

        if (more)
            sum = _mm256_add_epi32(sum, _mm256_maskload_epi32(to, in));
        if (i + 8 <= outputs)
            _mm256_storeu_si256((__m256i *)to, sum);
        else
            _mm256_maskstore_epi32(to, in, sum);
    }
}

TILE_AVX2 void counts_tile__avx2(const size_t rows, size_t outputs, size_t K,
                                 const uint64_t *x, const __m256i *w,
                                 uint32_t gain, int more, size_t N,
                                 uint32_t *to)
{
    __m256i d[ROWS_AVX2][BLOCK_AVX2 / 8];
    size_t r;

    differences__avx2(rows, outputs, K, x, w, d);
    for (r = 0; r < rows; r++)
        store_counts(outputs, d[r], gain, more, to + r * N);
}

AVX2 static void b1_gemm_counts__avx2_64x4(size_t M, size_t N, size_t K,
                                           size_t planes, const uint64_t *x,
                                           const uint8_t *w,
                                           const uint32_t *gain, uint32_t *d)
{
    const __m256i *weight = (const __m256i *)w;
    const size_t row = words(K);
    size_t n, m, p;

    for (n = 0; n < N; n += BLOCK_AVX2, weight += 2 * ((K + 7) / 8))
        for (p = 0; p < planes; p++) {
            const size_t outputs = min_size(N - n, BLOCK_AVX2);
            const uint64_t *in = x + p * M * row;

            for (m = 0; m + ROWS_AVX2 <= M; m += ROWS_AVX2)
                counts_tile__avx2(ROWS_AVX2, outputs, K, in + m * row, weight,
                                  gain[p], p > 0, N, d + m * N + n);
            for (; m < M; m++)
                counts_tile__avx2(1, outputs, K, in + m * row, weight, gain[p],
                                  p > 0, N, d + m * N + n);
        }
}

AVX2 static void b1_memory_counts__avx2_64x1(size_t M, size_t N, size_t taps,
                                             size_t left, size_t dilation,
                                             size_t planes, const uint64_t *x,
                                             const uint8_t *w,
                                             const uint32_t *gain, uint32_t *d)
{
    const size_t row = words(N);
    size_t m, n, p;

    if (taps > 255) { /* more than a byte can count */
        bifsmn_kernels_scalar.b1_memory_counts(M, N, taps, left, dilation,
                                               planes, x, w, gain, d);
        return;
    }
    for (p = 0; p < planes; p++, x += M * row)
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n += BLOCK_AVX2) {
                __m256i count[BLOCK_AVX2 / 8];

                memory_differences__avx2(m, M, row, taps, left, dilation,
                                         x + n / 64, w + n / 8, count);
                store_counts(min_size(N - n, BLOCK_AVX2), count, gain[p], p > 0,
                             d + m * N + n);
            }
}

/* Whether 8 counts are below a cut, or values of the stream reach it. */
TILE_AVX2 unsigned compare__avx2(const int real, __m256i v, __m256i cut)
{
    return real ? (unsigned)_mm256_movemask_ps(
                      _mm256_cmp_ps(_mm256_castsi256_ps(v),
                                    _mm256_castsi256_ps(cut), _CMP_GE_OQ))
                : greater(cut, v);
}

TILE_AVX2 void cut_bits__avx2(const int real, size_t M, size_t N, size_t cuts,
                              const void *values, const void *cut,
                              const uint8_t *direction, uint64_t *out)
{
    const size_t row = words(N), plane = M * row;
    size_t n, m, i;

    for (i = 0; i < (cuts == 3 ? 2 * M : M); i++)
        out[(i + 1) * row - 1] = 0;
    for (n = 0; n < N; n += 8) {
        const __m256i in = lanes__avx2(N - n);
        const unsigned outputs = (1u << min_size(N - n, 8)) - 1;
        const unsigned turn = direction ? direction[n / 8] : 0;
        const int *at = (const int *)cut + n, *from = (const int *)values + n;
        uint8_t *to = (uint8_t *)out + n / 8;
        __m256i c[3];

        for (i = 0; i < 3; i++)
            c[i] = _mm256_maskload_epi32(at + (i < cuts ? i * N : 0), in);
        for (m = 0; m < M; m++, from += N, to += 8 * row) {
            const __m256i v = _mm256_maskload_epi32(from, in);
            unsigned bits = compare__avx2(real, v, c[cuts == 3]);

            *to = (uint8_t)((bits & outputs) ^ turn);
            if (cuts == 3) {
                bits ^= compare__avx2(real, v, c[0]) ^
                        compare__avx2(real, v, c[2]);
                to[8 * plane] = (uint8_t)((bits & outputs) ^ turn);
            }
        }
    }
}

AVX2 static void counts_to_bits__avx2_8x1(size_t M, size_t N, const uint32_t *d,
                                          const uint32_t *cut,
                                          const uint8_t *direction,
                                          uint64_t *out)
{
    cut_bits__avx2(0, M, N, 3, d, cut, direction, out);
}

AVX2 static void counts_to_stream__avx2_64x1(size_t M, size_t N, uint32_t most,
                                             const uint32_t *d,
                                             const float *affine,
                                             const float *slope, float *stream)
{
    size_t m, n;

    for (m = 0; m < M; m++, d += N, stream += N)
        for (n = 0; n < N; n += BLOCK_AVX2) {
            const size_t outputs = min_size(N - n, BLOCK_AVX2);
            __m256i counts[BLOCK_AVX2 / 8];

            memcpy(counts, d + n, 4 * outputs);
            real_outputs__avx2(outputs, most, counts, affine + n,
                               affine + N + n, slope + n, 1, stream + n);
        }
}

AVX2 static void stream_to_bits__avx2_8x1(size_t M, size_t N, size_t cuts,
                                          const float *stream,
                                          const float *cut, uint64_t *out)
{
    cut_bits__avx2(1, M, N, cuts, stream, cut, NULL, out);
}

const struct bifsmn_kernels bifsmn_kernels_avx2 = {
    "avx2",
    1,
    i8_pack__avx2,
    b1_pack__avx2,
    NULL,
    i8_conv_bits__avx2_16x4,
    b1_gemm_bits__avx2_64x4,
    b1_gemm_real__avx2_64x4,
    b1_memory_real__avx2_64x1,
    head__avx2_4x8,
    b1_gemm_counts__avx2_64x4,
    b1_memory_counts__avx2_64x1,
    counts_to_bits__avx2_8x1,
    counts_to_stream__avx2_64x1,
    stream_to_bits__avx2_8x1,
};

#endif
