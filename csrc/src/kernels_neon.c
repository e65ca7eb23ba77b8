/* kernels_neon.c: the kernels for 64-bit ARM, with nothing beyond ARMv8-A, but
 * for one variant of the first convolution with the dot products of ARMv8.4.
 *
 * A vector holds positions side by side, never outputs of one position: the
 * inputs of 8 positions stay in registers while rows of weights stream past,
 * the sums come out as one vector per output, and one SRI per vector shifts
 * the sign or comparison of 8 positions into 8 rows of bits at once.
 *
 * Differing bits are counted within bytes (EOR, CNT), and bytes are added
 * pairwise (ADDP) in a tree that leaves one position per lane. ADD and ADDP
 * run on every vector pipe, widening additions only on some, so bytes are
 * widened only where they would overflow.
 *
 * Four inner loops are assembly, because compilers spill and shuffle there:
 * they cost from 10 to 60 % more as intrinsics, differently with every
 * compiler. Everything around them is C. */

#include "kernels.h"

#ifdef BIFSMN_NEON

#include <arm_neon.h>
#include <string.h>

#include "bytes.h"

enum {
    TILE_NEON = 8,   /* positions */
    BLOCK_NEON = 64, /* outputs: the bits of one word */
    HALF_NEON = 32,
    CHANNELS_NEON = 16 /* outputs of an i8 tile */
};

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
    uint32_t halves[2 * TILE_NEON];
    size_t i;

    vst2q_u32(halves, low);
    vst2q_u32(halves + TILE_NEON, high);
    for (i = 0; i < count; i++, out += row)
        memcpy(out, halves + 2 * i, 8);
}

/* Quarters of words, 16 outputs of 8 positions each, as words. */
static inline void store_quarters(uint16x8x4_t quarters, uint64_t flip,
                                  size_t count, size_t row, uint64_t *out)
{
    uint64_t turned[TILE_NEON];
    size_t i;

    vst4q_u16((uint16_t *)turned, quarters);
    if (count == TILE_NEON) /* as usual, so that this is unrolled */
        for (i = 0; i < TILE_NEON; i++, out += row)
            *out = turned[i] ^ flip;
    else
        for (i = 0; i < count; i++, out += row)
            *out = turned[i] ^ flip;
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
    const int32x4_t shift = vdupq_n_s32((int32_t)count - HALF_NEON);
    const uint32_t mask = count < HALF_NEON ? ((uint32_t)1 << count) - 1 : ~0u;
    const uint32x4_t turn = vdupq_n_u32(flip & mask);

    bits.low = veorq_u32(vshlq_u32(bits.low, shift), turn);
    bits.high = veorq_u32(vshlq_u32(bits.high, shift), turn);
    return bits;
}

/* Whether z >= 0 ? z : z * slope is the maximum of both. It may give a zero of
 * the other sign, which is lost when it is added to the stream. */
static int is_maximum(float slope)
{
    return slope <= 1;
}

static inline float32x4_t prelu(float32x4_t z, float32x4_t slope, int maximum)
{
    const float32x4_t below = vmulq_f32(z, slope);

    return maximum ? vmaxq_f32(z, below) : vbslq_f32(vcgezq_f32(z), z, below);
}

/* Sums of one output onto its 8 places in the stream; their signs: sign bits
 * will do, because the stream is never -0. */
static inline void add_real(float32x4_t low, float32x4_t high,
                            float32x4_t scale, float32x4_t bias,
                            float32x4_t slope, int maximum, float *stream,
                            struct bits *below_zero)
{
    low = vaddq_f32(vmulq_f32(low, scale), bias);
    high = vaddq_f32(vmulq_f32(high, scale), bias);
    low = vaddq_f32(vld1q_f32(stream), prelu(low, slope, maximum));
    high = vaddq_f32(vld1q_f32(stream + 4), prelu(high, slope, maximum));
    vst1q_f32(stream, low);
    vst1q_f32(stream + 4, high);
    shift_in(below_zero, vreinterpretq_u32_f32(low),
             vreinterpretq_u32_f32(high));
}

/* ---- any shape: counts first, then what follows from them ---- */

/* d[n][i]: differing bits of row n of w and of position i. Positions from
 * `count` on repeat the last one, so that nothing is read beyond x. */
static void differences__neon(size_t outputs, size_t row, size_t count,
                              const uint64_t *x, const uint8_t *w,
                              uint32_t d[BLOCK_NEON][TILE_NEON])
{
    enum { WORDS = 31 };               /* 31 counts of up to 8 fit a byte */
    uint64_t turned[WORDS][TILE_NEON]; /* x, words outermost */
    size_t from, n, k, i;

    memset(d, 0, BLOCK_NEON * sizeof *d);
    for (from = 0; from < row; from += WORDS) {
        const size_t length = min_size(WORDS, row - from);

        for (i = 0; i < TILE_NEON; i++)
            for (k = 0; k < length; k++)
                turned[k][i] = x[min_size(i, count - 1) * row + from + k];
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

                    sum[i] = vaddq_u8(sum[i],
                                      vcntq_u8(vreinterpretq_u8_u64(differ)));
                }
            }
            for (i = 0; i < 4; i++)
                wide[i] = vpaddlq_u8(sum[i]);
            wide[0] = vpaddq_u16(vpaddq_u16(wide[0], wide[1]),
                                 vpaddq_u16(wide[2], wide[3]));
            vst1q_u32(d[n], vaddw_u16(vld1q_u32(d[n]), vget_low_u16(wide[0])));
            vst1q_u32(d[n] + 4, vaddw_high_u16(vld1q_u32(d[n] + 4), wide[0]));
        }
    }
}

static void b1_gemm_bits__neon_8x1(size_t M, size_t N, size_t K,
                                   const uint64_t *x, const uint8_t *w,
                                   const uint16_t *threshold,
                                   const uint8_t *direction, uint64_t *out)
{
    const size_t row = words(K);
    uint32_t d[BLOCK_NEON][TILE_NEON];
    size_t m, n, i, part;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            const uint64_t flip = load_u64(direction + n / 8);
            struct bits bits[2];

            differences__neon(min_size(BLOCK_NEON, N - n), row,
                              min_size(TILE_NEON, M - m), x + m * row,
                              w + 8 * n * row, d);
            for (part = 0; part < 2; part++) {
                const size_t at = n + part * HALF_NEON;
                const size_t outputs = at < N ? min_size(HALF_NEON, N - at) : 0;

                bits[part].low = bits[part].high = vdupq_n_u32(0);
                for (i = 0; i < outputs; i++) {
                    const uint32x4_t t = vdupq_n_u32(threshold[at + i]);
                    const uint32_t *sums = d[part * HALF_NEON + i];

                    shift_in(&bits[part], vcltq_u32(vld1q_u32(sums), t),
                             vcltq_u32(vld1q_u32(sums + 4), t));
                }
                bits[part] = finish_bits(bits[part], outputs,
                                         (uint32_t)(flip >> part * HALF_NEON));
            }
            store_words(bits[0], bits[1], min_size(TILE_NEON, M - m), words(N),
                        out + m * words(N) + n / BLOCK_NEON);
        }
}

/* Real outputs of one block from its counts, K - 2 d each. */
static void real_outputs__neon(size_t N, size_t n, size_t K, size_t count,
                               uint32_t d[BLOCK_NEON][TILE_NEON],
                               const float *affine, float slope, float *stream,
                               uint64_t *sign)
{
    const int32x4_t inputs = vdupq_n_s32((int32_t)K);
    struct bits bits[2];
    size_t part, i;

    for (part = 0; part < 2; part++) {
        const size_t at = n + part * HALF_NEON;
        const size_t outputs = at < N ? min_size(HALF_NEON, N - at) : 0;

        bits[part].low = bits[part].high = vdupq_n_u32(0);
        for (i = 0; i < outputs; i++) {
            const uint32_t *sums = d[part * HALF_NEON + i];
            const int32x4_t low = vreinterpretq_s32_u32(vld1q_u32(sums));
            const int32x4_t high = vreinterpretq_s32_u32(vld1q_u32(sums + 4));

            add_real(vcvtq_f32_s32(vsubq_s32(inputs, vaddq_s32(low, low))),
                     vcvtq_f32_s32(vsubq_s32(inputs, vaddq_s32(high, high))),
                     vdupq_n_f32(affine[at + i]),
                     vdupq_n_f32(affine[N + at + i]), vdupq_n_f32(slope), 0,
                     stream + (at + i) * TILE_NEON, &bits[part]);
        }
        bits[part] = finish_bits(bits[part], outputs, ~0u);
    }
    store_words(bits[0], bits[1], count, words(N), sign + n / BLOCK_NEON);
}

static void b1_gemm_real__neon_8x1(size_t M, size_t N, size_t K,
                                   const uint64_t *x, const uint8_t *w,
                                   const float *affine, float slope,
                                   float *stream, uint64_t *sign)
{
    const size_t row = words(K);
    uint32_t d[BLOCK_NEON][TILE_NEON];
    size_t m, n;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            const size_t count = min_size(TILE_NEON, M - m);

            differences__neon(min_size(BLOCK_NEON, N - n), row, count,
                              x + m * row, w + 8 * n * row, d);
            real_outputs__neon(N, n, K, count, d, affine, slope, stream + m * N,
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
    uint32_t d[BLOCK_NEON][TILE_NEON];
    size_t m, n, i, j, f;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            const size_t count = min_size(TILE_NEON, M - m);

            memset(d, 0, sizeof d);
            for (j = 0; j < taps; j++) {
                const uint64_t weight =
                    load_u64(w + 8 * (j * row + n / BLOCK_NEON));

                for (f = 0; f < count; f++) {
                    /* Before the first position this wraps, far beyond M. */
                    const size_t t = m + f + j * dilation - left * dilation;
                    const uint64_t differ =
                        weight ^
                        (t < M ? x[t * row + n / BLOCK_NEON] : ~(uint64_t)0);

                    for (i = 0; i < BLOCK_NEON; i++)
                        d[i][f] += (uint32_t)(differ >> i) & 1;
                }
            }
            real_outputs__neon(N, n, taps, count, d, affine, slope,
                               stream + m * N, sign + m * row);
        }
}

/* ---- pointwise 1: 65 to 128 inputs ---- */

/* 64 rows of two words each at 8 positions: bits of 16 rows each. Row i goes
 * with row i + 8, so that SRI leaves one byte of bits of each.
 *
 * rows: differing bits of rows a and b at 8 positions: the halves of a tree
 * whose last addition gives a 0, b 0, a 1, b 1 ... of at most 128 each, so that
 * bytes are enough all the way. That addition, the comparison with the limits
 * and the bits, put on top of those of the rows before, follow among the next
 * rows: processors that run in order would wait for them.
 * (The assembler's macros, because C's would make strings too long for C99.) */
static void p1_block(const uint8x16_t x[TILE_NEON], const uint8_t *w,
                     const uint16_t *threshold, uint16_t bits[4][TILE_NEON])
{
    uint16_t limits[TILE_NEON]; /* of rows i and i + 8, a byte each */
    uint16_t(*end)[TILE_NEON] = bits + 4;

    __asm__ volatile(
        ".macro rows a, b, limit, before, bits\n"
        "eor v8.16b, %[x0].16b, \\a\n"
        "eor v9.16b, %[x0].16b, \\b\n"
        "eor v10.16b, %[x1].16b, \\a\n"
        "eor v11.16b, %[x1].16b, \\b\n"
        "eor v12.16b, %[x2].16b, \\a\n"
        "eor v13.16b, %[x2].16b, \\b\n"
        "eor v14.16b, %[x3].16b, \\a\n"
        "eor v15.16b, %[x3].16b, \\b\n"
        ".ifnb \\limit\n"
        "addp v30.16b, v30.16b, v31.16b\n"
        ".endif\n"
        "cnt v8.16b, v8.16b\n"
        "cnt v9.16b, v9.16b\n"
        "cnt v10.16b, v10.16b\n"
        "cnt v11.16b, v11.16b\n"
        "cnt v12.16b, v12.16b\n"
        "cnt v13.16b, v13.16b\n"
        "cnt v14.16b, v14.16b\n"
        "cnt v15.16b, v15.16b\n"
        ".ifnb \\limit\n"
        "cmhi \\bits, \\limit, v30.16b\n"
        ".endif\n"
        "addp v8.16b, v8.16b, v9.16b\n"
        "addp v10.16b, v10.16b, v11.16b\n"
        "addp v12.16b, v12.16b, v13.16b\n"
        "addp v14.16b, v14.16b, v15.16b\n"
        ".ifnb \\limit\n"
        "sri \\bits, \\before, #1\n"
        ".endif\n"
        "eor v9.16b, %[x4].16b, \\a\n"
        "eor v11.16b, %[x4].16b, \\b\n"
        "eor v13.16b, %[x5].16b, \\a\n"
        "eor v15.16b, %[x5].16b, \\b\n"
        "addp v8.16b, v8.16b, v10.16b\n"
        "addp v12.16b, v12.16b, v14.16b\n"
        "eor v10.16b, %[x6].16b, \\a\n"
        "eor v14.16b, %[x6].16b, \\b\n"
        "cnt v9.16b, v9.16b\n"
        "cnt v11.16b, v11.16b\n"
        "cnt v13.16b, v13.16b\n"
        "cnt v15.16b, v15.16b\n"
        "addp v30.16b, v8.16b, v12.16b\n"
        "eor v8.16b, %[x7].16b, \\a\n"
        "eor v12.16b, %[x7].16b, \\b\n"
        "cnt v10.16b, v10.16b\n"
        "cnt v14.16b, v14.16b\n"
        "addp v9.16b, v9.16b, v11.16b\n"
        "addp v13.16b, v13.16b, v15.16b\n"
        "cnt v8.16b, v8.16b\n"
        "cnt v12.16b, v12.16b\n"
        "addp v10.16b, v10.16b, v14.16b\n"
        "addp v9.16b, v9.16b, v13.16b\n"
        "addp v8.16b, v8.16b, v12.16b\n"
        "addp v10.16b, v10.16b, v8.16b\n"
        "addp v31.16b, v9.16b, v10.16b\n"
        ".endm\n"
        ".macro eight_rows step\n" /* i to i + 3, i + 8 to i + 11 */
        "ld1 {v16.16b, v17.16b, v18.16b, v19.16b}, [%[w]], %[to_pairs]\n"
        "ld1 {v20.16b, v21.16b, v22.16b, v23.16b}, [%[w]], \\step\n"
        "ld4r {v24.8h, v25.8h, v26.8h, v27.8h}, [%[limit]], #8\n"
        "rows v16.16b, v20.16b\n"
        "rows v17.16b, v21.16b, v24.16b, v28.16b, v29.16b\n"
        "rows v18.16b, v22.16b, v25.16b, v29.16b, v28.16b\n"
        "rows v19.16b, v23.16b, v26.16b, v28.16b, v29.16b\n"
        "addp v30.16b, v30.16b, v31.16b\n"
        "cmhi v28.16b, v27.16b, v30.16b\n"
        "sri v28.16b, v29.16b, #1\n"
        ".endm\n"
        "1:\n"
        "ldp q24, q25, [%[threshold]], #32\n"
        "sli v24.8h, v25.8h, #8\n"
        "str q24, [%[limit]]\n"
        "eight_rows %[back]\n"
        "eight_rows #64\n"
        "str q28, [%[bits]], #16\n"
        "sub %[limit], %[limit], #16\n"
        "cmp %[bits], %[end]\n"
        "b.ne 1b\n"
        ".purgem rows\n"
        ".purgem eight_rows\n"
        : [w] "+r"(w), [threshold] "+r"(threshold), [bits] "+r"(bits)
        : [limit] "r"(limits), [end] "r"(end), [to_pairs] "r"((size_t)128),
          [back] "r"(-(size_t)64), [x0] "w"(x[0]), [x1] "w"(x[1]),
          [x2] "w"(x[2]), [x3] "w"(x[3]), [x4] "w"(x[4]), [x5] "w"(x[5]),
          [x6] "w"(x[6]), [x7] "w"(x[7])
        : "memory", "cc", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
          "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25",
          "v26", "v27", "v28", "v29", "v30", "v31");
}

/* Not inlined, so that benchmarks/arm sees it. */
__attribute__((noinline)) static void
b1_gemm_bits__neon_8x16(size_t M, size_t N, const uint64_t *in,
                        const uint8_t *w, const uint16_t *threshold,
                        const uint8_t *direction, uint64_t *out)
{
    const size_t row = words(N);
    size_t m, n, i;

    for (m = 0; m < M; m += TILE_NEON) {
        const size_t count = min_size(TILE_NEON, M - m);
        uint8x16_t x[TILE_NEON];

        for (i = 0; i < TILE_NEON; i++)
            x[i] = vreinterpretq_u8_u64(
                vld1q_u64(in + 2 * (m + min_size(i, count - 1))));
        for (n = 0; n < N; n += BLOCK_NEON) {
            uint16_t quarters[4][TILE_NEON];

            p1_block(x, w + 16 * n, threshold + n, quarters);
            store_quarters(vld1q_u16_x4(quarters[0]),
                           load_u64(direction + n / 8), count, row,
                           out + m * row + n / BLOCK_NEON);
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
static inline uint8x16_t four_positions(uint8x16_t x[4][3], const uint8_t *w)
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
    struct pair pairs[HALF_NEON / 2];
    size_t m, n, i, k;

    for (n = 0; n < N; n += HALF_NEON, w += HALF_NEON * ROW) {
        const uint32_t flip = load_u32(direction + n / 8);

        for (i = 0; i < HALF_NEON / 2; i++) {
            const uint8_t *a = w + ROW * i + 48, *b = a + ROW * (HALF_NEON / 2);

            vst1q_u16(
                pairs[i].limit,
                vcombine_u16(vdup_n_u16(threshold[n + i]),
                             vdup_n_u16(threshold[n + i + HALF_NEON / 2])));
            vst1q_u16(pairs[i].tail, vcombine_u16(vdup_n_u16(load_u16(a)),
                                                  vdup_n_u16(load_u16(b))));
        }
        for (m = 0; m < M; m += 4) {
            uint8x16_t x[4][3];
            uint16_t tails[4];
            uint16x8_t tail, bits = vdupq_n_u16(0);

            for (i = 0; i < 4; i++) {
                const uint64_t *at = in + 7 * min_size(m + i, M - 1);

                for (k = 0; k < 3; k++)
                    x[i][k] = vreinterpretq_u8_u64(vld1q_u64(at + 2 * k));
                tails[i] = (uint16_t)at[6];
            }
            tail = vcombine_u16(vld1_u16(tails), vld1_u16(tails));
            for (i = 0; i < HALF_NEON / 2; i++) {
                const uint8_t *a = w + ROW * i, *b = a + ROW * (HALF_NEON / 2);
                const uint16x8_t rest =
                    veorq_u16(tail, vld1q_u16(pairs[i].tail));
                const uint8x16_t sums = vaddq_u8(
                    vpaddq_u8(four_positions(x, a), four_positions(x, b)),
                    vcntq_u8(vreinterpretq_u8_u16(rest)));

                bits = vsriq_n_u16(
                    vcltq_u16(vpaddlq_u8(sums), vld1q_u16(pairs[i].limit)),
                    bits, 1);
            }
            {
                /* Rows 0 to 15 are in the low half, 16 to 31 in the high. */
                const uint16x8_t both =
                    vzip1q_u16(bits, vextq_u16(bits, bits, 4));
                uint32_t words32[4];

                vst1q_u32(words32, veorq_u32(vreinterpretq_u32_u16(both),
                                             vdupq_n_u32(flip)));
                for (i = 0; i < min_size(4, M - m); i++) {
                    uint64_t *word = out + (m + i) * words(N) + n / BLOCK_NEON;

                    *word = n % BLOCK_NEON
                                ? *word | (uint64_t)words32[i] << HALF_NEON
                                : words32[i];
                }
            }
        }
    }
}

/* ---- pointwise 2, fc: 256 inputs ---- */

/* 64 rows of four words each at 8 positions onto the stream; after every four
 * rows, the sign bits of the last sixteen.
 *
 * positions: one row, in a and b, at positions p and q, bytes of d. The second
 * half of x is inverted: its counts are of equal bits, 8 - d a byte, and less
 * those of the first half they are centred on zero, with no constant to add.
 * row: 128 - d at 8 positions, in d.
 * real: from that to the new values in low and high, where the old ones are;
 * their signs go into `bits`, on top of the bits of the rows before. */
static void p2_block(uint8x16_t x[TILE_NEON][2], const uint8_t *w,
                     const float *scale, const float *bias, float slope,
                     float *stream, uint16_t signs[16][TILE_NEON])
{
    uint16_t(*end)[TILE_NEON] = signs + 16;

    __asm__ volatile(
        ".macro positions d, e, f, g, p0, p1, q0, q1, a, b\n"
        "eor \\d, \\p0\\().16b, \\a\n"
        "eor \\e, \\p1\\().16b, \\b\n"
        "eor \\f, \\q0\\().16b, \\a\n"
        "eor \\g, \\q1\\().16b, \\b\n"
        "cnt \\d, \\d\n"
        "cnt \\e, \\e\n"
        "cnt \\f, \\f\n"
        "cnt \\g, \\g\n"
        "sub \\d, \\e, \\d\n"
        "sub \\f, \\g, \\f\n"
        "addp \\d, \\d, \\f\n"
        ".endm\n"
        ".macro row d, a, b\n"
        "positions v\\d\\().16b, v25.16b, v26.16b, v27.16b, "
        "%[x00], %[x01], %[x10], %[x11], \\a, \\b\n"
        "positions v25.16b, v26.16b, v27.16b, v28.16b, "
        "%[x20], %[x21], %[x30], %[x31], \\a, \\b\n"
        "addp v\\d\\().16b, v\\d\\().16b, v25.16b\n"
        "positions v25.16b, v26.16b, v27.16b, v28.16b, "
        "%[x40], %[x41], %[x50], %[x51], \\a, \\b\n"
        "positions v26.16b, v27.16b, v28.16b, v29.16b, "
        "%[x60], %[x61], %[x70], %[x71], \\a, \\b\n"
        "addp v25.16b, v25.16b, v26.16b\n"
        "addp v\\d\\().16b, v\\d\\().16b, v25.16b\n"
        "saddlp v\\d\\().8h, v\\d\\().16b\n"
        ".endm\n"
        ".macro real sum, scale, bias, low, high, before, bits\n"
        "sshll v25.4s, v\\sum\\().4h, #1\n"
        "sshll2 v26.4s, v\\sum\\().8h, #1\n"
        "scvtf v25.4s, v25.4s\n"
        "scvtf v26.4s, v26.4s\n"
        "fmul v25.4s, v25.4s, \\scale\n"
        "fmul v26.4s, v26.4s, \\scale\n"
        "fadd v25.4s, v25.4s, \\bias\n"
        "fadd v26.4s, v26.4s, \\bias\n"
        "fmul v27.4s, v25.4s, v22.4s\n"
        "fmul v31.4s, v26.4s, v22.4s\n"
        "fmax v25.4s, v25.4s, v27.4s\n"
        "fmax v26.4s, v26.4s, v31.4s\n"
        "fadd v\\low\\().4s, v\\low\\().4s, v25.4s\n"
        "fadd v\\high\\().4s, v\\high\\().4s, v26.4s\n"
        "uzp2 \\bits, v\\low\\().8h, v\\high\\().8h\n"
        "sri \\bits, \\before, #1\n"
        ".endm\n"
        ".macro two_rows scale0, scale1\n"
        "ld1 {v16.16b, v17.16b, v18.16b, v19.16b}, [%[w]], #64\n"
        "row 23, v16.16b, v17.16b\n"
        "row 24, v18.16b, v19.16b\n"
        "ld1 {v16.4s, v17.4s, v18.4s, v19.4s}, [%[stream]]\n"
        "ld2r {v28.4s, v29.4s}, [%[bias]], #8\n"
        "real 23, \\scale0, v28.4s, 16, 17, v20.8h, v21.8h\n"
        "real 24, \\scale1, v29.4s, 18, 19, v21.8h, v20.8h\n"
        "st1 {v16.4s, v17.4s, v18.4s, v19.4s}, [%[stream]], #64\n"
        ".endm\n"
        "ld1r {v22.4s}, [%[slope]]\n"
        "1:\n"
        "ldr q30, [%[scale]], #16\n"
        "two_rows v30.s[0], v30.s[1]\n"
        "two_rows v30.s[2], v30.s[3]\n"
        "str q20, [%[signs]], #16\n"
        "cmp %[signs], %[end]\n"
        "b.ne 1b\n"
        ".purgem positions\n"
        ".purgem row\n"
        ".purgem real\n"
        ".purgem two_rows\n"
        : [w] "+r"(w), [scale] "+r"(scale), [bias] "+r"(bias),
          [stream] "+r"(stream), [signs] "+r"(signs)
        : [slope] "r"(&slope), [end] "r"(end), [x00] "w"(x[0][0]),
          [x01] "w"(x[0][1]), [x10] "w"(x[1][0]), [x11] "w"(x[1][1]),
          [x20] "w"(x[2][0]), [x21] "w"(x[2][1]), [x30] "w"(x[3][0]),
          [x31] "w"(x[3][1]), [x40] "w"(x[4][0]), [x41] "w"(x[4][1]),
          [x50] "w"(x[5][0]), [x51] "w"(x[5][1]), [x60] "w"(x[6][0]),
          [x61] "w"(x[6][1]), [x70] "w"(x[7][0]), [x71] "w"(x[7][1])
        : "memory", "cc", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
          "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

static void b1_gemm_real__neon_8x4(size_t M, size_t N, const uint64_t *in,
                                   const uint8_t *w, const float *affine,
                                   float slope, float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    size_t m, n, i;

    for (m = 0; m < M; m += TILE_NEON, stream += TILE_NEON * N) {
        const size_t count = min_size(TILE_NEON, M - m);
        uint8x16_t x[TILE_NEON][2];

        for (i = 0; i < TILE_NEON; i++) {
            const uint64_t *at = in + 4 * (m + min_size(i, count - 1));

            x[i][0] = vreinterpretq_u8_u64(vld1q_u64(at));
            x[i][1] = vmvnq_u8(vreinterpretq_u8_u64(vld1q_u64(at + 2)));
        }
        for (n = 0; n < N; n += BLOCK_NEON) {
            uint16_t signs[16][TILE_NEON];
            uint16x8x4_t quarters;

            p2_block(x, w + 32 * n, affine + n, affine + N + n, slope,
                     stream + n * TILE_NEON, signs);
            for (i = 0; i < 4; i++)
                quarters.val[i] = vld1q_u16(signs[4 * i + 3]);
            store_quarters(quarters, ~(uint64_t)0, count, row,
                           sign + m * row + n / BLOCK_NEON);
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
    const uint16x4_t pairs =
        vreinterpret_u16_u8(vzip1_u8(weight, vext_u8(weight, weight, 4)));

    v.val[0] =
        veorq_u8(v.val[0], vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 0)));
    v.val[1] =
        veorq_u8(v.val[1], vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 1)));
    v.val[2] =
        veorq_u8(v.val[2], vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 2)));
    v.val[3] =
        veorq_u8(v.val[3], vreinterpretq_u8_u16(vdupq_lane_u16(pairs, 3)));
    return v;
}

/* What the rows of a block need. */
struct memory_block {
    uint8x16_t high, middle; /* bytes 3 and 2 of taps - 2 d as floats, by d */
    const float *scale, *bias;
    float32x4_t slope;
    float *stream;
};

/* One channel of 8 positions, its sums as the upper halves of floats. */
static inline void memory_row(const struct memory_block *b, size_t n,
                              uint8x16_t upper, float32x4_t scale,
                              float32x4_t bias, struct bits *bits)
{
    const uint16x8_t s = vreinterpretq_u16_u8(upper);

    add_real(vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(s), 16)),
             vreinterpretq_f32_u32(vshll_high_n_u16(s, 16)), scale, bias,
             b->slope, 1, b->stream + n * TILE_NEON, bits);
}

/* Channels n + i and n + i + 32 from their numbers d, side by side; a lane
 * must be a literal, so this is a macro. */
#define MEMORY_ROWS(i, d)                                                      \
    do {                                                                       \
        const uint8x16_t high = vqtbl1q_u8(b->high, d);                        \
        const uint8x16_t middle = vqtbl1q_u8(b->middle, d);                    \
                                                                               \
        memory_row(b, n + (i), vtrn1q_u8(middle, high),                        \
                   vdupq_laneq_f32(scale[0], i), vdupq_laneq_f32(bias[0], i),  \
                   &bits[0]);                                                  \
        memory_row(b, n + (i) + HALF_NEON, vtrn2q_u8(middle, high),            \
                   vdupq_laneq_f32(scale[1], i), vdupq_laneq_f32(bias[1], i),  \
                   &bits[1]);                                                  \
    } while (0)

/* Channels k and k + 4 of every byte: their numbers d, a nibble each, whose
 * highest bit is left as it comes. */
static inline uint8x16_t nibbles(const struct counter *c, int k)
{
    const int8x16_t right = vdupq_n_s8((int8_t)-k);
    const uint8x16_t ones = vshlq_u8(c->ones, right);
    const uint8x16_t twos = vshlq_u8(c->twos, vaddq_s8(right, vdupq_n_s8(1)));
    const uint8x16_t fours = vshlq_u8(c->fours, vaddq_s8(right, vdupq_n_s8(2)));

    return vbslq_u8(vdupq_n_u8(0x33), vbslq_u8(vdupq_n_u8(0x11), ones, twos),
                    fours);
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
            const float32x4_t scale[2] = {vld1q_f32(b->scale + n),
                                          vld1q_f32(b->scale + n + HALF_NEON)};
            const float32x4_t bias[2] = {vld1q_f32(b->bias + n),
                                         vld1q_f32(b->bias + n + HALF_NEON)};

            MEMORY_ROWS(0, vandq_u8(d[0], low));
            MEMORY_ROWS(1, vandq_u8(d[1], low));
            MEMORY_ROWS(2, vandq_u8(d[2], low));
            MEMORY_ROWS(3, vandq_u8(d[3], low));
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
    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            uint64_t
                window[REACH + TILE_NEON + REACH]; /* positions from m - 8 */
            struct counter counters[4];
            struct bits bits[2];
            uint8x16x4_t a, b;
            const struct memory_block block = {
                vld1q_u8(high),     vld1q_u8(middle),
                affine + n,         affine + N + n,
                vdupq_n_f32(slope), stream + m * N + n * TILE_NEON};

            for (i = REACH - before; i < REACH + TILE_NEON + after; i++) {
                const size_t t = m + i - REACH; /* may wrap, far beyond M */

                window[i] = t < M ? x[t * row + n / BLOCK_NEON] : ~(uint64_t)0;
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
            memory_block(&block, counters, bits);
            for (i = 0; i < 2; i++)
                bits[i] = finish_bits(bits[i], HALF_NEON, ~0u);
            store_words(bits[0], bits[1], min_size(TILE_NEON, M - m), row,
                        sign + m * row + n / BLOCK_NEON);
        }
}

/* ---- first convolution ---- */

/* The highest bytes of the sums of 16 channels at four positions. They start
 * at minus the threshold, so that their signs tell.
 * x [rows][pitch], w [rows][5][16] */
static inline void five_columns(size_t rows, size_t step, size_t pitch,
                                const uint8_t *x, const int16_t *w,
                                const int32x4_t start[4], int8x16_t top[4])
{
    const uint8_t *x1 = x + step, *x2 = x1 + step, *x3 = x2 + step;
    register int8x16_t top0 __asm__("v16");
    register int8x16_t top1 __asm__("v20");
    register int8x16_t top2 __asm__("v24");
    register int8x16_t top3 __asm__("v28");

    __asm__ volatile(
        "mov v16.16b, %[start0].16b\n"
        "mov v17.16b, %[start1].16b\n"
        "mov v18.16b, %[start2].16b\n"
        "mov v19.16b, %[start3].16b\n"
        "mov v20.16b, %[start0].16b\n"
        "mov v21.16b, %[start1].16b\n"
        "mov v22.16b, %[start2].16b\n"
        "mov v23.16b, %[start3].16b\n"
        "mov v24.16b, %[start0].16b\n"
        "mov v25.16b, %[start1].16b\n"
        "mov v26.16b, %[start2].16b\n"
        "mov v27.16b, %[start3].16b\n"
        "mov v28.16b, %[start0].16b\n"
        "mov v29.16b, %[start1].16b\n"
        "mov v30.16b, %[start2].16b\n"
        "mov v31.16b, %[start3].16b\n"
        "1:\n"
        "ld1 {v0.8b}, [%[x0]], %[pitch]\n"
        "ld1 {v1.8b}, [%[x1]], %[pitch]\n"
        "ld1 {v2.8b}, [%[x2]], %[pitch]\n"
        "ld1 {v3.8b}, [%[x3]], %[pitch]\n"
        "ushll v0.8h, v0.8b, #0\n"
        "ushll v1.8h, v1.8b, #0\n"
        "ushll v2.8h, v2.8b, #0\n"
        "ushll v3.8h, v3.8b, #0\n"
        ".irp lane, 0, 1, 2, 3, 4\n"
        "ld1 {v4.8h, v5.8h}, [%[w]], #32\n"
        "smlal  v16.4s, v4.4h, v0.h[\\lane]\n"
        "smlal2 v17.4s, v4.8h, v0.h[\\lane]\n"
        "smlal  v18.4s, v5.4h, v0.h[\\lane]\n"
        "smlal2 v19.4s, v5.8h, v0.h[\\lane]\n"
        "smlal  v20.4s, v4.4h, v1.h[\\lane]\n"
        "smlal2 v21.4s, v4.8h, v1.h[\\lane]\n"
        "smlal  v22.4s, v5.4h, v1.h[\\lane]\n"
        "smlal2 v23.4s, v5.8h, v1.h[\\lane]\n"
        "smlal  v24.4s, v4.4h, v2.h[\\lane]\n"
        "smlal2 v25.4s, v4.8h, v2.h[\\lane]\n"
        "smlal  v26.4s, v5.4h, v2.h[\\lane]\n"
        "smlal2 v27.4s, v5.8h, v2.h[\\lane]\n"
        "smlal  v28.4s, v4.4h, v3.h[\\lane]\n"
        "smlal2 v29.4s, v4.8h, v3.h[\\lane]\n"
        "smlal  v30.4s, v5.4h, v3.h[\\lane]\n"
        "smlal2 v31.4s, v5.8h, v3.h[\\lane]\n"
        ".endr\n"
        "subs %[rows], %[rows], #1\n"
        "b.ne 1b\n"
        "uzp2 v16.8h, v16.8h, v17.8h\n"
        "uzp2 v18.8h, v18.8h, v19.8h\n"
        "uzp2 v20.8h, v20.8h, v21.8h\n"
        "uzp2 v22.8h, v22.8h, v23.8h\n"
        "uzp2 v24.8h, v24.8h, v25.8h\n"
        "uzp2 v26.8h, v26.8h, v27.8h\n"
        "uzp2 v28.8h, v28.8h, v29.8h\n"
        "uzp2 v30.8h, v30.8h, v31.8h\n"
        "uzp2 v16.16b, v16.16b, v18.16b\n"
        "uzp2 v20.16b, v20.16b, v22.16b\n"
        "uzp2 v24.16b, v24.16b, v26.16b\n"
        "uzp2 v28.16b, v28.16b, v30.16b\n"
        : [rows] "+r"(rows), [x0] "+r"(x), [x1] "+r"(x1), [x2] "+r"(x2),
          [x3] "+r"(x3), [w] "+r"(w), "=&w"(top0), "=&w"(top1), "=&w"(top2),
          "=&w"(top3)
        : [pitch] "r"(pitch), [start0] "w"(start[0]), [start1] "w"(start[1]),
          [start2] "w"(start[2]), [start3] "w"(start[3])
        : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v17", "v18",
          "v19", "v21", "v22", "v23", "v25", "v26", "v27", "v29", "v30", "v31");
    top[0] = top0;
    top[1] = top1;
    top[2] = top2;
    top[3] = top3;
}

/* The same for five to eight columns, by SDOT.
 * x [rows][pitch], w4 [rows][2][16][4] */
static inline void eight_columns(size_t rows, size_t step, size_t pitch,
                                 const uint8_t *x, const int8_t *w4,
                                 const int32x4_t start[4], int8x16_t top[4])
{
    const uint8_t *x1 = x + step, *x2 = x1 + step, *x3 = x2 + step;
    register int8x16_t top0 __asm__("v16");
    register int8x16_t top1 __asm__("v20");
    register int8x16_t top2 __asm__("v24");
    register int8x16_t top3 __asm__("v28");

    __asm__ volatile(
        /* sdot v[d].4s, v[w].16b, v[x].4b[four], for any assembler. */
        ".macro dot_four d, w, x, four\n"
        ".inst 0x4f80e000 | \\four << 21 | \\x << 16 | \\w << 5 | \\d\n"
        ".endm\n"
        "mov v16.16b, %[start0].16b\n"
        "mov v17.16b, %[start1].16b\n"
        "mov v18.16b, %[start2].16b\n"
        "mov v19.16b, %[start3].16b\n"
        "mov v20.16b, %[start0].16b\n"
        "mov v21.16b, %[start1].16b\n"
        "mov v22.16b, %[start2].16b\n"
        "mov v23.16b, %[start3].16b\n"
        "mov v24.16b, %[start0].16b\n"
        "mov v25.16b, %[start1].16b\n"
        "mov v26.16b, %[start2].16b\n"
        "mov v27.16b, %[start3].16b\n"
        "mov v28.16b, %[start0].16b\n"
        "mov v29.16b, %[start1].16b\n"
        "mov v30.16b, %[start2].16b\n"
        "mov v31.16b, %[start3].16b\n"
        "1:\n"
        "ld1 {v0.8b}, [%[x0]], %[pitch]\n"
        "ld1 {v1.8b}, [%[x1]], %[pitch]\n"
        "ld1 {v2.8b}, [%[x2]], %[pitch]\n"
        "ld1 {v3.8b}, [%[x3]], %[pitch]\n"
        "eor v0.8b, v0.8b, %[flip].8b\n"
        "eor v1.8b, v1.8b, %[flip].8b\n"
        "eor v2.8b, v2.8b, %[flip].8b\n"
        "eor v3.8b, v3.8b, %[flip].8b\n"
        ".irp four, 0, 1\n"
        "ld1 {v4.16b, v5.16b, v6.16b, v7.16b}, [%[w4]], #64\n"
        "dot_four 16, 4, 0, \\four\n"
        "dot_four 17, 5, 0, \\four\n"
        "dot_four 18, 6, 0, \\four\n"
        "dot_four 19, 7, 0, \\four\n"
        "dot_four 20, 4, 1, \\four\n"
        "dot_four 21, 5, 1, \\four\n"
        "dot_four 22, 6, 1, \\four\n"
        "dot_four 23, 7, 1, \\four\n"
        "dot_four 24, 4, 2, \\four\n"
        "dot_four 25, 5, 2, \\four\n"
        "dot_four 26, 6, 2, \\four\n"
        "dot_four 27, 7, 2, \\four\n"
        "dot_four 28, 4, 3, \\four\n"
        "dot_four 29, 5, 3, \\four\n"
        "dot_four 30, 6, 3, \\four\n"
        "dot_four 31, 7, 3, \\four\n"
        ".endr\n"
        "subs %[rows], %[rows], #1\n"
        "b.ne 1b\n"
        ".purgem dot_four\n"
        "uzp2 v16.8h, v16.8h, v17.8h\n"
        "uzp2 v18.8h, v18.8h, v19.8h\n"
        "uzp2 v20.8h, v20.8h, v21.8h\n"
        "uzp2 v22.8h, v22.8h, v23.8h\n"
        "uzp2 v24.8h, v24.8h, v25.8h\n"
        "uzp2 v26.8h, v26.8h, v27.8h\n"
        "uzp2 v28.8h, v28.8h, v29.8h\n"
        "uzp2 v30.8h, v30.8h, v31.8h\n"
        "uzp2 v16.16b, v16.16b, v18.16b\n"
        "uzp2 v20.16b, v20.16b, v22.16b\n"
        "uzp2 v24.16b, v24.16b, v26.16b\n"
        "uzp2 v28.16b, v28.16b, v30.16b\n"
        : [rows] "+r"(rows), [x0] "+r"(x), [x1] "+r"(x1), [x2] "+r"(x2),
          [x3] "+r"(x3), [w4] "+r"(w4), "=&w"(top0), "=&w"(top1), "=&w"(top2),
          "=&w"(top3)
        : [pitch] "r"(pitch), [flip] "w"(vdupq_n_u8(128)),
          [start0] "w"(start[0]), [start1] "w"(start[1]),
          [start2] "w"(start[2]), [start3] "w"(start[3])
        : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v17",
          "v18", "v19", "v21", "v22", "v23", "v25", "v26", "v27", "v29", "v30",
          "v31");
    top[0] = top0;
    top[1] = top1;
    top[2] = top2;
    top[3] = top3;
}

/* The same for any number of columns. */
static void any_columns(size_t rows, size_t columns, size_t step, size_t pitch,
                        const uint8_t *x, const int16_t *w,
                        const int32x4_t start[4], int8x16_t top[4])
{
    size_t m, i, j, k;

    for (m = 0; m < 4; m++) {
        const int16_t *weight = w;
        int32x4_t s[4];
        int16x8_t low, high;

        for (k = 0; k < 4; k++)
            s[k] = start[k];
        for (i = 0; i < rows; i++)
            for (j = 0; j < columns; j++, weight += CHANNELS_NEON) {
                const int16_t in = x[m * step + i * pitch + j];

                for (k = 0; k < 4; k++)
                    s[k] = vmlal_n_s16(s[k], vld1_s16(weight + 4 * k), in);
            }
        low = vuzp2q_s16(vreinterpretq_s16_s32(s[0]),
                         vreinterpretq_s16_s32(s[1]));
        high = vuzp2q_s16(vreinterpretq_s16_s32(s[2]),
                          vreinterpretq_s16_s32(s[3]));
        top[m] =
            vuzp2q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high));
    }
}

/* 16 bits of each of four positions: 1 where a byte is below zero. */
static inline uint64_t below_zero(const int8x16_t top[4])
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                       1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t place = vld1q_u8(places);
    const uint8x16_t pair0 = vpaddq_u8(vandq_u8(vcltzq_s8(top[0]), place),
                                       vandq_u8(vcltzq_s8(top[1]), place));
    const uint8x16_t pair1 = vpaddq_u8(vandq_u8(vcltzq_s8(top[2]), place),
                                       vandq_u8(vcltzq_s8(top[3]), place));
    const uint8x16_t all = vpaddq_u8(pair0, pair1);

    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

/* Weights as i16 [N/16][rows][columns][16], zeros after the last. */
static void i8_pack__neon(size_t N, size_t rows, size_t columns,
                          const uint8_t *w, uint8_t *packed)
{
    const size_t K = rows * columns;
    int16_t *out = (int16_t *)packed;
    size_t n, k, i;

    for (n = 0; n < N; n += CHANNELS_NEON)
        for (k = 0; k < K; k++)
            for (i = n; i < n + CHANNELS_NEON; i++)
                *out++ = i < N ? (int8_t)w[i * K + k] : 0;
}

static int is_dot(size_t columns)
{
    return columns >= 5 && columns <= 8;
}

/* For SDOT as i8 [rows][2][16][4] for each 16 outputs, behind their sums of
 * 128 w: SDOT takes signed inputs, x - 128. */
static void i8_pack__neon_dot(size_t N, size_t rows, size_t columns,
                              const uint8_t *w, uint8_t *packed)
{
    size_t n, r, c, i;

    if (!is_dot(columns)) {
        i8_pack__neon(N, rows, columns, w, packed);
        return;
    }
    for (n = 0; n < N; n += CHANNELS_NEON) {
        int32_t *sum = (int32_t *)packed;

        memset(sum, 0, 4 * CHANNELS_NEON);
        packed += 4 * CHANNELS_NEON;
        for (r = 0; r < rows; r++)
            for (c = 0; c < 8; c++)
                for (i = 0; i < CHANNELS_NEON; i++) {
                    const uint8_t weight =
                        n + i < N && c < columns
                            ? w[((n + i) * rows + r) * columns + c]
                            : 0;

                    packed[((2 * r + c / 4) * CHANNELS_NEON + i) * 4 + c % 4] =
                        weight;
                    sum[i] += 128 * (int8_t)weight;
                }
        packed += rows * 8 * CHANNELS_NEON;
    }
}

static inline void conv_bits(int dot, size_t M, size_t N, size_t rows,
                             size_t columns, const uint8_t *x, size_t step,
                             size_t pitch, const uint8_t *w,
                             const int32_t *threshold, const uint8_t *direction,
                             uint64_t *out)
{
    const size_t row = words(N);
    size_t m, n, i;

    for (n = 0; n < N; n += CHANNELS_NEON) {
        const uint64_t flip = (uint16_t)~load_u16(direction + n / 8);
        const uint64_t flips = flip | flip << 16 | flip << 32 | flip << 48;
        const size_t shift = n % BLOCK_NEON;
        uint64_t *to = out + n / BLOCK_NEON;
        int32_t limit[CHANNELS_NEON];
        int32x4_t start[4];

        for (i = 0; i < CHANNELS_NEON;
             i++) /* never below zero after the last */
            limit[i] = n + i < N ? threshold[n + i] : 1;
        for (i = 0; i < 4; i++)
            start[i] = vnegq_s32(vld1q_s32(limit + 4 * i));
        if (dot)
            for (i = 0; i < 4; i++, w += 16)
                start[i] = vaddq_s32(start[i], vld1q_s32((const int32_t *)w));
        for (m = 0; m < M; m += 4) {
            const uint8_t *at = x + m * step;
            int8x16_t top[4];
            uint64_t bits;

            if (dot)
                eight_columns(rows, step, pitch, at, (const int8_t *)w, start,
                              top);
            else if (columns == 5)
                five_columns(rows, step, pitch, at, (const int16_t *)w, start,
                             top);
            else
                any_columns(rows, columns, step, pitch, at, (const int16_t *)w,
                            start, top);
            bits = below_zero(top) ^ flips;
            for (i = 0; i < min_size(4, M - m); i++, bits >>= 16, to += row)
                *to = (shift ? *to : 0) | (bits & 0xffff) << shift;
        }
        w += rows * CHANNELS_NEON * (dot ? 8 : 2 * columns);
    }
}

static void i8_conv_bits__neon_4x16(size_t M, size_t N, size_t rows,
                                    size_t columns, const uint8_t *x,
                                    size_t step, size_t pitch, const uint8_t *w,
                                    const int32_t *threshold,
                                    const uint8_t *direction, uint64_t *out)
{
    conv_bits(0, M, N, rows, columns, x, step, pitch, w, threshold, direction,
              out);
}

static void i8_conv_bits__neon_dot_4x16(size_t M, size_t N, size_t rows,
                                        size_t columns, const uint8_t *x,
                                        size_t step, size_t pitch,
                                        const uint8_t *w,
                                        const int32_t *threshold,
                                        const uint8_t *direction, uint64_t *out)
{
    if (is_dot(columns))
        conv_bits(1, M, N, rows, columns, x, step, pitch, w, threshold,
                  direction, out);
    else
        conv_bits(0, M, N, rows, columns, x, step, pitch, w, threshold,
                  direction, out);
}

/* ---- head ---- */

/* Up to four rows, 16 values of x at a time. */
static void f32_gemv__neon_4x16(size_t N, size_t K, const float *x,
                                const float *w, float *out)
{
    const size_t whole = K / 16 * 16;
    size_t n, k, i;

    for (n = 0; n < N; n += 4) {
        const float *row[4], *at = x;
        float sums[4] = {0};

        for (i = 0; i < 4; i++)
            row[i] = w + min_size(n + i, N - 1) * K;
        __asm__ volatile(
            "movi v20.4s, #0\n movi v21.4s, #0\n"
            "movi v22.4s, #0\n movi v23.4s, #0\n"
            "b 2f\n"
            "1:\n"
            "ld1 {v0.4s, v1.4s, v2.4s, v3.4s}, [%[x]], #64\n"
            "ld1 {v4.4s, v5.4s, v6.4s, v7.4s}, [%[row0]], #64\n"
            "ld1 {v8.4s, v9.4s, v10.4s, v11.4s}, [%[row1]], #64\n"
            "ld1 {v12.4s, v13.4s, v14.4s, v15.4s}, [%[row2]], #64\n"
            "ld1 {v16.4s, v17.4s, v18.4s, v19.4s}, [%[row3]], #64\n"
            "fmla v20.4s, v4.4s, v0.4s\n"
            "fmla v21.4s, v8.4s, v0.4s\n"
            "fmla v22.4s, v12.4s, v0.4s\n"
            "fmla v23.4s, v16.4s, v0.4s\n"
            "fmla v20.4s, v5.4s, v1.4s\n"
            "fmla v21.4s, v9.4s, v1.4s\n"
            "fmla v22.4s, v13.4s, v1.4s\n"
            "fmla v23.4s, v17.4s, v1.4s\n"
            "fmla v20.4s, v6.4s, v2.4s\n"
            "fmla v21.4s, v10.4s, v2.4s\n"
            "fmla v22.4s, v14.4s, v2.4s\n"
            "fmla v23.4s, v18.4s, v2.4s\n"
            "fmla v20.4s, v7.4s, v3.4s\n"
            "fmla v21.4s, v11.4s, v3.4s\n"
            "fmla v22.4s, v15.4s, v3.4s\n"
            "fmla v23.4s, v19.4s, v3.4s\n"
            "2:\n"
            "cmp %[x], %[end]\n"
            "b.ne 1b\n"
            "faddp v20.4s, v20.4s, v21.4s\n"
            "faddp v22.4s, v22.4s, v23.4s\n"
            "faddp v20.4s, v20.4s, v22.4s\n"
            "str q20, [%[sums]]\n"
            : [x] "+r"(at), [row0] "+r"(row[0]), [row1] "+r"(row[1]),
              [row2] "+r"(row[2]), [row3] "+r"(row[3])
            : [end] "r"(x + whole), [sums] "r"(sums)
            : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7",
              "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16",
              "v17", "v18", "v19", "v20", "v21", "v22", "v23");
        for (i = 0; i < min_size(4, N - n); i++) {
            for (k = 0; k < K - whole; k++)
                sums[i] += x[whole + k] * row[i][k];
            out[n + i] = sums[i];
        }
    }
}

/* ---- which kernel for which shape ---- */

static void b1_gemm_bits__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const uint16_t *threshold,
                               const uint8_t *direction, uint64_t *out)
{
    if (words(K) == 2 && N % BLOCK_NEON == 0)
        b1_gemm_bits__neon_8x16(M, N, x, w, threshold, direction, out);
    else if (K > 384 && K <= 400 && N % HALF_NEON == 0)
        b1_gemm_bits__neon_4x2(M, N, x, w, threshold, direction, out);
    else
        b1_gemm_bits__neon_8x1(M, N, K, x, w, threshold, direction, out);
}

static void b1_gemm_real__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const float *affine,
                               float slope, float *stream, uint64_t *sign)
{
    if (K == 256 && N % BLOCK_NEON == 0 && is_maximum(slope))
        b1_gemm_real__neon_8x4(M, N, x, w, affine, slope, stream, sign);
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
        right * dilation <= REACH && N % BLOCK_NEON == 0 && is_maximum(slope))
        b1_memory_real__neon_8x64(M, N, taps, left, dilation, x, w, affine,
                                  slope, stream, sign);
    else
        b1_memory_real__neon_8x1(M, N, taps, left, dilation, x, w, affine,
                                 slope, stream, sign);
}

static void b1_gemm_counts__neon_8x1(size_t M, size_t N, size_t K,
                                     const uint64_t *x, const uint8_t *w,
                                     uint32_t gain, uint32_t *d)
{
    const size_t row = words(K);
    uint32_t counts[BLOCK_NEON][TILE_NEON];
    size_t m, n, i, j;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            const size_t outputs = min_size(BLOCK_NEON, N - n);
            const size_t count = min_size(TILE_NEON, M - m);

            differences__neon(outputs, row, count, x + m * row, w + 8 * n * row,
                              counts);
            for (i = 0; i < count; i++)
                for (j = 0; j < outputs; j++)
                    d[(m + i) * N + n + j] += gain * counts[j][i];
        }
}

const struct bifsmn_kernels bifsmn_kernels_neon = {
    "neon",
    TILE_NEON,
    i8_pack__neon,
    NULL,
    i8_conv_bits__neon_4x16,
    b1_gemm_bits__neon,
    b1_gemm_real__neon,
    b1_memory_real__neon,
    f32_gemv__neon_4x16,
    b1_gemm_counts__neon_8x1,
    bifsmn_b1_memory_counts,
};

const struct bifsmn_kernels bifsmn_kernels_neon_dot = {
    "neon_dot",
    TILE_NEON,
    i8_pack__neon_dot,
    NULL,
    i8_conv_bits__neon_dot_4x16,
    b1_gemm_bits__neon,
    b1_gemm_real__neon,
    b1_memory_real__neon,
    f32_gemv__neon_4x16,
    b1_gemm_counts__neon_8x1,
    bifsmn_b1_memory_counts,
};

#endif
