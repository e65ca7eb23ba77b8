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
 * The inner loops are assembly, because compilers spill and shuffle there: as
 * intrinsics they cost more, differently with every compiler. Everything
 * around them is C. They take the shapes of the default network; other shapes,
 * and positions that do not fill a tile, have kernels in C (8x1), or those of
 * the scalar table. */

#include "kernels.h"

#ifdef BIFSMN_NEON

#include <arm_neon.h>
#include <string.h>

#include "bytes.h"

#define ALL_VECTORS                                                            \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",  \
        "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21",  \
        "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31"

/* Kept apart, so that the rare does not burden the usual. */
#define NOT_INLINED __attribute__((noinline))

enum {
    TILE_NEON = 8,   /* positions */
    BLOCK_NEON = 64, /* outputs: the bits of one word */
    HALF_NEON = 32,
    MOST_BITS = 2048,   /* outputs of pointwise 1 that have room on the stack */
    POSITIONS_NEON = 4, /* of a convolution of any shape */
    CHANNELS_NEON = 16  /* outputs of a convolution's tile */
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

/* The next word of 8 positions against that of a row of weights. (Written out,
 * for in a loop sums would not stay in registers.) */
static inline void count_word(uint8x16_t sum[4], const uint8x16_t x[4],
                              const uint8_t *w)
{
    const uint8x16_t v = vreinterpretq_u8_u64(vdupq_n_u64(load_u64(w)));

    sum[0] = vaddq_u8(sum[0], vcntq_u8(veorq_u8(x[0], v)));
    sum[1] = vaddq_u8(sum[1], vcntq_u8(veorq_u8(x[1], v)));
    sum[2] = vaddq_u8(sum[2], vcntq_u8(veorq_u8(x[2], v)));
    sum[3] = vaddq_u8(sum[3], vcntq_u8(veorq_u8(x[3], v)));
}

/* Sums of 8 bytes onto d. */
static inline void add_counts(const uint8x16_t sum[4], uint32_t d[TILE_NEON])
{
    const uint16x8_t low = vpaddq_u16(vpaddlq_u8(sum[0]), vpaddlq_u8(sum[1]));
    const uint16x8_t high = vpaddq_u16(vpaddlq_u8(sum[2]), vpaddlq_u8(sum[3]));
    const uint16x8_t all = vpaddq_u16(low, high);

    vst1q_u32(d, vaddw_u16(vld1q_u32(d), vget_low_u16(all)));
    vst1q_u32(d + 4, vaddw_high_u16(vld1q_u32(d + 4), all));
}

/* d[n][i]: differing bits of row n of w and of position i, four rows at once.
 * Positions from `count` on repeat the last one and rows from `outputs` on, up
 * to a whole four, too, so that nothing is read beyond x or w. */
NOT_INLINED static void differences__neon(size_t outputs, size_t row,
                                          size_t count, const uint64_t *x,
                                          const uint8_t *w,
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
        for (n = 0; n < outputs; n += 4) {
            const uint8x16_t zero = vdupq_n_u8(0);
            uint8x16_t sum[4][4] = {{zero, zero, zero, zero},
                                    {zero, zero, zero, zero},
                                    {zero, zero, zero, zero},
                                    {zero, zero, zero, zero}};
            const uint8_t *weight[4];

            for (i = 0; i < 4; i++)
                weight[i] = w + 8 * (min_size(n + i, outputs - 1) * row + from);
            for (k = 0; k < length; k++) {
                const uint8_t *at = (const uint8_t *)turned[k];
                const uint8x16_t in[4] = {vld1q_u8(at), vld1q_u8(at + 16),
                                          vld1q_u8(at + 32), vld1q_u8(at + 48)};

                count_word(sum[0], in, weight[0] + 8 * k);
                count_word(sum[1], in, weight[1] + 8 * k);
                count_word(sum[2], in, weight[2] + 8 * k);
                count_word(sum[3], in, weight[3] + 8 * k);
            }
            add_counts(sum[0], d[n]);
            add_counts(sum[1], d[n + 1]);
            add_counts(sum[2], d[n + 2]);
            add_counts(sum[3], d[n + 3]);
        }
    }
}

NOT_INLINED static void b1_gemm_bits__neon_8x1(size_t M, size_t N, size_t K,
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
NOT_INLINED static void real_outputs__neon(size_t N, size_t n, size_t K,
                                           size_t count,
                                           uint32_t d[BLOCK_NEON][TILE_NEON],
                                           const float *affine, float slope,
                                           float *stream, uint64_t *sign)
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

NOT_INLINED static void b1_gemm_real__neon_8x1(size_t M, size_t N, size_t K,
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

/* d[n][i]: differing taps of channel n of a block at position m + i. */
NOT_INLINED static void memory_differences__neon(
    size_t m, size_t M, size_t row, size_t taps, size_t left, size_t dilation,
    const uint64_t *x, const uint8_t *w, uint32_t d[BLOCK_NEON][TILE_NEON])
{
    const size_t count = min_size(TILE_NEON, M - m);
    size_t i, j, f;

    memset(d, 0, BLOCK_NEON * sizeof *d);
    for (j = 0; j < taps; j++) {
        const uint64_t weight = load_u64(w + 8 * j * row);

        for (f = 0; f < count; f++) {
            /* Before the first position this wraps, far beyond M. */
            const size_t t = m + f + j * dilation - left * dilation;
            const uint64_t differ =
                weight ^ (t < M ? x[t * row] : ~(uint64_t)0);

            for (i = 0; i < BLOCK_NEON; i++)
                d[i][f] += (uint32_t)(differ >> i) & 1;
        }
    }
}

NOT_INLINED static void b1_memory_real__neon_8x1(size_t M, size_t N, size_t taps,
                                     size_t left, size_t dilation,
                                     const uint64_t *x, const uint8_t *w,
                                     const float *affine, float slope,
                                     float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    uint32_t d[BLOCK_NEON][TILE_NEON];
    size_t m, n;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            memory_differences__neon(m, M, row, taps, left, dilation,
                                     x + n / BLOCK_NEON, w + n / 8, d);
            real_outputs__neon(N, n, taps, min_size(TILE_NEON, M - m), d,
                               affine, slope, stream + m * N, sign + m * row);
        }
}

/* ---- pointwise 1: 65 to 128 inputs, whole blocks of outputs ---- */

/* The end of a block: v8 to v11, 16 bits of 8 positions each, changed, to a
 * word of each position in `out`, which moves to the next word. */
#define STORE_BLOCK(change)                                                    \
    change "st4 {v8.8h, v9.8h, v10.8h, v11.8h}, [%[room]]\n"                   \
    "ld1 {v8.2d, v9.2d, v10.2d, v11.2d}, [%[room]]\n"                          \
    ".irp v, v8, v9, v10, v11\n"                                               \
    "st1 {\\v\\().d}[0], [%[out]], %[row]\n"                                   \
    "st1 {\\v\\().d}[1], [%[out]], %[row]\n"                                   \
    ".endr\n"                                                                  \
    "add %[out], %[out], %[next]\n"

/* Row i goes with row i + 8, so that SRI leaves one byte of bits of each.
 *
 * rows: differing bits of rows a and b at 8 positions, added by a tree whose
 * last addition gives a 0, b 0, a 1, b 1 ... of at most 128 each, so that bytes
 * are enough all the way. Then the comparison with the limits, and the bits on
 * top of those of the rows before. The order is a pipeline's: whatever uses a
 * result comes six instructions later at least, the end of the tree among the
 * next rows and the bits among those after, for processors that run in order.
 * What it ends before the first rows is shifted out again.
 * (The assembler's macros, because C's would make strings too long for C99.) */
NOT_INLINED static void
b1_gemm_bits__neon_8x16(size_t M, size_t N, const uint64_t *in,
                        const uint8_t *weights, const uint16_t *thresholds,
                        const uint8_t *directions, uint64_t *out)
{
    const size_t row = 8 * words(N), next = 8 - 8 * row;
    /* Limits of rows i and i + 8, then their bits; the first are of no rows. */
    uint16_t room[1 + MOST_BITS / 16][TILE_NEON];

    for (; M > 0; M -= TILE_NEON, in += 2 * TILE_NEON, out += row) {
        const uint8_t *w = weights, *direction = directions;
        const uint16_t *threshold = thresholds;
        const uint64_t *x = in;
        uint16_t *at = room[1];
        uint64_t *to = out;

        __asm__ volatile(
            ".macro rows a, b, limit, bits, before\n"
            "eor v9.16b, v0.16b, \\a\n"
            "eor v31.16b, v0.16b, \\b\n"
            "cnt v11.16b, v11.16b\n"
            "cnt v14.16b, v14.16b\n"
            "addp v13.16b, v15.16b, v13.16b\n"
            "addp v30.16b, v12.16b, v30.16b\n"
            "eor v10.16b, v1.16b, \\a\n"
            "eor v12.16b, v1.16b, \\b\n"
            "cnt v9.16b, v9.16b\n"
            "cnt v31.16b, v31.16b\n"
            "addp v11.16b, v11.16b, v14.16b\n"
            "sri \\before\\().16b, \\bits\\().16b, #1\n"
            "eor \\bits\\().16b, v2.16b, \\a\n"
            "eor v15.16b, v2.16b, \\b\n"
            "cnt v10.16b, v10.16b\n"
            "cnt v12.16b, v12.16b\n"
            "addp v9.16b, v9.16b, v31.16b\n"
            "addp v14.16b, v13.16b, v11.16b\n"
            "eor v11.16b, v3.16b, \\a\n"
            "eor v13.16b, v3.16b, \\b\n"
            "cnt \\bits\\().16b, \\bits\\().16b\n"
            "cnt v15.16b, v15.16b\n"
            "addp v31.16b, v10.16b, v12.16b\n"
            "addp v14.16b, v30.16b, v14.16b\n"
            "eor v12.16b, v4.16b, \\a\n"
            "eor v10.16b, v4.16b, \\b\n"
            "cnt v11.16b, v11.16b\n"
            "cnt v13.16b, v13.16b\n"
            "addp \\bits\\().16b, \\bits\\().16b, v15.16b\n"
            "addp v9.16b, v9.16b, v31.16b\n"
            "eor v30.16b, v5.16b, \\a\n"
            "eor v31.16b, v5.16b, \\b\n"
            "cnt v12.16b, v12.16b\n"
            "cnt v10.16b, v10.16b\n"
            "addp v11.16b, v11.16b, v13.16b\n"
            "addp v14.16b, v8.16b, v14.16b\n"
            "eor v15.16b, v6.16b, \\a\n"
            "eor v13.16b, v6.16b, \\b\n"
            "cnt v30.16b, v30.16b\n"
            "cnt v31.16b, v31.16b\n"
            "addp v12.16b, v12.16b, v10.16b\n"
            "addp v8.16b, \\bits\\().16b, v11.16b\n"
            "cmhi \\bits\\().16b, \\limit, v14.16b\n"
            "eor v11.16b, v7.16b, \\a\n"
            "eor v14.16b, v7.16b, \\b\n"
            "cnt v15.16b, v15.16b\n"
            "cnt v13.16b, v13.16b\n"
            "addp v30.16b, v30.16b, v31.16b\n"
            "addp v8.16b, v9.16b, v8.16b\n"
            ".endm\n"
            ".macro eight_rows step, store\n" /* i to i + 3, i + 8 to i + 11 */
            "ld1 {v16.16b, v17.16b, v18.16b, v19.16b}, [%[w]], %[pairs]\n"
            "ld1 {v20.16b, v21.16b, v22.16b, v23.16b}, [%[w]], \\step\n"
            "rows v16.16b, v20.16b, v27.16b, v28, v29\n"
            "ld4r {v24.8h, v25.8h, v26.8h, v27.8h}, [%[room]], #8\n"
            "rows v17.16b, v21.16b, v24.16b, v29, v28\n"
            "\\store\n"
            "rows v18.16b, v22.16b, v25.16b, v28, v29\n"
            "rows v19.16b, v23.16b, v26.16b, v29, v28\n"
            ".endm\n"
            "ld1 {v0.2d, v1.2d, v2.2d, v3.2d}, [%[x]], #64\n"
            "ld1 {v4.2d, v5.2d, v6.2d, v7.2d}, [%[x]]\n"
            "1:\n"
            "ldp q24, q25, [%[threshold]], #32\n"
            "sli v24.8h, v25.8h, #8\n"
            "str q24, [%[room]]\n"
            "eight_rows %[back], \"stur q28, [%[room], #-24]\"\n"
            "eight_rows #64\n"
            "cmp %[threshold], %[end]\n"
            "b.ne 1b\n"
            "cnt v11.16b, v11.16b\n"
            "cnt v14.16b, v14.16b\n"
            "sri v29.16b, v28.16b, #1\n"
            "addp v13.16b, v15.16b, v13.16b\n"
            "addp v30.16b, v12.16b, v30.16b\n"
            "addp v11.16b, v11.16b, v14.16b\n"
            "addp v14.16b, v13.16b, v11.16b\n"
            "addp v14.16b, v30.16b, v14.16b\n"
            "addp v14.16b, v8.16b, v14.16b\n"
            "cmhi v28.16b, v27.16b, v14.16b\n"
            "sri v28.16b, v29.16b, #1\n"
            "str q28, [%[room], #-16]\n"
            "mov %[room], %[full]\n"
            "2:\n"
            "ld1 {v8.8h, v9.8h, v10.8h, v11.8h}, [%[room]]\n"
            "ld4r {v12.8h, v13.8h, v14.8h, v15.8h}, [%[direction]], #8\n"
            STORE_BLOCK("eor v8.16b, v8.16b, v12.16b\n"
                        "eor v9.16b, v9.16b, v13.16b\n"
                        "eor v10.16b, v10.16b, v14.16b\n"
                        "eor v11.16b, v11.16b, v15.16b\n")
            "add %[room], %[room], #64\n"
            "cmp %[direction], %[last]\n"
            "b.ne 2b\n"
            ".purgem rows\n"
            ".purgem eight_rows\n"
            : [x] "+&r"(x), [w] "+&r"(w), [threshold] "+&r"(threshold),
              [direction] "+&r"(direction), [out] "+&r"(to), [room] "+&r"(at)
            : [full] "r"(room + 1), [end] "r"(threshold + N),
              [last] "r"(direction + N / 8), [pairs] "r"((size_t)128),
              [back] "r"(-(size_t)64), [row] "r"(row), [next] "r"(next)
            : "memory", "cc", ALL_VECTORS);
    }
}

/* ---- second convolution: 385 to 400 inputs ---- */

/* Rows i and i + 16 at four positions. A pair of rows has its thresholds and
 * its inputs from 384 on in two vectors, one value for each sum.
 *
 * two: differing bits of a row at positions p and q, bytes. */
static void b1_gemm_bits__neon_4x2(size_t M, size_t N, const uint64_t *in,
                                   const uint8_t *weights,
                                   const uint16_t *threshold,
                                   const uint8_t *direction, uint64_t *out)
{
    enum { ROW = 56, PAIRS = HALF_NEON / 2 }; /* bytes of 7 words */
    uint16x4_t pairs[PAIRS][4];
    uint32_t bits[4];
    size_t m, n, i;

    for (n = 0; n < N; n += HALF_NEON, weights += HALF_NEON * ROW) {
        for (i = 0; i < HALF_NEON; i++) {
            pairs[i % PAIRS][i / PAIRS] = vdup_n_u16(threshold[n + i]);
            pairs[i % PAIRS][2 + i / PAIRS] =
                vdup_n_u16(load_u16(weights + ROW * i + 48));
        }
        for (m = 0; m < M; m += 4) {
            const uint64_t *x = in + 7 * m, *tail = x + 6;
            const uint8_t *a = weights, *b = weights + PAIRS * ROW;
            uint16x4_t(*pair)[4] = pairs, (*end)[4] = pairs + PAIRS;

            __asm__ volatile(
                ".macro two d, p0, p1, p2, q0, q1, q2, w0, w1, w2\n"
                "eor \\d, \\p0\\().16b, \\w0\n"
                "eor v25.16b, \\q0\\().16b, \\w0\n"
                "eor v26.16b, \\p1\\().16b, \\w1\n"
                "eor v27.16b, \\q1\\().16b, \\w1\n"
                "eor v28.16b, \\p2\\().16b, \\w2\n"
                "eor v29.16b, \\q2\\().16b, \\w2\n"
                "cnt \\d, \\d\n"
                "cnt v25.16b, v25.16b\n"
                "cnt v26.16b, v26.16b\n"
                "cnt v27.16b, v27.16b\n"
                "cnt v28.16b, v28.16b\n"
                "cnt v29.16b, v29.16b\n"
                "add \\d, \\d, v26.16b\n"
                "add v25.16b, v25.16b, v27.16b\n"
                "add \\d, \\d, v28.16b\n"
                "add v25.16b, v25.16b, v29.16b\n"
                "addp \\d, \\d, v25.16b\n"
                ".endm\n"
                ".macro four d, e, w0, w1, w2\n"
                "two \\d, v0, v1, v2, v3, v4, v5, \\w0, \\w1, \\w2\n"
                "two \\e, v6, v7, v8, v9, v10, v11, \\w0, \\w1, \\w2\n"
                "addp \\d, \\d, \\e\n"
                ".endm\n"
                ".macro pair before, bits\n"
                "ld1 {v16.16b, v17.16b, v18.16b}, [%[a]], %[row]\n"
                "ld1 {v19.16b, v20.16b, v21.16b}, [%[b]], %[row]\n"
                "ldp q22, q23, [%[pair]], #32\n"
                "four v13.16b, v24.16b, v16.16b, v17.16b, v18.16b\n"
                "eor v23.16b, v23.16b, v12.16b\n"
                "four v14.16b, v24.16b, v19.16b, v20.16b, v21.16b\n"
                "cnt v23.16b, v23.16b\n"
                "addp v13.16b, v13.16b, v14.16b\n"
                "add v13.16b, v13.16b, v23.16b\n"
                "uaddlp v13.8h, v13.16b\n"
                "cmhi \\bits, v22.8h, v13.8h\n"
                "sri \\bits, \\before, #1\n"
                ".endm\n"
                "ld1 {v0.2d, v1.2d, v2.2d}, [%[x]], %[row]\n"
                "ld1 {v3.2d, v4.2d, v5.2d}, [%[x]], %[row]\n"
                "ld1 {v6.2d, v7.2d, v8.2d}, [%[x]], %[row]\n"
                "ld1 {v9.2d, v10.2d, v11.2d}, [%[x]]\n"
                "ld1 {v12.h}[0], [%[tail]], %[row]\n"
                "ld1 {v12.h}[1], [%[tail]], %[row]\n"
                "ld1 {v12.h}[2], [%[tail]], %[row]\n"
                "ld1 {v12.h}[3], [%[tail]]\n"
                "mov v12.d[1], v12.d[0]\n"
                "1:\n"
                "pair v30.8h, v31.8h\n"
                "pair v31.8h, v30.8h\n"
                "cmp %[pair], %[end]\n"
                "b.ne 1b\n"
                "mov v31.d[0], v30.d[1]\n" /* rows from 16 on to the others */
                "zip1 v30.8h, v30.8h, v31.8h\n"
                "str q30, [%[bits]]\n"
                ".purgem two\n"
                ".purgem four\n"
                ".purgem pair\n"
                : [x] "+&r"(x), [tail] "+&r"(tail), [a] "+&r"(a),
                  [b] "+&r"(b), [pair] "+&r"(pair)
                : [end] "r"(end), [bits] "r"(bits), [row] "r"((size_t)ROW)
                : "memory", "cc", ALL_VECTORS);
            for (i = 0; i < 4; i++) {
                const uint64_t half = bits[i] ^ load_u32(direction + n / 8);
                uint64_t *to = out + (m + i) * words(N) + n / BLOCK_NEON;

                *to = n % BLOCK_NEON ? *to | half << HALF_NEON : half;
            }
        }
    }
}

/* ---- pointwise 2, fc: 256 inputs, whole blocks of outputs ---- */

/* positions: one row, in a and b, at positions p and q, bytes of d. The second
 * half of x is inverted: its counts are of equal bits, 8 - d a byte, and less
 * those of the first half they are centred on zero, with no constant to add.
 * row: 128 - d at 8 positions, in d.
 * real: from that to the new values in low and high, where the old ones are;
 * their signs go into `bits`, on top of the bits of the rows before. */
static void b1_gemm_real__neon_8x4(size_t M, size_t N, const uint64_t *in,
                                   const uint8_t *weights, const float *affine,
                                   float slope, float *stream, uint64_t *sign)
{
    const size_t row = 8 * words(N), next = 8 - 8 * row;
    uint16_t room[16][TILE_NEON]; /* the last of four vectors counts */

    for (; M > 0; M -= TILE_NEON, in += 4 * TILE_NEON, sign += row) {
        const float *scale = affine, *bias = affine + N;
        const uint8_t *w = weights;
        const uint64_t *x = in;
        uint16_t *at = room[0];
        uint64_t *to = sign;

        __asm__ volatile(
            ".macro positions d, e, f, g, p0, p1, q0, q1, a, b\n"
            "eor v\\d\\().16b, v\\p0\\().16b, \\a\n"
            "eor v\\e\\().16b, v\\p1\\().16b, \\b\n"
            "eor v\\f\\().16b, v\\q0\\().16b, \\a\n"
            "eor v\\g\\().16b, v\\q1\\().16b, \\b\n"
            "cnt v\\d\\().16b, v\\d\\().16b\n"
            "cnt v\\e\\().16b, v\\e\\().16b\n"
            "cnt v\\f\\().16b, v\\f\\().16b\n"
            "cnt v\\g\\().16b, v\\g\\().16b\n"
            "sub v\\d\\().16b, v\\e\\().16b, v\\d\\().16b\n"
            "sub v\\f\\().16b, v\\g\\().16b, v\\f\\().16b\n"
            "addp v\\d\\().16b, v\\d\\().16b, v\\f\\().16b\n"
            ".endm\n"
            ".macro row d, a, b\n"
            "positions \\d, 25, 26, 27, 0, 1, 2, 3, \\a, \\b\n"
            "positions 25, 26, 27, 28, 4, 5, 6, 7, \\a, \\b\n"
            "addp v\\d\\().16b, v\\d\\().16b, v25.16b\n"
            "positions 25, 26, 27, 28, 8, 9, 10, 11, \\a, \\b\n"
            "positions 26, 27, 28, 29, 12, 13, 14, 15, \\a, \\b\n"
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
            "ld1 {v0.2d, v1.2d, v2.2d, v3.2d}, [%[x]], #64\n"
            "ld1 {v4.2d, v5.2d, v6.2d, v7.2d}, [%[x]], #64\n"
            "ld1 {v8.2d, v9.2d, v10.2d, v11.2d}, [%[x]], #64\n"
            "ld1 {v12.2d, v13.2d, v14.2d, v15.2d}, [%[x]]\n"
            "sub %[x], %[x], #192\n"
            ".irp v, 1, 3, 5, 7, 9, 11, 13, 15\n"
            "mvn v\\v\\().16b, v\\v\\().16b\n"
            ".endr\n"
            "2:\n"
            "ldr q30, [%[scale]], #16\n"
            "two_rows v30.s[0], v30.s[1]\n"
            "two_rows v30.s[2], v30.s[3]\n"
            "str q20, [%[room]], #16\n"
            "cmp %[room], %[full]\n"
            "b.ne 2b\n"
            "sub %[room], %[room], #256\n"
            "ldr q8, [%[room], #48]\n"
            "ldr q9, [%[room], #112]\n"
            "ldr q10, [%[room], #176]\n"
            "ldr q11, [%[room], #240]\n"
            STORE_BLOCK("mvn v8.16b, v8.16b\n"
                        "mvn v9.16b, v9.16b\n"
                        "mvn v10.16b, v10.16b\n"
                        "mvn v11.16b, v11.16b\n")
            "cmp %[scale], %[end]\n"
            "b.ne 1b\n"
            ".purgem positions\n"
            ".purgem row\n"
            ".purgem real\n"
            ".purgem two_rows\n"
            : [x] "+&r"(x), [w] "+&r"(w), [scale] "+&r"(scale),
              [bias] "+&r"(bias), [stream] "+&r"(stream), [out] "+&r"(to),
              [room] "+&r"(at)
            : [full] "r"(room + 16), [end] "r"(affine + N),
              [slope] "r"(&slope), [row] "r"(row), [next] "r"(next)
            : "memory", "cc", ALL_VECTORS);
    }
}

/* ---- memory: up to 7 taps, none more than 8 positions away ---- */

enum { REACH = 8, MOST_TAPS = 7 };

/* Whether a memory is one that count_taps knows. */
static int is_near(size_t taps, size_t left, size_t dilation)
{
    return taps <= MOST_TAPS && left * dilation <= REACH &&
           (taps - 1 - left) * dilation <= REACH;
}

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

/* Differing taps of 64 channels of 8 positions. */
static inline void count_taps(size_t m, size_t M, size_t row, size_t taps,
                              size_t left, size_t dilation, const uint64_t *x,
                              const uint8_t *w, struct counter counters[4])
{
    const size_t before = left * dilation;
    const size_t after = (taps - 1 - left) * dilation;
    uint64_t window[REACH + TILE_NEON + REACH]; /* positions from m - 8 */
    uint8x16x4_t a, b;
    size_t i, j;

    for (i = REACH - before; i < REACH + TILE_NEON + after; i++) {
        const size_t t = m + i - REACH; /* may wrap, far beyond M */

        window[i] = t < M ? x[t * row] : ~(uint64_t)0;
    }
    a = tap_differences(window + REACH - before, w);
    for (i = 0; i < 4; i++) {
        counters[i].ones = a.val[i];
        counters[i].twos = counters[i].fours = vdupq_n_u8(0);
    }
    for (j = 1; j < taps; j += 2) {
        const uint64_t *at = window + REACH - before + j * dilation;
        const uint8_t *weight = w + 8 * row * j;

        a = tap_differences(at, weight);
        if (j + 1 < taps)
            b = tap_differences(at + dilation, weight + 8 * row);
        else
            b.val[0] = b.val[1] = b.val[2] = b.val[3] = vdupq_n_u8(0);
        for (i = 0; i < 4; i++)
            count_two(&counters[i], a.val[i], b.val[i]);
    }
}

static void b1_memory_real__neon_8x64(size_t M, size_t N, size_t taps,
                                      size_t left, size_t dilation,
                                      const uint64_t *x, const uint8_t *w,
                                      const float *affine, float slope,
                                      float *stream, uint64_t *sign)
{
    const size_t row = words(N);
    uint8_t high[16], middle[16];
    size_t m, n, i;

    for (i = 0; i < 16; i++) {
        const float s = (float)((int)taps - 2 * (int)(i % 8));
        uint32_t bytes;

        memcpy(&bytes, &s, 4);
        high[i] = (uint8_t)(bytes >> 24);
        middle[i] = (uint8_t)(bytes >> 16);
    }
    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            struct counter counters[4];
            struct bits bits[2];
            const struct memory_block block = {
                vld1q_u8(high),     vld1q_u8(middle),
                affine + n,         affine + N + n,
                vdupq_n_f32(slope), stream + m * N + n * TILE_NEON};

            count_taps(m, M, row, taps, left, dilation, x + n / BLOCK_NEON,
                       w + n / 8, counters);
            for (i = 0; i < 2; i++)
                bits[i].low = bits[i].high = vdupq_n_u32(0);
            memory_block(&block, counters, bits);
            for (i = 0; i < 2; i++)
                bits[i] = finish_bits(bits[i], HALF_NEON, ~0u);
            store_words(bits[0], bits[1], min_size(TILE_NEON, M - m), row,
                        sign + m * row + n / BLOCK_NEON);
        }
}

/* ---- first convolution: 5 x 5 at every second position, and any other ---- */

/* The weights of 16 channels. Row r has its columns 0 to 3 at 4 r; its column 4
 * is at 20 + r: one layout for products of two taps and of four. */
struct conv_tile {
    int32_t middle[CHANNELS_NEON]; /* sums of 128 w: here inputs are x - 128 */
    int8_t w[CHANNELS_NEON][32];
};

/* Tiles if the shape has them, and for all others int8 [N/16][taps][16]. */
struct conv_weights {
    enum { ONE_TAP, TWO_TAPS, FOUR_TAPS } at_once;
    struct conv_tile tile[];
};

static size_t conv_tiles(size_t N, size_t rows, size_t columns)
{
    return rows == 5 && columns == 5 ? (N + CHANNELS_NEON - 1) / CHANNELS_NEON
                                     : 0;
}

static void i8_pack__neon(size_t N, size_t rows, size_t columns,
                          const uint8_t *w, uint8_t *packed)
{
    struct conv_weights *weights = (struct conv_weights *)packed;
    const size_t tiles = conv_tiles(N, rows, columns), taps = rows * columns;
    const size_t blocks = (N + CHANNELS_NEON - 1) / CHANNELS_NEON;
    int8_t *rest = (int8_t *)(weights->tile + tiles);
    size_t n, k;

    weights->at_once = tiles > 0 ? TWO_TAPS : ONE_TAP;
    memset(weights->tile, 0, tiles * sizeof *weights->tile);
    memset(rest, 0, blocks * taps * CHANNELS_NEON);
    for (n = 0; n < N; n++)
        for (k = 0; k < taps; k++)
            rest[(n / CHANNELS_NEON * taps + k) * CHANNELS_NEON +
                 n % CHANNELS_NEON] = (int8_t)w[n * taps + k];
    for (n = 0; tiles > 0 && n < N; n++) {
        struct conv_tile *tile = &weights->tile[n / CHANNELS_NEON];
        size_t least = 0;

        for (k = 0; k < 25; k++) {
            const int8_t weight = (int8_t)*w++;

            tile->w[n % CHANNELS_NEON]
                   [k % 5 < 4 ? k / 5 * 4 + k % 5 : 20 + k / 5] = weight;
            tile->middle[n % CHANNELS_NEON] += 128 * weight;
            least += weight == -128;
        }
        if (least > 1) /* two products may not fit 16 bits */
            weights->at_once = ONE_TAP;
    }
}

static void i8_pack__neon_dot(size_t N, size_t rows, size_t columns,
                              const uint8_t *w, uint8_t *packed)
{
    i8_pack__neon(N, rows, columns, w, packed);
    if (conv_tiles(N, rows, columns) > 0)
        ((struct conv_weights *)packed)->at_once = FOUR_TAPS;
}

/* Two channels at a time from x in v0 to v13, which leaves the bits in v31. If
 * there are more cuts, v15 has those of the second plane: the exclusive or of
 * the signs that a sum has with what each of them adds. */
#define EVERY_CHANNEL                                                          \
    ".macro other_cuts bits, before\n"                                         \
    "ld1r {v24.4s}, [%[more]], #4\n"                                           \
    "ld1r {v26.4s}, [%[more]], #4\n"                                           \
    "add v25.4s, v24.4s, v29.4s\n"                                             \
    "add v24.4s, v24.4s, v28.4s\n"                                             \
    "add v27.4s, v26.4s, v29.4s\n"                                             \
    "add v26.4s, v26.4s, v28.4s\n"                                             \
    "eor v25.16b, v25.16b, v29.16b\n"                                          \
    "eor v24.16b, v24.16b, v28.16b\n"                                          \
    "eor v25.16b, v25.16b, v27.16b\n"                                          \
    "eor v24.16b, v24.16b, v26.16b\n"                                          \
    "uzp2 \\bits\\().8h, v24.8h, v25.8h\n"                                     \
    "sri \\bits\\().8h, \\before\\().8h, #1\n"                                 \
    ".endm\n"                                                                  \
    "ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [%[x]], #64\n"                      \
    "ld1 {v4.16b, v5.16b, v6.16b, v7.16b}, [%[x]], #64\n"                      \
    "ld1 {v8.16b, v9.16b, v10.16b, v11.16b}, [%[x]], #64\n"                    \
    "ldp q12, q13, [%[x]]\n"                                                   \
    "cbnz %[more], 2f\n"                                                       \
    "1:\n"                                                                     \
    "channel v30, v31\n"                                                       \
    "channel v31, v30\n"                                                       \
    "cmp %[start], %[end]\n"                                                   \
    "b.ne 1b\n"                                                                \
    "b 3f\n"                                                                   \
    "2:\n"                                                                     \
    "channel v30, v31\n"                                                       \
    "other_cuts v14, v15\n"                                                    \
    "channel v31, v30\n"                                                       \
    "other_cuts v15, v14\n"                                                    \
    "cmp %[start], %[end]\n"                                                   \
    "b.ne 2b\n"                                                                \
    "str q15, [%[bits], #16]\n"                                                \
    "3:\n"                                                                     \
    "str q31, [%[bits]]\n"                                                     \
    ".purgem channel\n"                                                        \
    ".purgem other_cuts\n"

/* 16 channels at 8 positions, 16 bits of each: 1 where the sum, which starts at
 * `start`, is below zero; after them the second plane's, if there are `more`
 * cuts, two numbers of each channel or NULL. A vector of x has two taps of each
 * position side by side: two products of each add up in 16 bits, two of those
 * sums in 32. */
static inline void conv_tile(const int8x16_t x[14], const int8_t *w,
                             const int32_t *start, const int32_t *more,
                             uint16_t bits[2 * TILE_NEON])
{
    const int32_t *end = start + CHANNELS_NEON;

    __asm__ volatile(
        ".macro four_taps x0, w0, x1, w1, low, high\n"
        "smull \\low\\().8h, \\x0\\().8b, \\w0\\().8b\n"
        "smull2 \\high\\().8h, \\x0\\().16b, \\w0\\().16b\n"
        ".ifnb \\x1\n"
        "smlal \\low\\().8h, \\x1\\().8b, \\w1\\().8b\n"
        "smlal2 \\high\\().8h, \\x1\\().16b, \\w1\\().16b\n"
        ".endif\n"
        "sadalp v28.4s, \\low\\().8h\n"
        "sadalp v29.4s, \\high\\().8h\n"
        ".endm\n"
        ".macro channel bits, before\n"
        "ld1r {v28.4s}, [%[start]], #4\n"
        "ld4r {v16.8h, v17.8h, v18.8h, v19.8h}, [%[w]], #8\n"
        "ld4r {v20.8h, v21.8h, v22.8h, v23.8h}, [%[w]], #8\n"
        "mov v29.16b, v28.16b\n"
        "four_taps v0, v16, v1, v17, v24, v25\n"
        "four_taps v2, v18, v3, v19, v26, v27\n"
        "ld4r {v16.8h, v17.8h, v18.8h, v19.8h}, [%[w]], #8\n"
        "four_taps v4, v20, v5, v21, v24, v25\n"
        "four_taps v6, v22, v7, v23, v26, v27\n"
        "ld1r {v20.8h}, [%[w]], %[eight]\n"
        "four_taps v8, v16, v9, v17, v24, v25\n"
        "four_taps v10, v18, v11, v19, v26, v27\n"
        "four_taps v12, v20, , , v24, v25\n"
        "uzp2 \\bits\\().8h, v28.8h, v29.8h\n"
        "sri \\bits\\().8h, \\before\\().8h, #1\n"
        ".endm\n"
        EVERY_CHANNEL
        ".purgem four_taps\n"
        : [x] "+&r"(x), [w] "+&r"(w), [start] "+&r"(start), [more] "+&r"(more)
        : [end] "r"(end), [eight] "r"((size_t)8), [bits] "r"(bits)
        : "memory", "cc", ALL_VECTORS);
}

/* The same by SDOT, which adds four products in 32 bits: taps of two vectors
 * of x, for four positions each. */
static inline void conv_tile_dot(const int8x16_t x[14], const int8_t *w,
                                 const int32_t *start, const int32_t *more,
                             uint16_t bits[2 * TILE_NEON])
{
    const int32_t *end = start + CHANNELS_NEON;
    int16x8x2_t four[7], *at = four;
    size_t i;

    for (i = 0; i < 7; i++)
        four[i] = vzipq_s16(vreinterpretq_s16_s8(x[2 * i]),
                            vreinterpretq_s16_s8(x[2 * i + 1]));
    __asm__ volatile(
        /* sdot v[sum].4s, v[x].16b, v[w].4b[four], for any assembler. */
        ".macro dot sum, x, w, four\n"
        ".inst 0x4f80e000|((\\four)&1)<<21|(\\w)<<16|((\\four)>>1)<<11|"
        "(\\x)<<5|\\sum\n"
        ".endm\n"
        ".macro channel bits, before\n"
        "ld1r {v28.4s}, [%[start]], #4\n"
        "ldp q26, q27, [%[w]], #32\n"
        "mov v29.16b, v28.16b\n"
        ".irp i, 0, 1, 2, 3, 4, 5, 6\n"
        "dot 28, 2*\\i, 26+\\i/4, \\i&3\n"
        "dot 29, 2*\\i+1, 26+\\i/4, \\i&3\n"
        ".endr\n"
        "uzp2 \\bits\\().8h, v28.8h, v29.8h\n"
        "sri \\bits\\().8h, \\before\\().8h, #1\n"
        ".endm\n"
        EVERY_CHANNEL
        ".purgem dot\n"
        : [x] "+&r"(at), [w] "+&r"(w), [start] "+&r"(start), [more] "+&r"(more)
        : [end] "r"(end), [bits] "r"(bits)
        : "memory", "cc", ALL_VECTORS);
}

/* The inputs of 8 positions, two taps each: columns 0, 1 and 2, 3 of each row,
 * then column 4 of rows 0, 1 and 2, 3, and of row 4 twice. */
static inline void conv_inputs(const uint8_t *at, size_t pitch, int8x16_t x[14])
{
    const uint8x16_t half = vdupq_n_u8(128);
    int8x16_t last[5];
    size_t r;

    for (r = 0; r < 5; r++, at += pitch) {
        x[2 * r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at), half));
        x[2 * r + 1] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 2), half));
        last[r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 4), half));
    }
    x[10] = vtrn1q_s8(last[0], last[1]);
    x[11] = vtrn1q_s8(last[2], last[3]);
    x[12] = x[13] = last[4];
}

/* Bits of 16 sums, the first lowest: those that reach their threshold. */
static uint16_t reached_bits(const int32x4_t sum[4], const int32x4_t at[4])
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                       1, 2, 4, 8, 16, 32, 64, 128};
    uint16x4_t half[4];
    uint8x16_t all;
    size_t i;

    for (i = 0; i < 4; i++)
        half[i] = vmovn_u32(vcgeq_s32(sum[i], at[i]));
    all = vcombine_u8(vmovn_u16(vcombine_u16(half[0], half[1])),
                      vmovn_u16(vcombine_u16(half[2], half[3])));
    all = vandq_u8(all, vld1q_u8(places));
    return (uint16_t)(vaddv_u8(vget_low_u8(all)) |
                      vaddv_u8(vget_high_u8(all)) << 8);
}

/* Thresholds [cuts][N], of which a tile has `channels`. */
struct conv_cuts {
    size_t cuts, N, channels;
    const int32_t *threshold;
};

/* Bits of 16 sums by one of the cuts. */
static uint16_t cut_sums(const int32x4_t sum[4], struct conv_cuts c, size_t cut)
{
    int32_t least[CHANNELS_NEON];
    int32x4_t at[4];
    size_t i;

    for (i = 0; i < CHANNELS_NEON; i++)
        least[i] = i < c.channels ? c.threshold[cut * c.N + i] : INT32_MAX;
    for (i = 0; i < 4; i++)
        at[i] = vld1q_s32(least + 4 * i);
    return reached_bits(sum, at);
}

/* Any shape, one tap after another, up to 4 positions. */
NOT_INLINED static void conv_taps(size_t M, size_t rows, size_t columns,
                                  const uint8_t *x, size_t step, size_t pitch,
                                  const int8_t *w, struct conv_cuts cuts,
                                  uint16_t turn,
                                  uint16_t bits[2 * TILE_NEON])
{
    int32x4_t sum[POSITIONS_NEON][4];
    size_t r, c, m, i;

    for (i = 0; i < 4; i++)
        for (m = 0; m < POSITIONS_NEON; m++)
            sum[m][i] = vdupq_n_s32(0);
    for (r = 0; r < rows; r++, x += pitch)
        for (c = 0; c < columns; c++, w += CHANNELS_NEON) {
            const int8x16_t weights = vld1q_s8(w);
            const int16x8_t low = vmovl_s8(vget_low_s8(weights));
            const int16x8_t high = vmovl_high_s8(weights);

            for (m = 0; m < POSITIONS_NEON; m++) {
                /* Of the last positions, some are the same. */
                const int16_t input = x[min_size(m, M - 1) * step + c];

                sum[m][0] = vmlal_n_s16(sum[m][0], vget_low_s16(low), input);
                sum[m][1] = vmlal_high_n_s16(sum[m][1], low, input);
                sum[m][2] = vmlal_n_s16(sum[m][2], vget_low_s16(high), input);
                sum[m][3] = vmlal_high_n_s16(sum[m][3], high, input);
            }
        }
    for (m = 0; m < POSITIONS_NEON; m++) {
        bits[m] = cut_sums(sum[m], cuts, cuts.cuts / 2) ^ turn;
        if (cuts.cuts == 3)
            bits[TILE_NEON + m] = bits[m] ^ cut_sums(sum[m], cuts, 0) ^
                                  cut_sums(sum[m], cuts, 2);
    }
}

/* 16 bits of each position from output n on; clears words that they begin. */
static inline void store_sixteen(const uint16_t *bits, size_t count, size_t n,
                                 size_t row, uint64_t *out)
{
    size_t i;

    for (i = 0, out += n / BLOCK_NEON; i < count; i++, out += row) {
        if (n % BLOCK_NEON == 0)
            *out = 0;
        memcpy((uint16_t *)out + n % BLOCK_NEON / 16, &bits[i], 2);
    }
}

static void i8_conv_bits__neon_16x8(size_t M, size_t N, size_t rows,
                                    size_t columns, const uint8_t *x,
                                    size_t step, size_t pitch, const uint8_t *w,
                                    size_t cuts, const int32_t *threshold,
                                    const uint8_t *direction, size_t plane,
                                    uint64_t *out)
{
    const struct conv_weights *weights = (const struct conv_weights *)w;
    const size_t row = words(N), tiles = conv_tiles(N, rows, columns);
    const int8_t *rest = (const int8_t *)(weights->tile + tiles);
    const size_t done = weights->at_once == ONE_TAP || step != 2
                            ? 0
                            : M / TILE_NEON * TILE_NEON;
    size_t m, n, i;

    for (n = 0; n < N; n += CHANNELS_NEON, rest += rows * columns * 16) {
        const struct conv_tile *tile = &weights->tile[n / CHANNELS_NEON];
        const struct conv_cuts c = {cuts, N, min_size(CHANNELS_NEON, N - n),
                                    threshold + n};
        const int32_t *first = c.threshold + cuts / 2 * N;
        const uint16_t turn = load_u16(direction + n / 8);
        /* A tile's bits are 1 below the threshold: the other way round. */
        const uint16x8_t flip = vdupq_n_u16((uint16_t)~turn);
        int32_t start[CHANNELS_NEON], others[2 * CHANNELS_NEON] = {0};
        const int32_t *more = cuts == 3 ? others : NULL;
        uint16_t bits[2 * TILE_NEON];

        if (done > 0) {
            memset(start, 255, sizeof start); /* below zero after the last */
            for (i = 0; i < c.channels; i++)
                start[i] = tile->middle[i] - first[i];
            for (i = 0; cuts == 3 && i < c.channels; i++) {
                others[2 * i] = first[i] - c.threshold[i];
                others[2 * i + 1] = first[i] - c.threshold[2 * N + i];
            }
        }
        for (m = 0; m < M; m += i) {
            uint64_t *to = out + m * row;

            if (m < done) {
                int8x16_t in[14];

                i = TILE_NEON;
                conv_inputs(x + m * step, pitch, in);
                if (weights->at_once == FOUR_TAPS)
                    conv_tile_dot(in, tile->w[0], start, more, bits);
                else
                    conv_tile(in, tile->w[0], start, more, bits);
                vst1q_u16(bits, veorq_u16(vld1q_u16(bits), flip));
                if (more)
                    vst1q_u16(bits + i, veorq_u16(vld1q_u16(bits + i), flip));
            } else {
                i = min_size(POSITIONS_NEON, M - m);
                conv_taps(M - m, rows, columns, x + m * step, step, pitch, rest,
                          c, turn, bits);
            }
            store_sixteen(bits, i, n, row, to);
            if (more)
                store_sixteen(bits + TILE_NEON, i, n, row, to + plane);
        }
    }
}

/* ---- head ---- */

/* Up to four rows, 16 values of x at a time. */
static void head__neon_4x16(size_t N, size_t K, const float *x,
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
            : "memory", "cc", ALL_VECTORS);
        for (i = 0; i < min_size(4, N - n); i++) {
            for (k = 0; k < K - whole; k++)
                sums[i] += x[whole + k] * row[i][k];
            out[n + i] = sums[i];
        }
    }
}

/* ---- counts, and what follows from them ---- */

/* Of one output, onto those of an earlier plane where there are `more`. */
static inline void store_counts(uint32x4_t low, uint32x4_t high, int more,
                                uint32_t *to)
{
    if (more) {
        low = vaddq_u32(low, vld1q_u32(to));
        high = vaddq_u32(high, vld1q_u32(to + 4));
    }
    vst1q_u32(to, low);
    vst1q_u32(to + 4, high);
}

static inline void weigh_counts(uint16x8_t d, uint32_t gain, int more,
                                uint32_t *to)
{
    store_counts(vmull_n_u16(vget_low_u16(d), (uint16_t)gain),
                 vmull_n_u16(vget_high_u16(d), (uint16_t)gain), more, to);
}

NOT_INLINED static void weigh_block(size_t outputs,
                                    uint32_t d[BLOCK_NEON][TILE_NEON],
                                    uint32_t gain, int more, uint32_t *to)
{
    size_t i;

    for (i = 0; i < outputs; i++, to += TILE_NEON)
        store_counts(vmulq_n_u32(vld1q_u32(d[i]), gain),
                     vmulq_n_u32(vld1q_u32(d[i] + 4), gain), more, to);
}

/* Rows of `vectors` times 128 bits, whose inputs at 8 positions stay in
 * registers. Positions from `count` on repeat the last one. */
static inline void counts_tile__neon(const size_t vectors, size_t N,
                                     size_t count, const uint64_t *x,
                                     const uint8_t *w, uint32_t gain, int more,
                                     uint32_t *to)
{
    uint8x16_t in[2][TILE_NEON], sum[TILE_NEON];
    size_t n, i, k;

    for (i = 0; i < TILE_NEON; i++)
        for (k = 0; k < vectors; k++)
            in[k][i] = vreinterpretq_u8_u64(
                vld1q_u64(x + 2 * (min_size(i, count - 1) * vectors + k)));
    for (n = 0; n < N; n++, w += 16 * vectors, to += TILE_NEON) {
        for (i = 0; i < TILE_NEON; i++) {
            sum[i] = vcntq_u8(veorq_u8(vld1q_u8(w), in[0][i]));
            if (vectors == 2)
                sum[i] = vaddq_u8(
                    sum[i], vcntq_u8(veorq_u8(vld1q_u8(w + 16), in[1][i])));
        }
        for (i = 0; i < 4; i++) /* up to 16 a byte, then twice that ... */
            sum[i] = vpaddq_u8(sum[2 * i], sum[2 * i + 1]);
        sum[0] = vpaddq_u8(vpaddq_u8(sum[0], sum[1]),
                           vpaddq_u8(sum[2], sum[3]));
        weigh_counts(vpaddlq_u8(sum[0]), gain, more, to);
    }
}

static void b1_gemm_counts__neon(size_t M, size_t N, size_t K, size_t planes,
                                 const uint64_t *x, const uint8_t *w,
                                 const uint32_t *gain, uint32_t *d)
{
    const size_t row = words(K);
    uint32_t counts[BLOCK_NEON][TILE_NEON];
    size_t p, m, n;

    for (p = 0; p < planes; p++)
        for (m = 0; m < M; m += TILE_NEON) {
            const uint64_t *in = x + (p * M + m) * row;
            const size_t count = min_size(TILE_NEON, M - m);

            if (row == 2)
                counts_tile__neon(1, N, count, in, w, gain[p], p > 0,
                                  d + m * N);
            else if (row == 4)
                counts_tile__neon(2, N, count, in, w, gain[p], p > 0,
                                  d + m * N);
            for (n = 0; row != 2 && row != 4 && n < N; n += BLOCK_NEON) {
                const size_t outputs = min_size(BLOCK_NEON, N - n);

                differences__neon(outputs, row, count, in, w + 8 * n * row,
                                  counts);
                weigh_block(outputs, counts, gain[p], p > 0,
                            d + m * N + n * TILE_NEON);
            }
        }
}

/* Channels k, k + 4, k + 32 and k + 36, a nibble each with a bit too many. */
NOT_INLINED static void weigh_nibbles(uint8x16_t nibbles, uint32_t gain,
                                      int more, uint32_t *to)
{
    static const size_t channel[4] = {0, 4, HALF_NEON, HALF_NEON + 4};
    const uint16x8_t seven = vdupq_n_u16(7);
    uint16x8_t d = vreinterpretq_u16_u8(nibbles);
    size_t i;

    for (i = 0; i < 4; i++, d = vshrq_n_u16(d, 4))
        weigh_counts(vandq_u16(d, seven), gain, more,
                     to + channel[i] * TILE_NEON);
}

/* A block of 64 channels. */
static void memory_counts__neon_8x64(size_t m, size_t M, size_t row,
                                     size_t taps, size_t left, size_t dilation,
                                     const uint64_t *x, const uint8_t *w,
                                     uint32_t gain, int more, uint32_t *to)
{
    struct counter counters[4];
    size_t i;

    count_taps(m, M, row, taps, left, dilation, x, w, counters);
    for (i = 0; i < 16; i++)
        weigh_nibbles(nibbles(&counters[i / 4], (int)(i % 4)), gain, more,
                      to + (i + i / 4 * 4) * TILE_NEON);
}

static void b1_memory_counts__neon(size_t M, size_t N, size_t taps, size_t left,
                                   size_t dilation, size_t planes,
                                   const uint64_t *x, const uint8_t *w,
                                   const uint32_t *gain, uint32_t *d)
{
    const int near = is_near(taps, left, dilation) && N % BLOCK_NEON == 0;
    const size_t row = words(N);
    uint32_t counts[BLOCK_NEON][TILE_NEON];
    size_t p, m, n;

    for (p = 0; p < planes; p++, x += M * row)
        for (m = 0; m < M; m += TILE_NEON)
            for (n = 0; n < N; n += BLOCK_NEON) {
                const uint64_t *in = x + n / BLOCK_NEON;
                uint32_t *to = d + m * N + n * TILE_NEON;

                if (near) {
                    memory_counts__neon_8x64(m, M, row, taps, left, dilation,
                                             in, w + n / 8, gain[p], p > 0, to);
                    continue;
                }
                memory_differences__neon(m, M, row, taps, left, dilation, in,
                                         w + n / 8, counts);
                weigh_block(min_size(BLOCK_NEON, N - n), counts, gain[p], p > 0,
                            to);
            }
}

/* Whether counts of one output are below a cut, or values of the stream reach
 * it, as its latest bits. */
static inline void compare_row(const int real, uint32x4_t low, uint32x4_t high,
                               const uint32_t *cut, struct bits *bits)
{
    const uint32x4_t at = vld1q_dup_u32(cut);
    const float32x4_t real_at = vreinterpretq_f32_u32(at);

    if (real)
        shift_in(bits, vcgeq_f32(vreinterpretq_f32_u32(low), real_at),
                 vcgeq_f32(vreinterpretq_f32_u32(high), real_at));
    else
        shift_in(bits, vcltq_u32(low, at), vcltq_u32(high, at));
}

/* Bits of up to 32 outputs at one cut or three, each of which has N. */
static inline void compare_rows(const int real, const int three, size_t outputs,
                                size_t N, const uint32_t *values,
                                const uint32_t *cut, struct bits bits[3])
{
    const struct bits none = {vdupq_n_u32(0), vdupq_n_u32(0)};
    size_t i;

    bits[0] = bits[1] = bits[2] = none;
    for (i = 0; i < outputs; i++, values += TILE_NEON, cut++) {
        const uint32x4_t low = vld1q_u32(values), high = vld1q_u32(values + 4);

        compare_row(real, low, high, cut, &bits[0]);
        if (three) {
            compare_row(real, low, high, cut + N, &bits[1]);
            compare_row(real, low, high, cut + 2 * N, &bits[2]);
        }
    }
}

static inline void cut_bits__neon(const int real, const int three, size_t M,
                                  size_t N, const void *values,
                                  const void *cut, const uint8_t *direction,
                                  uint64_t *out)
{
    const size_t row = words(N), plane = M * row, cuts = three ? 3 : 1;
    size_t m, n, c, part;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n += BLOCK_NEON) {
            const size_t count = min_size(TILE_NEON, M - m);
            uint64_t *to = out + m * row + n / BLOCK_NEON;
            struct bits bits[2][3];

            for (part = 0; part < 2; part++) {
                const size_t at = min_size(n + part * HALF_NEON, N);
                const size_t outputs = min_size(HALF_NEON, N - at);
                const uint32_t turn =
                    direction ? load_u32(direction + n / 8 + 4 * part) : 0;
                const uint32_t *v =
                    (const uint32_t *)values + m * N + at * TILE_NEON;
                const uint32_t *limit = (const uint32_t *)cut + at;

                compare_rows(real, three, outputs, N, v, limit, bits[part]);
                for (c = 0; c < cuts; c++)
                    bits[part][c] = finish_bits(bits[part][c], outputs, turn);
            }
            store_words(bits[0][three], bits[1][three], count, row, to);
            for (part = 0; three && part < 2; part++) {
                struct bits *b = bits[part];

                b[0].low ^= b[1].low ^ b[2].low;
                b[0].high ^= b[1].high ^ b[2].high;
            }
            if (three)
                store_words(bits[0][0], bits[1][0], count, row, to + plane);
        }
}

static void counts_to_bits__neon(size_t M, size_t N, const uint32_t *d,
                                 const uint32_t *cut, const uint8_t *direction,
                                 uint64_t *out)
{
    cut_bits__neon(0, 1, M, N, d, cut, direction, out);
}

static void stream_to_bits__neon(size_t M, size_t N, size_t cuts,
                                 const float *stream, const float *cut,
                                 uint64_t *out)
{
    if (cuts == 3)
        cut_bits__neon(1, 1, M, N, stream, cut, NULL, out);
    else
        cut_bits__neon(1, 0, M, N, stream, cut, NULL, out);
}

static void counts_to_stream__neon(size_t M, size_t N, uint32_t most,
                                   const uint32_t *d, const float *affine,
                                   const float *slope, float *stream)
{
    const int32x4_t all = vdupq_n_s32((int32_t)most);
    struct bits unused = {vdupq_n_u32(0), vdupq_n_u32(0)};
    size_t m, n;

    for (m = 0; m < M; m += TILE_NEON)
        for (n = 0; n < N; n++, d += TILE_NEON, stream += TILE_NEON) {
            const int32x4_t low = vreinterpretq_s32_u32(vld1q_u32(d));
            const int32x4_t high = vreinterpretq_s32_u32(vld1q_u32(d + 4));

            add_real(vcvtq_f32_s32(vmlsq_n_s32(all, low, 2)),
                     vcvtq_f32_s32(vmlsq_n_s32(all, high, 2)),
                     vld1q_dup_f32(affine + n), vld1q_dup_f32(affine + N + n),
                     vld1q_dup_f32(slope + n), 0, stream, &unused);
        }
}

/* ---- which kernel for which shape ---- */

static void b1_gemm_bits__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const uint16_t *threshold,
                               const uint8_t *direction, uint64_t *out)
{
    size_t done = 0;

    if (words(K) == 2 && N % BLOCK_NEON == 0 && N <= MOST_BITS) {
        done = M / TILE_NEON * TILE_NEON;
        b1_gemm_bits__neon_8x16(done, N, x, w, threshold, direction, out);
    } else if (K > 384 && K <= 400 && N % HALF_NEON == 0) {
        done = M / 4 * 4;
        b1_gemm_bits__neon_4x2(done, N, x, w, threshold, direction, out);
    }
    if (M > done)
        b1_gemm_bits__neon_8x1(M - done, N, K, x + done * words(K), w,
                               threshold, direction, out + done * words(N));
}

static void b1_gemm_real__neon(size_t M, size_t N, size_t K, const uint64_t *x,
                               const uint8_t *w, const float *affine,
                               float slope, float *stream, uint64_t *sign)
{
    size_t done = 0;

    if (K == 256 && N % BLOCK_NEON == 0 && is_maximum(slope)) {
        done = M / TILE_NEON * TILE_NEON;
        b1_gemm_real__neon_8x4(done, N, x, w, affine, slope, stream, sign);
    }
    if (M > done)
        b1_gemm_real__neon_8x1(M - done, N, K, x + done * words(K), w, affine,
                               slope, stream + done * N,
                               sign + done * words(N));
}

static void b1_memory_real__neon(size_t M, size_t N, size_t taps, size_t left,
                                 size_t dilation, const uint64_t *x,
                                 const uint8_t *w, const float *affine,
                                 float slope, float *stream, uint64_t *sign)
{
    if (is_near(taps, left, dilation) && N % BLOCK_NEON == 0 &&
        is_maximum(slope))
        b1_memory_real__neon_8x64(M, N, taps, left, dilation, x, w, affine,
                                  slope, stream, sign);
    else
        b1_memory_real__neon_8x1(M, N, taps, left, dilation, x, w, affine,
                                 slope, stream, sign);
}

const struct bifsmn_kernels bifsmn_kernels_neon = {
    "neon",
    TILE_NEON,
    i8_pack__neon,
    NULL,
    NULL,
    i8_conv_bits__neon_16x8,
    b1_gemm_bits__neon,
    b1_gemm_real__neon,
    b1_memory_real__neon,
    head__neon_4x16,
    b1_gemm_counts__neon,
    b1_memory_counts__neon,
    counts_to_bits__neon,
    counts_to_stream__neon,
    stream_to_bits__neon,
};

const struct bifsmn_kernels bifsmn_kernels_neon_dot = {
    "neon_dot",
    TILE_NEON,
    i8_pack__neon_dot,
    NULL,
    NULL,
    i8_conv_bits__neon_16x8,
    b1_gemm_bits__neon,
    b1_gemm_real__neon,
    b1_memory_real__neon,
    head__neon_4x16,
    b1_gemm_counts__neon,
    b1_memory_counts__neon,
    counts_to_bits__neon,
    counts_to_stream__neon,
    stream_to_bits__neon,
};

#endif
