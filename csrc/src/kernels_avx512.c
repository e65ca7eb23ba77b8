/* kernels_avx512.c: kernels for Ice Lake, Zen 4 and later.
 *
 * A register holds 16 outputs, one in each 32-bit lane. Weights are packed
 * [N/16][K/32][16] (i8: [N/16][rows][columns/4][16][4]), so that one load
 * brings the next 32 inputs (4) of 16 outputs, zeros after the last; the inputs
 * of a position are broadcast. Eight positions share each load. */

#include "kernels.h"

#ifdef BIFSMN_X86

#include <immintrin.h>
#include <string.h>

#include "bytes.h"

#define AVX512                                                               \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni," \
                          "avx512vpopcntdq")))
/* Tiles: inlined where `rows` is a constant, so that d stays in registers. */
#define TILE_AVX512 AVX512 static inline __attribute__((always_inline))

enum { LANES = 16, ROWS_AVX512 = 8 };

/* Lanes from n on that are before N. */
static __mmask16 lanes(size_t n, size_t N)
{
    return (__mmask16)(n + LANES <= N ? 0xffff
                       : n < N        ? (1u << (N - n)) - 1
                                      : 0);
}

/* Lane bits of outputs n to n + 15 of a row. */
static void store_bits(uint64_t *row, size_t n, __mmask16 bits)
{
    memcpy((uint8_t *)row + n / 8, &bits, sizeof bits);
}

/* Tiles write 16 bits at a time up to the N-th: this, those after. */
static void clear_ends(size_t M, size_t N, uint64_t *out)
{
    size_t m;

    if (N % 64)
        for (m = 0; m < M; m++)
            out[(m + 1) * words(N) - 1] = 0;
}

static void i8_pack__avx512(size_t N, size_t rows, size_t columns,
                            const uint8_t *w, uint8_t *packed)
{
    size_t n, r, c, i;

    for (n = 0; n < N; n += LANES)
        for (r = 0; r < rows; r++)
            for (c = 0; c < columns; c += 4)
                for (i = n; i < n + LANES; i++, packed += 4) {
                    memset(packed, 0, 4);
                    if (i < N)
                        memcpy(packed, w + (i * rows + r) * columns + c,
                               min_size(columns - c, 4));
                }
}

static void b1_pack__avx512(size_t N, size_t K, const uint8_t *w,
                            uint8_t *packed)
{
    size_t n, k, i;

    for (n = 0; n < N; n += LANES)
        for (k = 0; k < K; k += 32)
            for (i = 0; i < LANES; i++, packed += 4) {
                memset(packed, 0, 4);
                if (n + i < N)
                    memcpy(packed, w + (n + i) * 8 * words(K) + k / 8, 4);
            }
}

/* The inputs of an i8 tile. */
struct window_avx512 {
    size_t rows, steps;        /* 4 columns each */
    size_t to_next, to_row;    /* bytes from a position or row to the next */
};

/* Bits of 16 outputs at `positions`. */
TILE_AVX512 void i8_tile__avx512(const size_t positions,
                                 struct window_avx512 in, const uint8_t *x,
                                 const __m512i *w, __m512i threshold,
                                 __mmask16 outputs, __mmask16 direction,
                                 size_t n, size_t row, uint64_t *out)
{
    __m512i sum[ROWS_AVX512];
    size_t r, k, m;

    for (m = 0; m < positions; m++)
        sum[m] = _mm512_setzero_si512();
    for (r = 0; r < in.rows; r++, x += in.to_row)
        for (k = 0; k < in.steps; k++) {
            const __m512i weight = _mm512_loadu_si512(w++);

            for (m = 0; m < positions; m++)
                sum[m] = _mm512_dpbusd_epi32(
                    sum[m],
                    _mm512_set1_epi32(load_i32(x + m * in.to_next + 4 * k)),
                    weight);
        }
    for (m = 0; m < positions; m++)
        store_bits(out + m * row, n,
                   direction ^ _mm512_mask_cmp_epi32_mask(
                                   outputs, sum[m], threshold,
                                   _MM_CMPINT_NLT));
}

AVX512 static void i8_conv_bits__avx512_16x8(size_t M, size_t N, size_t rows,
                                             size_t columns, const uint8_t *x,
                                             size_t step, size_t pitch,
                                             const uint8_t *w,
                                             const int32_t *threshold,
                                             const uint8_t *direction,
                                             uint64_t *out)
{
    const struct window_avx512 in = {rows, (columns + 3) / 4, step, pitch};
    const __m512i *tile = (const __m512i *)w;
    const size_t row = words(N);
    size_t n, m;

    clear_ends(M, N, out);
    for (n = 0; n < N; n += LANES, tile += rows * in.steps) {
        const __mmask16 outputs = lanes(n, N);
        const __mmask16 d = load_u16(direction + n / 8);
        const __m512i t = _mm512_maskz_loadu_epi32(outputs, threshold + n);

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            i8_tile__avx512(ROWS_AVX512, in, x + m * step, tile, t, outputs, d,
                            n, row, out + m * row);
        for (; m < M; m++)
            i8_tile__avx512(1, in, x + m * step, tile, t, outputs, d, n, row,
                            out + m * row);
    }
}

/* Differing bits of 16 outputs in inputs 32 k to 32 k + 31. */
TILE_AVX512 __m512i differing32(const uint64_t *x, const __m512i *w, size_t k)
{
    int32_t inputs;

    memcpy(&inputs, (const uint8_t *)x + 4 * k, 4);
    return _mm512_popcnt_epi32(_mm512_xor_si512(_mm512_loadu_si512(w + k),
                                                _mm512_set1_epi32(inputs)));
}

/* Differing bits of 16 outputs at `rows` positions. */
TILE_AVX512 void differences__avx512(const size_t rows, size_t steps,
                                     size_t row, const uint64_t *x,
                                     const __m512i *w, __m512i d[ROWS_AVX512])
{
    size_t k, r;

    for (r = 0; r < rows; r++)
        d[r] = differing32(x + r * row, w, 0);
    for (k = 1; k < steps; k++)
        for (r = 0; r < rows; r++)
            d[r] = _mm512_add_epi32(d[r], differing32(x + r * row, w, k));
}

TILE_AVX512 void bits_tile__avx512(const size_t rows, size_t steps,
                                   size_t row_in, const uint64_t *x,
                                   const __m512i *w, __m512i threshold,
                                   __mmask16 direction, size_t n,
                                   size_t row_out, uint64_t *out)
{
    __m512i d[ROWS_AVX512];
    size_t r;

    differences__avx512(rows, steps, row_in, x, w, d);
    for (r = 0; r < rows; r++)
        store_bits(out + r * row_out, n,
                   direction ^ _mm512_cmplt_epi32_mask(d[r], threshold));
}

AVX512 static void b1_gemm_bits__avx512_16x8(size_t M, size_t N, size_t K,
                                             const uint64_t *x,
                                             const uint8_t *w,
                                             const uint16_t *threshold,
                                             const uint8_t *direction,
                                             uint64_t *out)
{
    const size_t steps = (K + 31) / 32, row_in = words(K), row_out = words(N);
    size_t n, m;

    clear_ends(M, N, out);
    for (n = 0; n < N; n += LANES, w += 64 * steps) {
        /* Lanes after the N-th: never below a threshold of 0. */
        const __m512i t = _mm512_cvtepu16_epi32(
            _mm256_maskz_loadu_epi16(lanes(n, N), threshold + n));
        const __mmask16 d = load_u16(direction + n / 8);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            bits_tile__avx512(ROWS_AVX512, steps, row_in, x + m * row_in, tile,
                              t, d, n, row_out, out + m * row_out);
        for (; m < M; m++)
            bits_tile__avx512(1, steps, row_in, x + m * row_in, tile, t, d, n,
                              row_out, out + m * row_out);
    }
}

/* What the real outputs of 16 channels have in common. */
struct affine {
    __m512 scale, bias, slope;
    __mmask16 in; /* outputs */
};

TILE_AVX512 struct affine load_affine(size_t n, size_t N, const float *affine,
                                      float slope)
{
    struct affine a;

    a.in = lanes(n, N);
    a.scale = _mm512_maskz_loadu_ps(a.in, affine + n);
    a.bias = _mm512_maskz_loadu_ps(a.in, affine + N + n);
    a.slope = _mm512_set1_ps(slope);
    return a;
}

/* Sums of 16 channels to the stream; returns its signs. */
TILE_AVX512 __mmask16 real_outputs__avx512(__m512i sum, const struct affine *a,
                                           float *stream)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 z = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), a->scale);

    z = _mm512_add_ps(z, a->bias);
    z = _mm512_mask_mul_ps(z, _mm512_cmp_ps_mask(z, zero, _CMP_NGE_UQ), z,
                           a->slope);
    z = _mm512_add_ps(_mm512_maskz_loadu_ps(a->in, stream), z);
    _mm512_mask_storeu_ps(stream, a->in, z);
    return _mm512_mask_cmp_ps_mask(a->in, z, zero, _CMP_GE_OQ);
}

TILE_AVX512 void real_tile__avx512(const size_t rows, size_t K,
                                   const uint64_t *x, const __m512i *w,
                                   const struct affine *a, size_t n, size_t N,
                                   float *stream, uint64_t *sign)
{
    const __m512i all = _mm512_set1_epi32((int32_t)K);
    __m512i d[ROWS_AVX512];
    size_t r;

    differences__avx512(rows, (K + 31) / 32, words(K), x, w, d);
    for (r = 0; r < rows; r++) {
        const __m512i sum =
            _mm512_sub_epi32(all, _mm512_add_epi32(d[r], d[r]));

        store_bits(sign + r * words(N), n,
                   real_outputs__avx512(sum, a, stream + r * N + n));
    }
}

AVX512 static void b1_gemm_real__avx512_16x8(size_t M, size_t N, size_t K,
                                             const uint64_t *x,
                                             const uint8_t *w,
                                             const float *affine, float slope,
                                             float *stream, uint64_t *sign)
{
    const size_t row_in = words(K), row_out = words(N);
    size_t n, m;

    clear_ends(M, N, sign);
    for (n = 0; n < N; n += LANES, w += 64 * ((K + 31) / 32)) {
        const struct affine a = load_affine(n, N, affine, slope);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            real_tile__avx512(ROWS_AVX512, K, x + m * row_in, tile, &a, n, N,
                              stream + m * N, sign + m * row_out);
        for (; m < M; m++)
            real_tile__avx512(1, K, x + m * row_in, tile, &a, n, N,
                              stream + m * N, sign + m * row_out);
    }
}

AVX512 static void b1_memory_real__avx512_64x1(size_t M, size_t N, size_t taps,
                                               size_t left, size_t dilation,
                                               const uint64_t *x,
                                               const uint8_t *w,
                                               const float *affine,
                                               float slope, float *stream,
                                               uint64_t *sign)
{
    const __m512i all = _mm512_set1_epi8((char)taps);
    const __m512i two = _mm512_set1_epi8(2);
    const size_t row = words(N);
    size_t m, n, i, j;

    if (taps > 127) { /* sums beyond a byte */
        bifsmn_kernels_scalar.b1_memory_real(M, N, taps, left, dilation, x, w,
                                             affine, slope, stream, sign);
        return;
    }
    for (n = 0; n < N; n += 64, x++, w += 8, sign++) {
        struct affine a[4];

        for (i = 0; i < 4; i++)
            a[i] = load_affine(n + i * LANES, N, affine, slope);
        for (m = 0; m < M; m++) {
            float *to = stream + m * N + n;
            __m512i sum = all;
            uint64_t word = 0;

            for (j = 0; j < taps; j++) {
                /* Before the first position this wraps, far beyond M. */
                const size_t t = m + (j - left) * dilation;
                const uint64_t outside = -(uint64_t)(t >= M);
                const uint64_t inputs = x[(outside ? 0 : t) * row] | outside;

                sum = _mm512_mask_sub_epi8(
                    sum, inputs ^ load_u64(w + 8 * j * row), sum, two);
            }
            for (i = 0; i < 4; i++) {
                const __m512i wide =
                    _mm512_cvtepi8_epi32(_mm512_castsi512_si128(sum));

                word |=
                    (uint64_t)real_outputs__avx512(wide, &a[i], to + i * LANES)
                    << i * LANES;
                sum = _mm512_alignr_epi64(sum, sum, 2); /* the next 16 bytes */
            }
            sign[m * row] = word;
        }
    }
}

/* Four rows share each load of x; of the last few, some are the same. */
AVX512 static void f32_gemv__avx512_4x16(size_t N, size_t K, const float *x,
                                         const float *w, float *out)
{
    size_t n, k, i;

    for (n = 0; n < N; n += 4) {
        const float *row[4];
        __m512 sum[4];

        for (i = 0; i < 4; i++) {
            row[i] = w + min_size(n + i, N - 1) * K;
            sum[i] = _mm512_setzero_ps();
        }
        for (k = 0; k < K; k += LANES) {
            const __mmask16 in = lanes(k, K);
            const __m512 inputs = _mm512_maskz_loadu_ps(in, x + k);

            for (i = 0; i < 4; i++)
                sum[i] = _mm512_add_ps(
                    sum[i], _mm512_mul_ps(_mm512_maskz_loadu_ps(in, row[i] + k),
                                          inputs));
        }
        for (i = 0; i < min_size(4, N - n); i++)
            out[n + i] = _mm512_reduce_add_ps(sum[i]);
    }
}

TILE_AVX512 void counts_tile__avx512(const size_t rows, size_t K,
                                     const uint64_t *x, const __m512i *w,
                                     uint32_t gain, __mmask16 outputs,
                                     size_t N, uint32_t *to)
{
    const __m512i gains = _mm512_set1_epi32((int32_t)gain);
    __m512i d[ROWS_AVX512];
    size_t r;

    differences__avx512(rows, (K + 31) / 32, words(K), x, w, d);
    for (r = 0; r < rows; r++, to += N)
        _mm512_mask_storeu_epi32(
            to, outputs,
            _mm512_add_epi32(_mm512_maskz_loadu_epi32(outputs, to),
                             _mm512_mullo_epi32(d[r], gains)));
}

AVX512 static void b1_gemm_counts__avx512_16x8(size_t M, size_t N, size_t K,
                                               const uint64_t *x,
                                               const uint8_t *w, uint32_t gain,
                                               uint32_t *d)
{
    const size_t row = words(K);
    size_t n, m;

    for (n = 0; n < N; n += LANES, w += 64 * ((K + 31) / 32)) {
        const __mmask16 outputs = lanes(n, N);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            counts_tile__avx512(ROWS_AVX512, K, x + m * row, tile, gain,
                                outputs, N, d + m * N + n);
        for (; m < M; m++)
            counts_tile__avx512(1, K, x + m * row, tile, gain, outputs, N,
                                d + m * N + n);
    }
}

const struct bifsmn_kernels bifsmn_kernels_avx512 = {
    "avx512",
    1,
    i8_pack__avx512,
    b1_pack__avx512,
    i8_conv_bits__avx512_16x8,
    b1_gemm_bits__avx512_16x8,
    b1_gemm_real__avx512_16x8,
    b1_memory_real__avx512_64x1,
    f32_gemv__avx512_4x16,
    b1_gemm_counts__avx512_16x8,
    bifsmn_b1_memory_counts,
};

#endif
