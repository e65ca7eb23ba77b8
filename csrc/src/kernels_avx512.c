/* kernels_avx512.c: kernels for Ice Lake, Zen 4 and later.
 *
 * A register holds 16 outputs, one in each 32-bit lane. Weights are packed
 * [N/16][K/32][16] (i8: [N/16][K/4][16][4]), so that one load brings the next
 * 32 inputs (4) of 16 outputs, zeros after the last; the inputs of a position
 * are broadcast. Eight positions share each load. */

#include "kernels.h"

#ifdef BIFSMN_X86

#include <immintrin.h>
#include <string.h>

#include "bytes.h"

#define AVX512                                                               \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni," \
                          "avx512vpopcntdq")))
/* Tiles: inlined where `rows` is a constant, so that d stays in registers. */
#define TILE AVX512 static inline __attribute__((always_inline))

enum { LANES = 16, ROWS = 8 };

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Lanes that are outputs, of N - n. */
static __mmask16 lanes(size_t outputs)
{
    return (__mmask16)(outputs < LANES ? (1u << outputs) - 1 : 0xffff);
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

static void i8_pack__avx512(size_t N, size_t K, const uint8_t *w,
                            uint8_t *packed)
{
    size_t n, k, i;

    for (n = 0; n < N; n += LANES)
        for (k = 0; k < K; k += 4)
            for (i = 0; i < LANES; i++, packed += 4) {
                memset(packed, 0, 4);
                if (n + i < N)
                    memcpy(packed, w + (n + i) * K + k, min(K - k, 4));
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

/* Bits of 16 outputs at `rows` positions. */
TILE void i8_tile(const size_t rows, size_t steps, size_t pitch,
                  const uint8_t *x, const __m512i *w, __m512i threshold,
                  __mmask16 in, __mmask16 direction, size_t n, size_t row,
                  uint64_t *out)
{
    __m512i sum[ROWS];
    size_t k, r;

    for (r = 0; r < rows; r++)
        sum[r] = _mm512_setzero_si512();
    for (k = 0; k < steps; k++) {
        const __m512i weight = _mm512_loadu_si512(w + k);

        for (r = 0; r < rows; r++) {
            int32_t four;

            memcpy(&four, x + r * pitch + 4 * k, 4);
            sum[r] = _mm512_dpbusd_epi32(sum[r], _mm512_set1_epi32(four),
                                         weight);
        }
    }
    for (r = 0; r < rows; r++)
        store_bits(out + r * row, n,
                   direction ^ _mm512_mask_cmp_epi32_mask(
                                   in, sum[r], threshold, _MM_CMPINT_NLT));
}

AVX512 static void i8_gemm_bits__avx512_16x8(size_t M, size_t N, size_t K,
                                             const uint8_t *x,
                                             const uint8_t *w,
                                             const int32_t *threshold,
                                             const uint8_t *direction,
                                             uint64_t *out)
{
    const size_t pitch = i8_pitch(K), steps = (K + 3) / 4, row = words(N);
    size_t n, m;

    clear_ends(M, N, out);
    for (n = 0; n < N; n += LANES, w += 64 * steps) {
        const __mmask16 in = lanes(N - n);
        const __mmask16 d = load_u16(direction + n / 8);
        const __m512i t = _mm512_maskz_loadu_epi32(in, threshold + n);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS <= M; m += ROWS)
            i8_tile(ROWS, steps, pitch, x + m * pitch, tile, t, in, d, n, row,
                    out + m * row);
        for (; m < M; m++)
            i8_tile(1, steps, pitch, x + m * pitch, tile, t, in, d, n, row,
                    out + m * row);
    }
}

/* Differing bits of 16 outputs at `rows` positions. */
TILE void differences(const size_t rows, size_t steps, size_t row,
                      const uint64_t *x, const __m512i *w, __m512i d[ROWS])
{
    size_t k, r;

    for (r = 0; r < rows; r++)
        d[r] = _mm512_setzero_si512();
    for (k = 0; k < steps; k++) {
        const __m512i weight = _mm512_loadu_si512(w + k);

        for (r = 0; r < rows; r++) {
            const uint8_t *inputs = (const uint8_t *)(x + r * row) + 4 * k;
            int32_t bits;

            memcpy(&bits, inputs, 4);
            d[r] = _mm512_add_epi32(
                d[r], _mm512_popcnt_epi32(_mm512_xor_si512(
                          weight, _mm512_set1_epi32(bits))));
        }
    }
}

TILE void bits_tile(const size_t rows, size_t steps, size_t row_in,
                    const uint64_t *x, const __m512i *w, __m512i threshold,
                    __mmask16 direction, size_t n, size_t row_out,
                    uint64_t *out)
{
    __m512i d[ROWS];
    size_t r;

    differences(rows, steps, row_in, x, w, d);
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
            _mm256_maskz_loadu_epi16(lanes(N - n), threshold + n));
        const __mmask16 d = load_u16(direction + n / 8);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS <= M; m += ROWS)
            bits_tile(ROWS, steps, row_in, x + m * row_in, tile, t, d, n,
                      row_out, out + m * row_out);
        for (; m < M; m++)
            bits_tile(1, steps, row_in, x + m * row_in, tile, t, d, n, row_out,
                      out + m * row_out);
    }
}

/* What the real outputs of 16 channels have in common. */
struct affine {
    __m512 scale, bias, slope;
    __mmask16 in;    /* outputs */
    __mmask16 added; /* outputs that are added to the stream */
};

TILE struct affine load_affine(size_t n, size_t N, const float *affine,
                               float slope, int residual)
{
    struct affine a;

    a.in = lanes(N - n);
    a.added = residual ? a.in : 0;
    a.scale = _mm512_maskz_loadu_ps(a.in, affine + n);
    a.bias = _mm512_maskz_loadu_ps(a.in, affine + N + n);
    a.slope = _mm512_set1_ps(slope);
    return a;
}

/* Sums of 16 channels to the stream; returns its signs. */
TILE __mmask16 real_outputs(__m512i sum, const struct affine *a, float *stream)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 z = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), a->scale);

    z = _mm512_add_ps(z, a->bias);
    z = _mm512_mask_mul_ps(z, _mm512_cmp_ps_mask(z, zero, _CMP_NGE_UQ), z,
                           a->slope);
    z = _mm512_mask_add_ps(z, a->added, _mm512_maskz_loadu_ps(a->in, stream),
                           z);
    _mm512_mask_storeu_ps(stream, a->in, z);
    return _mm512_mask_cmp_ps_mask(a->in, z, zero, _CMP_GE_OQ);
}

TILE void real_tile(const size_t rows, size_t K, const uint64_t *x,
                    const __m512i *w, const struct affine *a, size_t n,
                    size_t N, float *stream, uint64_t *sign)
{
    const __m512i all = _mm512_set1_epi32((int32_t)K);
    __m512i d[ROWS];
    size_t r;

    differences(rows, (K + 31) / 32, words(K), x, w, d);
    for (r = 0; r < rows; r++) {
        const __m512i sum =
            _mm512_sub_epi32(all, _mm512_add_epi32(d[r], d[r]));

        store_bits(sign + r * words(N), n,
                   real_outputs(sum, a, stream + r * N + n));
    }
}

AVX512 static void b1_gemm_real__avx512_16x8(size_t M, size_t N, size_t K,
                                             const uint64_t *x,
                                             const uint8_t *w,
                                             const float *affine, float slope,
                                             int residual, float *stream,
                                             uint64_t *sign)
{
    const size_t row_in = words(K), row_out = words(N);
    size_t n, m;

    clear_ends(M, N, sign);
    for (n = 0; n < N; n += LANES, w += 64 * ((K + 31) / 32)) {
        const struct affine a = load_affine(n, N, affine, slope, residual);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS <= M; m += ROWS)
            real_tile(ROWS, K, x + m * row_in, tile, &a, n, N, stream + m * N,
                      sign + m * row_out);
        for (; m < M; m++)
            real_tile(1, K, x + m * row_in, tile, &a, n, N, stream + m * N,
                      sign + m * row_out);
    }
}

AVX512 static void b1_memory_real__avx512_16x1(size_t M, size_t N, size_t taps,
                                               size_t left, size_t dilation,
                                               const uint64_t *x,
                                               const uint8_t *w,
                                               const float *affine,
                                               float slope, float *stream,
                                               uint64_t *sign)
{
    const size_t row = words(N);
    const __m512i all = _mm512_set1_epi32((int32_t)taps);
    const __m512i two = _mm512_set1_epi32(2);
    size_t m, n, j;

    clear_ends(M, N, sign);
    for (n = 0; n < N; n += LANES) {
        const struct affine a = load_affine(n, N, affine, slope, 1);

        for (m = 0; m < M; m++) {
            __m512i sum = all;

            for (j = 0; j < taps; j++) {
                /* Before the first position this wraps, far beyond M. */
                const size_t t = m + j * dilation - left * dilation;
                uint16_t inputs = 0xffff;

                if (t < M)
                    memcpy(&inputs, (const uint8_t *)(x + t * row) + n / 8, 2);
                inputs ^= load_u16(w + 8 * j * row + n / 8);
                sum = _mm512_mask_sub_epi32(sum, inputs, sum, two);
            }
            store_bits(sign + m * row, n,
                       real_outputs(sum, &a, stream + m * N + n));
        }
    }
}

AVX512 static float i8_dot__avx512_64(size_t K, const float *x,
                                      const uint8_t *w)
{
    __m512 sum[4];
    size_t k, i;

    for (i = 0; i < 4; i++)
        sum[i] = _mm512_setzero_ps();
    for (k = 0; k < K; k += 4 * LANES)
        for (i = 0; i < 4 && k + i * LANES < K; i++) {
            const size_t at = k + i * LANES;
            const __mmask16 in = lanes(K - at);
            const __m512i weight =
                _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(in, w + at));

            sum[i] = _mm512_add_ps(
                sum[i], _mm512_mul_ps(_mm512_cvtepi32_ps(weight),
                                      _mm512_maskz_loadu_ps(in, x + at)));
        }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]),
                                              _mm512_add_ps(sum[2], sum[3])));
}

/* Sixteen weights in 8 bytes: nibble i is moved to the low end of lane i, then
 * looked up. */
TILE __m512 weights_i4(const uint8_t *w)
{
    const __m512i to_lanes = _mm512_set_epi64(
        0x0000003c00000038, 0x0000003400000030, 0x0000002c00000028,
        0x0000002400000020, 0x0000001c00000018, 0x0000001400000010,
        0x0000000c00000008, 0x0000000400000000);
    const __m512 value = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5,
                                        -4, -3, -2, -1);
    const __m512i sixteen = _mm512_set1_epi64((int64_t)load_u64(w));

    return _mm512_permutexvar_ps(
        _mm512_multishift_epi64_epi8(to_lanes, sixteen), value);
}

AVX512 static float i4_dot__avx512_64(size_t K, const float *x,
                                      const uint8_t *w)
{
    __m512 sum[4];
    uint8_t end[8] = {0};
    size_t k, i;

    for (i = 0; i < 4; i++)
        sum[i] = _mm512_setzero_ps();
    for (k = 0; k + 4 * LANES <= K; k += 4 * LANES)
        for (i = 0; i < 4; i++) {
            const size_t at = k + i * LANES;

            sum[i] = _mm512_add_ps(
                sum[i], _mm512_mul_ps(weights_i4(w + at / 2),
                                      _mm512_loadu_ps(x + at)));
        }
    for (; k < K; k += LANES) {
        memcpy(end, w + k / 2, min((K - k + 1) / 2, 8));
        sum[0] = _mm512_add_ps(
            sum[0], _mm512_mul_ps(weights_i4(end), _mm512_maskz_loadu_ps(
                                                       lanes(K - k), x + k)));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]),
                                              _mm512_add_ps(sum[2], sum[3])));
}

const struct bifsmn_kernels bifsmn_kernels_avx512 = {
    "avx512",
    i8_pack__avx512,
    b1_pack__avx512,
    i8_gemm_bits__avx512_16x8,
    b1_gemm_bits__avx512_16x8,
    b1_gemm_real__avx512_16x8,
    b1_memory_real__avx512_16x1,
    i8_dot__avx512_64,
    i4_dot__avx512_64,
};

#endif
