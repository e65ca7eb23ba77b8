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

/* Thresholds of 16 outputs, and where their bits go. */
struct i8_outputs_avx512 {
    __m512i threshold[3];
    size_t row, plane, n;
    __mmask16 direction, in;
};

TILE_AVX512 __mmask16 reached__avx512(__mmask16 in, __m512i sum, __m512i at)
{
    return _mm512_mask_cmp_epi32_mask(in, sum, at, _MM_CMPINT_NLT);
}

/* Bits of 16 outputs at `positions`. */
TILE_AVX512 void i8_tile__avx512(const size_t positions, const size_t cuts,
                                 struct window_avx512 in, const uint8_t *x,
                                 const __m512i *w,
                                 struct i8_outputs_avx512 o,
                                 uint64_t *out)
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
        store_bits(out + m * o.row, o.n,
                   o.direction ^ reached__avx512(o.in, sum[m],
                                                 o.threshold[cuts / 2]));
    for (m = 0; cuts == 3 && m < positions; m++)
        store_bits(out + o.plane + m * o.row, o.n,
                   o.direction ^
                       reached__avx512(o.in, sum[m], o.threshold[0]) ^
                       reached__avx512(o.in, sum[m], o.threshold[1]) ^
                       reached__avx512(o.in, sum[m], o.threshold[2]));
}

AVX512 static void i8_conv_bits__avx512_16x8(size_t M, size_t N, size_t rows,
                                             size_t columns, const uint8_t *x,
                                             size_t step, size_t pitch,
                                             const uint8_t *w, size_t cuts,
                                             const int32_t *threshold,
                                             const uint8_t *direction,
                                             size_t plane, uint64_t *out)
{
    const struct window_avx512 in = {rows, (columns + 3) / 4, step, pitch};
    const __m512i *tile = (const __m512i *)w;
    const size_t row = words(N);
    struct i8_outputs_avx512 o = {{{0}}, row, plane, 0, 0, 0};
    size_t m, i;

    clear_ends(M, N, out);
    if (cuts == 3)
        clear_ends(M, N, out + plane);
    for (; o.n < N; o.n += LANES, tile += rows * in.steps) {
        o.in = lanes(o.n, N);
        o.direction = load_u16(direction + o.n / 8);
        for (i = 0; i < cuts; i++)
            o.threshold[i] =
                _mm512_maskz_loadu_epi32(o.in, threshold + i * N + o.n);
        for (m = 0; cuts == 1 && m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            i8_tile__avx512(ROWS_AVX512, 1, in, x + m * step, tile, o,
                            out + m * row);
        for (; cuts == 3 && m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            i8_tile__avx512(ROWS_AVX512, 3, in, x + m * step, tile, o,
                            out + m * row);
        for (; m < M; m++)
            i8_tile__avx512(1, cuts, in, x + m * step, tile, o, out + m * row);
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
                                      __m512 slope)
{
    struct affine a;

    a.in = lanes(n, N);
    a.scale = _mm512_maskz_loadu_ps(a.in, affine + n);
    a.bias = _mm512_maskz_loadu_ps(a.in, affine + N + n);
    a.slope = slope;
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
        const struct affine a =
            load_affine(n, N, affine, _mm512_set1_ps(slope));
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            real_tile__avx512(ROWS_AVX512, K, x + m * row_in, tile, &a, n, N,
                              stream + m * N, sign + m * row_out);
        for (; m < M; m++)
            real_tile__avx512(1, K, x + m * row_in, tile, &a, n, N,
                              stream + m * N, sign + m * row_out);
    }
}

/* taps - 2 d of 64 channels at position m, as bytes: for up to 127 taps. */
TILE_AVX512 __m512i memory_sums__avx512(size_t m, size_t M, size_t row,
                                        size_t taps, size_t left,
                                        size_t dilation, const uint64_t *x,
                                        const uint8_t *w)
{
    const __m512i two = _mm512_set1_epi8(2);
    __m512i sum = _mm512_set1_epi8((char)taps);
    size_t j;

    for (j = 0; j < taps; j++) {
        /* Before the first position this wraps, far beyond M. */
        const size_t t = m + (j - left) * dilation;
        const uint64_t outside = -(uint64_t)(t >= M);
        const uint64_t inputs = x[(outside ? 0 : t) * row] | outside;

        sum = _mm512_mask_sub_epi8(sum, inputs ^ load_u64(w + 8 * j * row), sum,
                                   two);
    }
    return sum;
}

/* The first 16 of 64 bytes, widened; the next ones take their place. */
TILE_AVX512 __m512i next_sums(__m512i *bytes)
{
    const __m512i wide = _mm512_cvtepi8_epi32(_mm512_castsi512_si128(*bytes));

    *bytes = _mm512_alignr_epi64(*bytes, *bytes, 2);
    return wide;
}

AVX512 static void b1_memory_real__avx512_64x1(size_t M, size_t N, size_t taps,
                                               size_t left, size_t dilation,
                                               const uint64_t *x,
                                               const uint8_t *w,
                                               const float *affine,
                                               float slope, float *stream,
                                               uint64_t *sign)
{
    const size_t row = words(N);
    size_t m, n, i;

    if (taps > 127) { /* sums beyond a byte */
        bifsmn_kernels_scalar.b1_memory_real(M, N, taps, left, dilation, x, w,
                                             affine, slope, stream, sign);
        return;
    }
    for (n = 0; n < N; n += 64, x++, w += 8, sign++) {
        struct affine a[4];

        for (i = 0; i < 4; i++)
            a[i] = load_affine(n + i * LANES, N, affine,
                               _mm512_set1_ps(slope));
        for (m = 0; m < M; m++) {
            __m512i sum =
                memory_sums__avx512(m, M, row, taps, left, dilation, x, w);
            uint64_t word = 0;

            for (i = 0; i < 4; i++)
                word |= (uint64_t)real_outputs__avx512(
                            next_sums(&sum), &a[i],
                            stream + m * N + n + i * LANES)
                        << i * LANES;
            sign[m * row] = word;
        }
    }
}

/* Of a float that is a small whole number the low half is zero, so that the
 * high halves of two fit one word, 16 columns apart: as floats the weights of
 * the head are more than the first cache holds. What is left after the last 32
 * columns is not packed. */
static void head_pack__avx512(size_t N, size_t K, float *w)
{
    size_t n, k, i;

    for (n = 0; n < N; n++, w += K)
        for (k = 0; k + 32 <= K; k += 32)
            for (i = k; i < k + LANES; i++) {
                uint32_t low, high;

                memcpy(&low, w + i, 4);
                memcpy(&high, w + i + LANES, 4);
                high |= low >> 16;
                memcpy(w + k / 2 + i % LANES, &high, 4);
            }
}

/* Four rows share each load of x; of the last few, some are the same. */
AVX512 static void head__avx512_4x32(size_t N, size_t K, const float *x,
                                     const float *w, float *out)
{
    const __m512i high = _mm512_set1_epi32(-65536);
    size_t n, k, i;

    for (n = 0; n < N; n += 4) {
        const float *row[4];
        __m512 even[4], odd[4];

        for (i = 0; i < 4; i++) {
            row[i] = w + min_size(n + i, N - 1) * K;
            even[i] = odd[i] = _mm512_setzero_ps();
        }
        for (k = 0; k + 32 <= K; k += 32) {
            const __m512 first = _mm512_loadu_ps(x + k);
            const __m512 second = _mm512_loadu_ps(x + k + LANES);

            for (i = 0; i < 4; i++) {
                const __m512i pair = _mm512_loadu_si512(row[i] + k / 2);

                even[i] = _mm512_fmadd_ps(
                    _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), first,
                    even[i]);
                odd[i] = _mm512_fmadd_ps(
                    _mm512_castsi512_ps(_mm512_and_si512(pair, high)), second,
                    odd[i]);
            }
        }
        for (; k < K; k += LANES) {
            const __mmask16 in = lanes(k, K);
            const __m512 inputs = _mm512_maskz_loadu_ps(in, x + k);

            for (i = 0; i < 4; i++)
                even[i] = _mm512_fmadd_ps(
                    _mm512_maskz_loadu_ps(in, row[i] + k), inputs, even[i]);
        }
        for (i = 0; i < min_size(4, N - n); i++)
            out[n + i] = _mm512_reduce_add_ps(_mm512_add_ps(even[i], odd[i]));
    }
}

TILE_AVX512 void counts_tile__avx512(const size_t rows, size_t K,
                                     size_t planes, size_t plane,
                                     const uint64_t *x, const __m512i *w,
                                     const uint32_t *gain, __mmask16 outputs,
                                     size_t N, uint32_t *to)
{
    __m512i d[ROWS_AVX512], sum[ROWS_AVX512];
    size_t p, r;

    for (r = 0; r < rows; r++)
        sum[r] = _mm512_setzero_si512();
    for (p = 0; p < planes; p++, x += plane) {
        const __m512i gains = _mm512_set1_epi32((int32_t)gain[p]);

        differences__avx512(rows, (K + 31) / 32, words(K), x, w, d);
        for (r = 0; r < rows; r++)
            sum[r] =
                _mm512_add_epi32(sum[r], _mm512_mullo_epi32(d[r], gains));
    }
    for (r = 0; r < rows; r++, to += N)
        _mm512_mask_storeu_epi32(to, outputs, sum[r]);
}

AVX512 static void b1_gemm_counts__avx512_16x8(size_t M, size_t N, size_t K,
                                               size_t planes, const uint64_t *x,
                                               const uint8_t *w,
                                               const uint32_t *gain,
                                               uint32_t *d)
{
    const size_t row = words(K), plane = M * row;
    size_t n, m;

    for (n = 0; n < N; n += LANES, w += 64 * ((K + 31) / 32)) {
        const __mmask16 outputs = lanes(n, N);
        const __m512i *tile = (const __m512i *)w;

        for (m = 0; m + ROWS_AVX512 <= M; m += ROWS_AVX512)
            counts_tile__avx512(ROWS_AVX512, K, planes, plane, x + m * row,
                                tile, gain, outputs, N, d + m * N + n);
        for (; m < M; m++)
            counts_tile__avx512(1, K, planes, plane, x + m * row, tile, gain,
                                outputs, N, d + m * N + n);
    }
}

AVX512 static void b1_memory_counts__avx512_64x1(size_t M, size_t N,
                                                 size_t taps, size_t left,
                                                 size_t dilation, size_t planes,
                                                 const uint64_t *x,
                                                 const uint8_t *w,
                                                 const uint32_t *gain,
                                                 uint32_t *d)
{
    const __m512i all = _mm512_set1_epi32((int32_t)taps);
    const size_t row = words(N);
    size_t m, n, i, p;

    if (taps > 127) { /* sums beyond a byte */
        bifsmn_kernels_scalar.b1_memory_counts(M, N, taps, left, dilation,
                                               planes, x, w, gain, d);
        return;
    }
    for (n = 0; n < N; n += 64, x++, w += 8)
        for (m = 0; m < M; m++) {
            __m512i count[4];

            for (i = 0; i < 4; i++)
                count[i] = _mm512_setzero_si512();
            for (p = 0; p < planes; p++) {
                const __m512i gains = _mm512_set1_epi32((int32_t)gain[p]);
                __m512i sum =
                    memory_sums__avx512(m, M, row, taps, left, dilation,
                                        x + p * M * row, w);

                for (i = 0; i < 4; i++) {
                    const __m512i twice =
                        _mm512_sub_epi32(all, next_sums(&sum));

                    count[i] = _mm512_add_epi32(
                        count[i],
                        _mm512_mullo_epi32(_mm512_srli_epi32(twice, 1), gains));
                }
            }
            for (i = 0; i < 4; i++)
                _mm512_mask_storeu_epi32(d + m * N + n + i * LANES,
                                         lanes(n + i * LANES, N), count[i]);
        }
}

/* Whether 16 counts are below a cut, or values of the stream reach it. */
TILE_AVX512 __mmask16 compare__avx512(const int real, __mmask16 in, __m512i v,
                                      __m512i cut)
{
    return real ? _mm512_mask_cmp_ps_mask(in, _mm512_castsi512_ps(v),
                                          _mm512_castsi512_ps(cut), _CMP_GE_OQ)
                : _mm512_mask_cmplt_epi32_mask(in, v, cut);
}

TILE_AVX512 void cut_bits__avx512(const int real, size_t M, size_t N,
                                  size_t cuts, const void *values,
                                  const void *cut, const uint8_t *direction,
                                  uint64_t *out)
{
    const size_t row = words(N), plane = M * row;
    size_t n, m, i;

    clear_ends(cuts == 3 ? 2 * M : M, N, out);
    for (n = 0; n < N; n += LANES) {
        const __mmask16 in = lanes(n, N);
        const __mmask16 turn = direction ? load_u16(direction + n / 8) : 0;
        const int32_t *at = (const int32_t *)cut + n;
        const int32_t *from = (const int32_t *)values + n;
        __m512i c[3];

        for (i = 0; i < 3; i++)
            c[i] = _mm512_maskz_loadu_epi32(in, at + (i < cuts ? i * N : 0));
        for (m = 0; m < M; m++, from += N) {
            const __m512i v = _mm512_maskz_loadu_epi32(in, from);
            __mmask16 bits = turn ^ compare__avx512(real, in, v, c[cuts == 3]);

            store_bits(out + m * row, n, bits);
            if (cuts == 3) {
                bits ^= compare__avx512(real, in, v, c[0]) ^
                        compare__avx512(real, in, v, c[2]);
                store_bits(out + plane + m * row, n, bits);
            }
        }
    }
}

AVX512 static void counts_to_bits__avx512_16x1(size_t M, size_t N,
                                               const uint32_t *d,
                                               const uint32_t *cut,
                                               const uint8_t *direction,
                                               uint64_t *out)
{
    cut_bits__avx512(0, M, N, 3, d, cut, direction, out);
}

AVX512 static void counts_to_stream__avx512_16x1(size_t M, size_t N,
                                                 uint32_t most,
                                                 const uint32_t *d,
                                                 const float *affine,
                                                 const float *slope,
                                                 float *stream)
{
    const __m512i all = _mm512_set1_epi32((int32_t)most);
    size_t n, m;

    for (n = 0; n < N; n += LANES) {
        const struct affine a =
            load_affine(n, N, affine,
                        _mm512_maskz_loadu_ps(lanes(n, N), slope + n));

        for (m = n; m < M * N; m += N) {
            const __m512i v = _mm512_maskz_loadu_epi32(a.in, d + m);

            real_outputs__avx512(
                _mm512_sub_epi32(all, _mm512_add_epi32(v, v)), &a, stream + m);
        }
    }
}

AVX512 static void stream_to_bits__avx512_16x1(size_t M, size_t N, size_t cuts,
                                               const float *stream,
                                               const float *cut, uint64_t *out)
{
    cut_bits__avx512(1, M, N, cuts, stream, cut, NULL, out);
}

const struct bifsmn_kernels bifsmn_kernels_avx512 = {
    "avx512",
    1,
    i8_pack__avx512,
    b1_pack__avx512,
    head_pack__avx512,
    i8_conv_bits__avx512_16x8,
    b1_gemm_bits__avx512_16x8,
    b1_gemm_real__avx512_16x8,
    b1_memory_real__avx512_64x1,
    head__avx512_4x32,
    b1_gemm_counts__avx512_16x8,
    b1_memory_counts__avx512_64x1,
    counts_to_bits__avx512_16x1,
    counts_to_stream__avx512_16x1,
    stream_to_bits__avx512_16x1,
};

#endif
