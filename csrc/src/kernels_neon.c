/* kernels_neon.c: the kernels for 64-bit ARM, with nothing beyond ARMv8-A.
 *
 * A vector holds positions side by side, never outputs of one position: the
 * inputs of 8 positions stay in registers while rows of weights stream past,
 * the sums come out as one vector per output, and one SRI per vector shifts
 * the sign or comparison of 8 positions into 8 rows of bits at once.
 *
 * Differing bits are counted within bytes (EOR, CNT), and bytes are added
 * pairwise (ADDP) in a tree that leaves one position per lane. ADD and ADDP
 * run on every vector pipe, widening additions only on some, so bytes are
 * widened only where they would overflow. */

#if defined(__aarch64__) && !defined(__AARCH64EB__)

#include <arm_neon.h>
#include <string.h>

#include "bytes.h"
#include "kernels.h"

enum {
    TILE = 8,   /* positions */
    BLOCK = 64, /* outputs: the bits of one word */
    HALF = 32
};

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- what follows from the sums of 8 positions ---- */

/* Bits of 8 positions, 32 outputs each: lane i holds position i. */
struct bits {
    uint32x4_t low, high;
};

/* Up to 64 outputs of 8 positions as words, `count` of them stored. */
static void store_words(struct bits first, struct bits second, size_t count,
                        size_t row, uint64_t *out)
{
    const uint32x4x2_t low = {{first.low, second.low}};
    const uint32x4x2_t high = {{first.high, second.high}};
    uint32_t halves[2 * TILE];
    size_t i;

    vst2q_u32(halves, low);
    vst2q_u32(halves + TILE, high);
    for (i = 0; i < count; i++, out += row)
        memcpy(out, halves + 2 * i, 8);
}

/* Shifts the sign bits of x in, as the latest output. */
static inline void shift_in(struct bits *bits, uint32x4_t low, uint32x4_t high)
{
    bits->low = vsriq_n_u32(low, bits->low, 1);
    bits->high = vsriq_n_u32(high, bits->high, 1);
}

/* 32 outputs were to be shifted in, but only `count` were; `flip` all. */
static struct bits finish_bits(struct bits bits, size_t count, uint32_t flip)
{
    const int32x4_t shift = vdupq_n_s32((int32_t)count - HALF);
    const uint32_t mask = count < HALF ? ((uint32_t)1 << count) - 1 : ~0u;
    const uint32x4_t turn = vdupq_n_u32(flip & mask);

    bits.low = veorq_u32(vshlq_u32(bits.low, shift), turn);
    bits.high = veorq_u32(vshlq_u32(bits.high, shift), turn);
    return bits;
}

/* z >= 0 ? z : z * slope; the maximum of both where 0 < slope <= 1. */
static inline float32x4_t prelu(float32x4_t z, float32x4_t slope, int gentle)
{
    const float32x4_t below = vmulq_f32(z, slope);

    if (gentle)
        return vmaxq_f32(z, below);
    return vbslq_f32(vcgezq_f32(z), z, below);
}

static int is_gentle(float slope)
{
    return slope > 0 && slope <= 1;
}

/* Sums s of one output onto its 8 places in the stream; their signs: sign bits
 * will do, because the stream is never -0. */
static inline void add_real(float32x4_t low, float32x4_t high, float32x4_t scale,
                            float32x4_t bias, float32x4_t slope, int gentle,
                            float *stream, struct bits *below_zero)
{
    low = vaddq_f32(vmulq_f32(low, scale), bias);
    high = vaddq_f32(vmulq_f32(high, scale), bias);
    low = vaddq_f32(vld1q_f32(stream), prelu(low, slope, gentle));
    high = vaddq_f32(vld1q_f32(stream + 4), prelu(high, slope, gentle));
    vst1q_f32(stream, low);
    vst1q_f32(stream + 4, high);
    shift_in(below_zero, vreinterpretq_u32_f32(low),
             vreinterpretq_u32_f32(high));
}

/* ---- any shape: counts first, then what follows from them ---- */

/* d[n][i]: differing bits of row n of w and of position i. Positions from
 * `count` on repeat the last one, so that nothing is read beyond x. */
static void differences(size_t outputs, size_t row, size_t count,
                        const uint64_t *x, const uint8_t *w,
                        uint32_t d[BLOCK][TILE])
{
    enum { WORDS = 31 }; /* 31 counts of up to 8 fit a byte */
    uint64_t turned[WORDS][TILE]; /* x, words outermost */
    size_t from, n, k, i;

    memset(d, 0, BLOCK * sizeof *d);
    for (from = 0; from < row; from += WORDS) {
        const size_t length = min(WORDS, row - from);

        for (i = 0; i < TILE; i++)
            for (k = 0; k < length; k++)
                turned[k][i] = x[min(i, count - 1) * row + from + k];
        for (n = 0; n < outputs; n++) {
            const uint8_t *weight = w + 8 * (n * row + from);
            uint8x16_t sum[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0),
                                 vdupq_n_u8(0)};
            uint16x8_t wide[4];

            for (k = 0; k < length; k++) {
                const uint64x2_t v = vdupq_n_u64(load_u64(weight + 8 * k));

                for (i = 0; i < 4; i++) {
                    const uint64x2_t differ =
                        veorq_u64(v, vld1q_u64(turned[k] + 2 * i));

                    sum[i] = vaddq_u8(
                        sum[i], vcntq_u8(vreinterpretq_u8_u64(differ)));
                }
            }
            for (i = 0; i < 4; i++)
                wide[i] = vpaddlq_u8(sum[i]);
            wide[0] = vpaddq_u16(vpaddq_u16(wide[0], wide[1]),
                                 vpaddq_u16(wide[2], wide[3]));
            vst1q_u32(d[n],
                      vaddw_u16(vld1q_u32(d[n]), vget_low_u16(wide[0])));
            vst1q_u32(d[n] + 4,
                      vaddw_high_u16(vld1q_u32(d[n] + 4), wide[0]));
        }
    }
}

static void b1_gemm_bits__neon_8x1(size_t M, size_t N, size_t K,
                                   const uint64_t *x, const uint8_t *w,
                                   const uint16_t *threshold,
                                   const uint8_t *direction, uint64_t *out)
{
    const size_t row = words(K);
    uint32_t d[BLOCK][TILE];
    size_t m, n, i, part;

    for (m = 0; m < M; m += TILE)
        for (n = 0; n < N; n += BLOCK) {
            const uint64_t flip = load_u64(direction + n / 8);
            struct bits bits[2];

            differences(min(BLOCK, N - n), row, min(TILE, M - m), x + m * row,
                        w + 8 * n * row, d);
            for (part = 0; part < 2; part++) {
                const size_t at = n + part * HALF;
                const size_t outputs = at < N ? min(HALF, N - at) : 0;

                bits[part].low = bits[part].high = vdupq_n_u32(0);
                for (i = 0; i < outputs; i++) {
                    const uint32x4_t t = vdupq_n_u32(threshold[at + i]);
                    const uint32_t *sums = d[part * HALF + i];

                    shift_in(&bits[part], vcltq_u32(vld1q_u32(sums), t),
                             vcltq_u32(vld1q_u32(sums + 4), t));
                }
                bits[part] = finish_bits(bits[part], outputs,
                                         (uint32_t)(flip >> part * HALF));
            }
            store_words(bits[0], bits[1], min(TILE, M - m), words(N),
                        out + m * words(N) + n / BLOCK);
        }
}

/* Real outputs of one block from its counts, K - 2 d each. */
static void real_outputs(size_t N, size_t n, size_t K, size_t count,
                         uint32_t d[BLOCK][TILE], const float *affine,
                         float slope, float *stream, uint64_t *sign)
{
    const int32x4_t inputs = vdupq_n_s32((int32_t)K);
    struct bits bits[2];
    size_t part, i;

    for (part = 0; part < 2; part++) {
        const size_t at = n + part * HALF;
        const size_t outputs = at < N ? min(HALF, N - at) : 0;

        bits[part].low = bits[part].high = vdupq_n_u32(0);
        for (i = 0; i < outputs; i++) {
            const uint32_t *sums = d[part * HALF + i];
            const int32x4_t low = vreinterpretq_s32_u32(vld1q_u32(sums));
            const int32x4_t high = vreinterpretq_s32_u32(vld1q_u32(sums + 4));

            add_real(
                vcvtq_f32_s32(vsubq_s32(inputs, vaddq_s32(low, low))),
                vcvtq_f32_s32(vsubq_s32(inputs, vaddq_s32(high, high))),
                vdupq_n_f32(affine[at + i]), vdupq_n_f32(affine[N + at + i]),
                vdupq_n_f32(slope), 0, stream + (at + i) * TILE, &bits[part]);
        }
        bits[part] = finish_bits(bits[part], outputs, ~0u);
    }
    store_words(bits[0], bits[1], count, words(N), sign + n / BLOCK);
}

static void b1_gemm_real__neon_8x1(size_t M, size_t N, size_t K,
                                   const uint64_t *x, const uint8_t *w,
                                   const float *affine, float slope,
                                   float *stream, uint64_t *sign)
{
    const size_t row = words(K);
    uint32_t d[BLOCK][TILE];
    size_t m, n;

    for (m = 0; m < M; m += TILE)
        for (n = 0; n < N; n += BLOCK) {
            const size_t count = min(TILE, M - m);

            differences(min(BLOCK, N - n), row, count, x + m * row,
                        w + 8 * n * row, d);
            real_outputs(N, n, K, count, d, affine, slope, stream + m * N,
                         sign + m * words(N));
        }
}

static void b1_memory_real__neon_8x1(size_t M, size_t N, size_t taps,
                                     size_t left, size_t dilation,
                                     const uint64_t *x, const uint8_t *w,
                                     const float *affine, float slope,
                                     float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    uint32_t d[BLOCK][TILE];
    size_t m, n, i, j, f;

    for (m = 0; m < M; m += TILE)
        for (n = 0; n < N; n += BLOCK) {
            const size_t count = min(TILE, M - m);

            memset(d, 0, sizeof d);
            for (j = 0; j < taps; j++) {
                const uint64_t weight = load_u64(w + 8 * (j * row + n / BLOCK));

                for (f = 0; f < count; f++) {
                    /* Before the first position this wraps, far beyond M. */
                    const size_t t = m + f + j * dilation - left * dilation;
                    const uint64_t differ =
                        weight ^
                        (t < M ? x[t * row + n / BLOCK] : ~(uint64_t)0);

                    for (i = 0; i < BLOCK; i++)
                        d[i][f] += (uint32_t)(differ >> i) & 1;
                }
            }
            real_outputs(N, n, taps, count, d, affine, slope, stream + m * N,
                         sign + m * row);
        }
}

/* ---- pointwise 1: up to 128 inputs ---- */

/* Differing bits of rows a and b, at 8 positions: a 0, b 0, a 1, b 1 ...
 * At most 128, so bytes are enough all the way. */
static inline uint8x16_t two_rows(const uint8x16_t x[TILE], uint8x16_t a,
                                  uint8x16_t b)
{
    uint8x16_t quarter[4];
    size_t i;

    for (i = 0; i < 4; i++) {
        const uint8x16_t even =
            vpaddq_u8(vcntq_u8(veorq_u8(x[2 * i], a)),
                      vcntq_u8(veorq_u8(x[2 * i], b)));
        const uint8x16_t odd =
            vpaddq_u8(vcntq_u8(veorq_u8(x[2 * i + 1], a)),
                      vcntq_u8(veorq_u8(x[2 * i + 1], b)));

        quarter[i] = vpaddq_u8(even, odd);
    }
    return vpaddq_u8(vpaddq_u8(quarter[0], quarter[1]),
                     vpaddq_u8(quarter[2], quarter[3]));
}

/* 16 rows of two words: their bits at 8 positions. Row i is taken with row
 * i + 8, so that SRI leaves one byte of bits of each. */
static inline uint16x8_t sixteen_rows(const uint8x16_t x[TILE],
                                      const uint8_t *w,
                                      const uint16_t *threshold)
{
    const uint16x8_t limits =
        vsliq_n_u16(vld1q_u16(threshold), vld1q_u16(threshold + 8), 8);
    uint16_t limit[TILE]; /* of rows i and i + 8, a byte each */
    uint8x16_t bits = vdupq_n_u8(0);
    size_t i;

    vst1q_u16(limit, limits);
    for (i = 0; i < 8; i += 4) {
        const uint8x16x4_t a = vld1q_u8_x4(w + 16 * i);
        const uint8x16x4_t b = vld1q_u8_x4(w + 16 * (i + 8));
        size_t k;

        for (k = 0; k < 4; k++) {
            const uint8x16_t limited =
                vreinterpretq_u8_u16(vld1q_dup_u16(limit + i + k));

            bits = vsriq_n_u8(
                vcltq_u8(two_rows(x, a.val[k], b.val[k]), limited), bits, 1);
        }
    }
    return vreinterpretq_u16_u8(bits);
}

static void b1_gemm_bits__neon_8x16(size_t M, size_t N, const uint64_t *in,
                                    const uint8_t *w, const uint16_t *threshold,
                                    const uint8_t *direction, uint64_t *out)
{
    size_t m, n, i;

    for (m = 0; m < M; m += TILE) {
        uint8x16_t x[TILE];

        for (i = 0; i < TILE; i++)
            x[i] = vreinterpretq_u8_u64(vld1q_u64(in + 2 * min(m + i, M - 1)));
        for (n = 0; n < N; n += BLOCK) {
            const uint64_t flip = load_u64(direction + n / 8);
            uint16_t quarters[4][TILE], turned[TILE][4];
            uint16x8x4_t all;

            for (i = 0; i < 4; i++)
                vst1q_u16(quarters[i],
                          sixteen_rows(x, w + 16 * (n + 16 * i),
                                       threshold + n + 16 * i));
            for (i = 0; i < 4; i++)
                all.val[i] = vld1q_u16(quarters[i]);
            vst4q_u16(turned[0], all);
            for (i = 0; i < min(TILE, M - m); i++) {
                uint64_t word;

                memcpy(&word, turned[i], 8);
                out[(m + i) * words(N) + n / BLOCK] = word ^ flip;
            }
        }
    }
}

/* ---- second convolution: 385 to 400 inputs ---- */

/* As much of 32 rows as four positions need: a pair of rows i and i + 16. */
struct pair {
    uint16_t limit[8]; /* thresholds, four times each */
    uint16_t tail[8];  /* inputs from 384 on, four times each */
};

/* Differing bits of the first 384 inputs of row w, at four positions. */
static inline uint8x16_t four_positions(const uint8x16_t x[4][3],
                                        const uint8_t *w)
{
    const uint8x16_t w0 = vld1q_u8(w), w1 = vld1q_u8(w + 16),
                     w2 = vld1q_u8(w + 32);
    uint8x16_t sum[4];
    size_t i;

    for (i = 0; i < 4; i++)
        sum[i] = vaddq_u8(vaddq_u8(vcntq_u8(veorq_u8(x[i][0], w0)),
                                   vcntq_u8(veorq_u8(x[i][1], w1))),
                          vcntq_u8(veorq_u8(x[i][2], w2)));
    return vpaddq_u8(vpaddq_u8(sum[0], sum[1]), vpaddq_u8(sum[2], sum[3]));
}

static void b1_gemm_bits__neon_4x2(size_t M, size_t N, const uint64_t *in,
                                   const uint8_t *w, const uint16_t *threshold,
                                   const uint8_t *direction, uint64_t *out)
{
    enum { ROW = 56 }; /* bytes of 7 words */
    struct pair pairs[HALF / 2];
    size_t m, n, i, k;

    for (n = 0; n < N; n += HALF, w += HALF * ROW) {
        const uint32_t flip = load_u32(direction + n / 8);

        for (i = 0; i < HALF / 2; i++) {
            const uint8_t *a = w + ROW * i + 48, *b = a + ROW * (HALF / 2);

            vst1q_u16(pairs[i].limit,
                      vcombine_u16(vdup_n_u16(threshold[n + i]),
                                   vdup_n_u16(threshold[n + i + HALF / 2])));
            vst1q_u16(pairs[i].tail, vcombine_u16(vdup_n_u16(load_u16(a)),
                                                  vdup_n_u16(load_u16(b))));
        }
        for (m = 0; m < M; m += 4) {
            uint8x16_t x[4][3];
            uint16_t tails[4];
            uint16x8_t tail, bits = vdupq_n_u16(0);

            for (i = 0; i < 4; i++) {
                const uint64_t *at = in + 7 * min(m + i, M - 1);

                for (k = 0; k < 3; k++)
                    x[i][k] = vreinterpretq_u8_u64(vld1q_u64(at + 2 * k));
                tails[i] = (uint16_t)at[6];
            }
            tail = vcombine_u16(vld1_u16(tails), vld1_u16(tails));
            for (i = 0; i < HALF / 2; i++) {
                const uint8_t *a = w + ROW * i, *b = a + ROW * (HALF / 2);
                const uint16x8_t rest =
                    veorq_u16(tail, vld1q_u16(pairs[i].tail));
                const uint8x16_t sums =
                    vaddq_u8(vpaddq_u8(four_positions(x, a),
                                       four_positions(x, b)),
                             vcntq_u8(vreinterpretq_u8_u16(rest)));

                bits = vsriq_n_u16(vcltq_u16(vpaddlq_u8(sums),
                                             vld1q_u16(pairs[i].limit)),
                                   bits, 1);
            }
            {
                /* Rows 0 to 15 are in the low half, 16 to 31 in the high. */
                const uint16x8_t both =
                    vzip1q_u16(bits, vextq_u16(bits, bits, 4));
                uint32_t words32[4];

                vst1q_u32(words32, veorq_u32(vreinterpretq_u32_u16(both),
                                             vdupq_n_u32(flip)));
                for (i = 0; i < min(4, M - m); i++) {
                    uint64_t *word = out + (m + i) * words(N) + n / BLOCK;

                    *word = n % BLOCK ? *word | (uint64_t)words32[i] << HALF
                                      : words32[i];
                }
            }
        }
    }
}

/* ---- pointwise 2, fc: 256 inputs ---- */

/* K - 2 d of one row at 8 positions, where the second half of x is inverted:
 * its counts are then of equal bits, 8 - d per byte, the difference with the
 * first half's is centred on zero, and the sum of all is 128 - d. */
static inline int16x8_t centred_sums(const uint8x16_t x[TILE][2], uint8x16_t w0,
                                     uint8x16_t w1)
{
    int8x16_t quarter[4];
    size_t i;

    for (i = 0; i < 4; i++) {
        const uint8x16_t even =
            vsubq_u8(vcntq_u8(veorq_u8(x[2 * i][1], w1)),
                     vcntq_u8(veorq_u8(x[2 * i][0], w0)));
        const uint8x16_t odd =
            vsubq_u8(vcntq_u8(veorq_u8(x[2 * i + 1][1], w1)),
                     vcntq_u8(veorq_u8(x[2 * i + 1][0], w0)));

        quarter[i] = vreinterpretq_s8_u8(vpaddq_u8(even, odd));
    }
    return vpaddlq_s8(vpaddq_s8(vpaddq_s8(quarter[0], quarter[1]),
                                vpaddq_s8(quarter[2], quarter[3])));
}

static inline struct bits half_block(const uint8x16_t x[TILE][2],
                                     const uint8_t *w, const float *scale,
                                     const float *bias, float32x4_t slope,
                                     int gentle, float *stream)
{
    struct bits bits = {vdupq_n_u32(0), vdupq_n_u32(0)};
    size_t i, k;

    for (i = 0; i < HALF; i += 2, w += 64, stream += 2 * TILE) {
        const uint8x16x4_t rows = vld1q_u8_x4(w);
        const float32x4x2_t scales = vld2q_dup_f32(scale + i);
        const float32x4x2_t biases = vld2q_dup_f32(bias + i);

        for (k = 0; k < 2; k++) {
            const int16x8_t sums = centred_sums(x, rows.val[2 * k],
                                                rows.val[2 * k + 1]);

            add_real(vcvtq_f32_s32(vshll_n_s16(vget_low_s16(sums), 1)),
                     vcvtq_f32_s32(vshll_high_n_s16(sums, 1)), scales.val[k],
                     biases.val[k], slope, gentle, stream + k * TILE, &bits);
        }
    }
    bits.low = vmvnq_u32(bits.low);
    bits.high = vmvnq_u32(bits.high);
    return bits;
}

static void b1_gemm_real__neon_8x2(size_t M, size_t N, const uint64_t *in,
                                   const uint8_t *w, const float *affine,
                                   float slope, float *stream, uint64_t *sign)
{
    const float32x4_t slopes = vdupq_n_f32(slope);
    size_t m, n, i;

    for (m = 0; m < M; m += TILE) {
        uint8x16_t x[TILE][2];

        for (i = 0; i < TILE; i++) {
            const uint64_t *at = in + 4 * min(m + i, M - 1);

            x[i][0] = vreinterpretq_u8_u64(vld1q_u64(at));
            x[i][1] = vmvnq_u8(vreinterpretq_u8_u64(vld1q_u64(at + 2)));
        }
        for (n = 0; n < N; n += BLOCK) {
            struct bits bits[2];

            for (i = 0; i < 2; i++) {
                const size_t at = n + HALF * i;
                const uint8_t *rows = w + 32 * at;
                float *places = stream + m * N + at * TILE;

                bits[i] = is_gentle(slope)
                              ? half_block(x, rows, affine + at,
                                           affine + N + at, slopes, 1, places)
                              : half_block(x, rows, affine + at,
                                           affine + N + at, slopes, 0, places);
            }
            store_words(bits[0], bits[1], min(TILE, M - m), words(N),
                        sign + m * words(N) + n / BLOCK);
        }
    }
}

/* ---- memory: up to 7 taps, none more than 8 positions away ---- */

enum { REACH = 8, MOST_TAPS = 7 };

/* How many of the taps differ, as bits 0, 1 and 2 of a number; each byte holds
 * a position and 8 channels. */
struct counter {
    uint8x16_t ones, twos, fours;
};

/* Two more taps: a full adder, then its carry. */
static inline void count_two(struct counter *c, uint8x16_t a, uint8x16_t b)
{
    const uint8x16_t either = veorq_u8(c->ones, a);
    const uint8x16_t carry = vbslq_u8(either, b, c->ones);

    c->ones = veorq_u8(either, b);
    c->fours = veorq_u8(c->fours, vandq_u8(c->twos, carry));
    c->twos = veorq_u8(c->twos, carry);
}

/* 64 channels of 8 positions, differing from tap j: vector i holds channels
 * 8 i ... and 8 (i + 4) ... of each position, a byte each. LD4 turns words
 * round so; the window's address does the shift in time. */
static inline uint8x16x4_t tap_differences(const uint64_t *window,
                                           const uint8_t *w)
{
    uint8x16x4_t v = vld4q_u8((const uint8_t *)window);
    const uint8x8_t weight = vld1_u8(w);
    const uint16x4_t pairs = vreinterpret_u16_u8(
        vzip1_u8(weight, vext_u8(weight, weight, 4)));

    v.val[0] = veorq_u8(v.val[0],
                        vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 0)));
    v.val[1] = veorq_u8(v.val[1],
                        vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 1)));
    v.val[2] = veorq_u8(v.val[2],
                        vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 2)));
    v.val[3] = veorq_u8(v.val[3],
                        vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 3)));
    return v;
}

/* What the rows of a block need. */
struct memory_block {
    uint8x16_t high, middle; /* bytes 3 and 2 of taps - 2 d as floats, by d */
    const float *scale, *bias;
    float32x4_t slope;
    int gentle;
    float *stream;
};

/* One channel of 8 positions, its sums as the upper halves of floats. */
static inline void memory_row(const struct memory_block *b, size_t n,
                              uint8x16_t upper, struct bits *bits)
{
    const uint16x8_t s = vreinterpretq_u16_u8(upper);

    add_real(vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(s), 16)),
             vreinterpretq_f32_u32(vshll_high_n_u16(s, 16)),
             vld1q_dup_f32(b->scale + n), vld1q_dup_f32(b->bias + n), b->slope,
             b->gentle, b->stream + n * TILE, bits);
}

/* Channels n and n + 32 from their numbers d, side by side. */
static inline void memory_rows(const struct memory_block *b, size_t n,
                               uint8x16_t d, struct bits bits[2])
{
    const uint8x16_t high = vqtbl1q_u8(b->high, d);
    const uint8x16_t middle = vqtbl1q_u8(b->middle, d);

    memory_row(b, n, vtrn1q_u8(middle, high), &bits[0]);
    memory_row(b, n + HALF, vtrn2q_u8(middle, high), &bits[1]);
}

/* Channels k and k + 4 of every byte: their numbers d, a nibble each, whose
 * highest bit is left as it comes. */
static inline uint8x16_t nibbles(const struct counter *c, int k)
{
    const int8x16_t right = vdupq_n_s8((int8_t)-k);
    const uint8x16_t ones = vshlq_u8(c->ones, right);
    const uint8x16_t twos = vshlq_u8(c->twos, vaddq_s8(right, vdupq_n_s8(1)));
    const uint8x16_t fours = vshlq_u8(c->fours, vaddq_s8(right, vdupq_n_s8(2)));

    return vbslq_u8(vdupq_n_u8(0x33),
                    vbslq_u8(vdupq_n_u8(0x11), ones, twos), fours);
}

static inline void memory_block(const struct memory_block *b,
                                const struct counter counters[4],
                                struct bits bits[2])
{
    size_t i, half;

    for (i = 0; i < 4; i++) {
        uint8x16_t d[4] = {nibbles(&counters[i], 0), nibbles(&counters[i], 1),
                           nibbles(&counters[i], 2), nibbles(&counters[i], 3)};

        for (half = 0; half < 2; half++) {
            const size_t n = 8 * i + 4 * half;
            const uint8x16_t low = vdupq_n_u8(15);

            memory_rows(b, n, vandq_u8(d[0], low), bits);
            memory_rows(b, n + 1, vandq_u8(d[1], low), bits);
            memory_rows(b, n + 2, vandq_u8(d[2], low), bits);
            memory_rows(b, n + 3, vandq_u8(d[3], low), bits);
            d[0] = vshrq_n_u8(d[0], 4);
            d[1] = vshrq_n_u8(d[1], 4);
            d[2] = vshrq_n_u8(d[2], 4);
            d[3] = vshrq_n_u8(d[3], 4);
        }
    }
}

static void b1_memory_real__neon_8x64(size_t M, size_t N, size_t taps,
                                      size_t left, size_t dilation,
                                      const uint64_t *x, const uint8_t *w,
                                      const float *affine, float slope,
                                      float *stream, uint64_t *sign)
{
    const size_t row = words(N), before = left * dilation;
    const size_t after = (taps - 1 - left) * dilation;
    uint8_t high[16], middle[16];
    size_t m, n, i, j;

    for (i = 0; i < 16; i++) {
        const float s = (float)((int)taps - 2 * (int)(i % 8));
        uint32_t bytes;

        memcpy(&bytes, &s, 4);
        high[i] = (uint8_t)(bytes >> 24);
        middle[i] = (uint8_t)(bytes >> 16);
    }
    for (m = 0; m < M; m += TILE)
        for (n = 0; n < N; n += BLOCK) {
            uint64_t window[REACH + TILE + REACH]; /* positions from m - 8 */
            struct counter counters[4];
            struct bits bits[2];
            uint8x16x4_t a, b;
            struct memory_block block = {
                vld1q_u8(high), vld1q_u8(middle), affine + n, affine + N + n,
                vdupq_n_f32(slope), 0, stream + m * N + n * TILE};

            for (i = REACH - before; i < REACH + TILE + after; i++) {
                const size_t t = m + i - REACH; /* may wrap, far beyond M */

                window[i] = t < M ? x[t * row + n / BLOCK] : ~(uint64_t)0;
            }
            a = tap_differences(window + REACH - before, w + n / 8);
            for (i = 0; i < 4; i++) {
                counters[i].ones = a.val[i];
                counters[i].twos = counters[i].fours = vdupq_n_u8(0);
            }
            for (j = 1; j < taps; j += 2) {
                const uint64_t *at = window + REACH - before + j * dilation;
                const uint8_t *weight = w + 8 * row * j + n / 8;

                a = tap_differences(at, weight);
                if (j + 1 < taps)
                    b = tap_differences(at + dilation, weight + 8 * row);
                else
                    b.val[0] = b.val[1] = b.val[2] = b.val[3] = vdupq_n_u8(0);
                for (i = 0; i < 4; i++)
                    count_two(&counters[i], a.val[i], b.val[i]);
            }

            for (i = 0; i < 2; i++)
                bits[i].low = bits[i].high = vdupq_n_u32(0);
            if (is_gentle(slope)) {
                block.gentle = 1;
                memory_block(&block, counters, bits);
            } else {
                memory_block(&block, counters, bits);
            }
            for (i = 0; i < 2; i++)
                bits[i] = finish_bits(bits[i], HALF, ~0u);
            store_words(bits[0], bits[1], min(TILE, M - m), row,
                        sign + m * row + n / BLOCK);
        }
}

/* ---- first convolution ---- */

/* Sums of four positions and 16 channels. */
struct conv_sums {
    int32x4_t s[4][4]; /* [position][channels / 4] */
};

/* One column of the kernel, lane j of the inputs; the lane must be a constant,
 * so this is a macro. */
#define ADD_COLUMN(j)                                                          \
    do {                                                                       \
        const int16x8_t w0 = vld1q_s16(w + (j) * padded);                      \
        const int16x8_t w1 = vld1q_s16(w + (j) * padded + 8);                  \
                                                                               \
        for (m = 0; m < 4; m++) {                                              \
            int32x4_t *s = sums->s[m];                                         \
                                                                               \
            s[0] = vmlal_laneq_s16(s[0], vget_low_s16(w0), in[m], j);          \
            s[1] = vmlal_high_laneq_s16(s[1], w0, in[m], j);                   \
            s[2] = vmlal_laneq_s16(s[2], vget_low_s16(w1), in[m], j);          \
            s[3] = vmlal_high_laneq_s16(s[3], w1, in[m], j);                   \
        }                                                                      \
    } while (0)

/* Five columns, or one. */
static inline void add_columns(struct conv_sums *sums, int five,
                               const int16_t *const x[4], size_t at,
                               const int16_t *w, size_t padded)
{
    int16x8_t in[4];
    size_t m;

    for (m = 0; m < 4; m++)
        in[m] = vld1q_s16(x[m] + at);
    ADD_COLUMN(0);
    if (five) {
        ADD_COLUMN(1);
        ADD_COLUMN(2);
        ADD_COLUMN(3);
        ADD_COLUMN(4);
    }
}

/* Bits of 16 channels at four positions: 1 where a sum is below zero. */
static inline uint64_t below_zero(const struct conv_sums *sums)
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                       1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t place = vld1q_u8(places);
    uint8x16_t bits[4];
    size_t m;

    for (m = 0; m < 4; m++) {
        const int32x4_t *s = sums->s[m];
        const int16x8_t low = vuzp2q_s16(vreinterpretq_s16_s32(s[0]),
                                         vreinterpretq_s16_s32(s[1]));
        const int16x8_t high = vuzp2q_s16(vreinterpretq_s16_s32(s[2]),
                                          vreinterpretq_s16_s32(s[3]));
        const int8x16_t top = vuzp2q_s8(vreinterpretq_s8_s16(low),
                                        vreinterpretq_s8_s16(high));

        bits[m] = vandq_u8(vcltzq_s8(top), place);
    }
    bits[0] = vpaddq_u8(vpaddq_u8(bits[0], bits[1]),
                        vpaddq_u8(bits[2], bits[3]));
    bits[0] = vpaddq_u8(bits[0], bits[0]);
    return vgetq_lane_u64(vreinterpretq_u64_u8(bits[0]), 0);
}

static void i16_conv_bits__neon_4x16(size_t M, size_t N, size_t rows,
                                     size_t columns, size_t step, size_t pitch,
                                     const int16_t *x, const int16_t *w,
                                     const int32_t *threshold,
                                     const uint8_t *direction, uint64_t *out)
{
    enum { CHANNELS = CONV1_CHANNELS };
    const size_t padded = (N + CHANNELS - 1) / CHANNELS * CHANNELS;
    size_t m, n, i, j, k;

    for (n = 0; n < padded; n += CHANNELS) {
        const uint16_t flip = (uint16_t)~load_u16(direction + n / 8);
        int32x4_t start[4]; /* sums begin at minus the threshold */

        for (k = 0; k < 4; k++)
            start[k] = vnegq_s32(vld1q_s32(threshold + n + 4 * k));
        for (m = 0; m < M; m += 4) {
            const int16_t *at[4], *weight = w + n;
            struct conv_sums sums;
            uint64_t bits;

            for (i = 0; i < 4; i++) {
                at[i] = x + min(m + i, M - 1) * step;
                for (k = 0; k < 4; k++)
                    sums.s[i][k] = start[k];
            }
            for (i = 0; i < rows; i++) {
                for (j = 0; j + 5 <= columns; j += 5, weight += 5 * padded)
                    add_columns(&sums, 1, at, i * pitch + j, weight, padded);
                for (; j < columns; j++, weight += padded)
                    add_columns(&sums, 0, at, i * pitch + j, weight, padded);
            }
            bits = below_zero(&sums);
            for (i = 0; i < min(4, M - m); i++, bits >>= 16) {
                const uint64_t word = (uint64_t)(uint16_t)(bits ^ flip)
                                      << n % BLOCK;
                uint64_t *to = out + (m + i) * words(N) + n / BLOCK;

                *to = n % BLOCK ? *to | word : word;
            }
        }
    }
}

/* ---- head ---- */

/* Up to four rows, 16 values of x at a time. */
static void f32_gemv__neon_4x16(size_t N, size_t K, const float *x,
                                const float *w, float *out)
{
    size_t n, k, i, j;

    for (n = 0; n < N; n += 4) {
        const float *row[4];
        float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0),
                              vdupq_n_f32(0)};
        float sums[4];

        for (i = 0; i < 4; i++)
            row[i] = w + min(n + i, N - 1) * K;
        for (k = 0; k + 16 <= K; k += 16) {
            const float32x4x4_t v = vld1q_f32_x4(x + k);

            for (i = 0; i < 4; i++) {
                const float32x4x4_t weight = vld1q_f32_x4(row[i] + k);

                for (j = 0; j < 4; j++)
                    sum[i] = vfmaq_f32(sum[i], v.val[j], weight.val[j]);
            }
        }
        for (i = 0; i < 4; i++)
            sums[i] = vaddvq_f32(sum[i]);
        for (; k < K; k++)
            for (i = 0; i < 4; i++)
                sums[i] += x[k] * row[i][k];
        for (i = 0; i < min(4, N - n); i++)
            out[n + i] = sums[i];
    }
}

/* ---- which kernel for which shape ---- */

static void b1_gemm_bits__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const uint16_t *threshold,
                               const uint8_t *direction, uint64_t *out)
{
    if (words(K) == 2 && N % BLOCK == 0)
        b1_gemm_bits__neon_8x16(M, N, x, w, threshold, direction, out);
    else if (K > 384 && K <= 400 && N % HALF == 0)
        b1_gemm_bits__neon_4x2(M, N, x, w, threshold, direction, out);
    else
        b1_gemm_bits__neon_8x1(M, N, K, x, w, threshold, direction, out);
}

static void b1_gemm_real__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const float *affine,
                               float slope, float *stream, uint64_t *sign)
{
    if (K == 256 && N % BLOCK == 0)
        b1_gemm_real__neon_8x2(M, N, x, w, affine, slope, stream, sign);
    else
        b1_gemm_real__neon_8x1(M, N, K, x, w, affine, slope, stream, sign);
}

static void b1_memory_real__neon(size_t M, size_t N, size_t taps, size_t left,
                                 size_t dilation, const uint64_t *x,
                                 const uint8_t *w, const float *affine,
                                 float slope, float *stream, uint64_t *sign)
{
    const size_t right = taps - 1 - left;

    if (taps <= MOST_TAPS && left * dilation <= REACH &&
        right * dilation <= REACH && N % BLOCK == 0)
        b1_memory_real__neon_8x64(M, N, taps, left, dilation, x, w, affine,
                                  slope, stream, sign);
    else
        b1_memory_real__neon_8x1(M, N, taps, left, dilation, x, w, affine,
                                 slope, stream, sign);
}

const struct bifsmn_kernels bifsmn_kernels_neon = {
    "neon",
    TILE,
    i16_conv_bits__neon_4x16,
    b1_gemm_bits__neon,
    b1_gemm_real__neon,
    b1_memory_real__neon,
    f32_gemv__neon_4x16,
};

#endif
