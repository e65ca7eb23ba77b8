/* kernels.h: the operations that a machine may do its own way.
 *
 * A kernel is named op__isa_tile, its tile outputs x positions. All tables
 * give the same bits: sums are integers, and each line of float arithmetic is
 * one IEEE single operation in the stated order, with no fused multiply-add.
 * Only the product of the head may add in any order.
 *
 * Shapes: M positions, N outputs, K inputs. A row of bits is words(K) 64-bit
 * words, 1 is +1, zeros after the K-th. Arrays of u64, u16, i32 and float are
 * in the workspace, rows aligned to their type and no more; arrays of u8 may
 * be in the file, little-endian and at any address. */

#ifndef BIFSMN_KERNELS_H
#define BIFSMN_KERNELS_H

#include "rounding.h"

#include <stddef.h>
#include <stdint.h>

struct bifsmn_kernels {
    const char *name;

    /* The residual stream [M][N] lies in tiles of this many positions,
     * [tiles][N][tile], so that one vector can hold one channel; 1: as it is
     * written. The last tile is filled up with positions of no meaning. */
    size_t tile;

    /* The weights w of the convolution and the GEMMs below are those of the
     * file, i8 [N][rows][columns] and bits [N][words(K)], unless a table packs
     * them its own way, into at most i8_packed_size and b1_packed_size bytes,
     * aligned to 64. NULL: it does not. */
    void (*i8_pack)(size_t N, size_t rows, size_t columns, const uint8_t *w,
                    uint8_t *packed);
    void (*b1_pack)(size_t N, size_t K, const uint8_t *w, uint8_t *packed);

    /* So too the weights of the head, float [N][K], whole numbers from -128 to
     * 127, where they lie. */
    void (*head_pack)(size_t N, size_t K, float *w);

    /* out bit = (sum of w * x >= threshold) xor direction, where the sum goes
     * over rows and columns, and x is at x + m * step + row * pitch + column.
     * Three cuts, thresholds of each output, make two planes of bits: the
     * second gives the first, the exclusive or of all three the other.
     * x unsigned, read up to x_slack(step) bytes after the last; w signed,
     * threshold [cuts][N], direction bits [N], out [M][words(N)], the second
     * plane `plane` words after it. Sums fit 32 bits, and so do sums of
     * w * (x - 128) less a threshold that is less its 128 w, in any order. */
    void (*i8_conv_bits)(size_t M, size_t N, size_t rows, size_t columns,
                         const uint8_t *x, size_t step, size_t pitch,
                         const uint8_t *w, size_t cuts,
                         const int32_t *threshold, const uint8_t *direction,
                         size_t plane, uint64_t *out);

    /* d = differing bits of w and x; out bit = (d < threshold) xor direction
     * x [M][words(K)], threshold [N], direction bits [N], out [M][words(N)] */
    void (*b1_gemm_bits)(size_t M, size_t N, size_t K, const uint64_t *x,
                         const uint8_t *w, const uint16_t *threshold,
                         const uint8_t *direction, uint64_t *out);

    /* z = (K - 2 d) * scale + bias; y = z >= 0 ? z : z * slope
     * stream = stream + y; sign = stream >= 0
     * x [M][words(K)], affine [2][N] scale then bias, stream [M][N] in tiles
     * and never -0, sign [M][words(N)] */
    void (*b1_gemm_real)(size_t M, size_t N, size_t K, const uint64_t *x,
                         const uint8_t *w, const float *affine, float slope,
                         float *stream, uint64_t *sign);

    /* The depthwise memory: as b1_gemm_real, where the inputs of channel n at
     * position t are channel n at t + (j - left) * dilation for each tap j, +1
     * outside 0..M - 1.
     * x [M][words(N)], w bits [taps][words(N)], never packed; sign
     * [M][words(N)] is not x */
    void (*b1_memory_real)(size_t M, size_t N, size_t taps, size_t left,
                           size_t dilation, const uint64_t *x,
                           const uint8_t *w, const float *affine, float slope,
                           float *stream, uint64_t *sign);

    /* out [N] = w [N][K] times x [K], in any order of additions; fused or not. */
    void (*head)(size_t N, size_t K, const float *x, const float *w,
                 float *out);

    /* What the above do in one go, in two steps: where there are two planes of
     * bits, a slope for each channel, or sums are all that is wanted. First
     * d = sum over planes of gain * (differing bits of w and x), below 2^30
     * x [planes][M][words(K)], w as b1_gemm_bits takes it, gain [planes] below
     * 2^16, d [M][N] in tiles as the stream */
    void (*b1_gemm_counts)(size_t M, size_t N, size_t K, size_t planes,
                           const uint64_t *x, const uint8_t *w,
                           const uint32_t *gain, uint32_t *d);

    /* The same of the inputs and weights of b1_memory_real. */
    void (*b1_memory_counts)(size_t M, size_t N, size_t taps, size_t left,
                             size_t dilation, size_t planes, const uint64_t *x,
                             const uint8_t *w, const uint32_t *gain,
                             uint32_t *d);

    /* Then the bits of two planes: each cut gives the bit d < cut, the second
     * the first plane, the exclusive or of all three the other, both xor
     * direction.
     * cut [3][N] below 2^31, direction bits [N], out [2][M][words(N)] */
    void (*counts_to_bits)(size_t M, size_t N, const uint32_t *d,
                           const uint32_t *cut, const uint8_t *direction,
                           uint64_t *out);

    /* Or z = (most - 2 d) * scale + bias; y = z >= 0 ? z : z * slope
     * stream = stream + y
     * affine [2][N] scale then bias, slope [N] */
    void (*counts_to_stream)(size_t M, size_t N, uint32_t most,
                             const uint32_t *d, const float *affine,
                             const float *slope, float *stream);

    /* Bits stream >= cut of one cut, or two planes from three as above.
     * cut [cuts][N], out [1 or 2][M][words(N)] */
    void (*stream_to_bits)(size_t M, size_t N, size_t cuts,
                           const float *stream, const float *cut,
                           uint64_t *out);
};

static inline size_t x_slack(size_t step)
{
    return 16 + 3 * step;
}

static inline uint64_t i8_packed_size(size_t N, size_t rows, size_t columns)
{
    return 2 * ((uint64_t)(N + 15) / 16 * 16) * rows * ((columns + 3) / 4 * 4);
}

static inline uint64_t b1_packed_size(size_t N, size_t K)
{
    return 8 * ((uint64_t)(N + 63) / 64 * 64) * ((K + 63) / 64);
}

/* The x86 tables are compiled function by function for their instructions,
 * whatever the flags; that takes GNU attributes. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(BIFSMN_PORTABLE)
#define BIFSMN_X86
extern const struct bifsmn_kernels bifsmn_kernels_avx512;
extern const struct bifsmn_kernels bifsmn_kernels_avx2;
#endif
/* Every 64-bit ARM has NEON; neon_dot has the dot products of ARMv8.4 too.
 * Their assembly takes a size_t for a whole register: not with ILP32. */
#if defined(__aarch64__) && !defined(__AARCH64EB__) && defined(__GNUC__) && \
    UINTPTR_MAX > 0xffffffffu && !defined(BIFSMN_PORTABLE)
#define BIFSMN_NEON
extern const struct bifsmn_kernels bifsmn_kernels_neon_dot;
extern const struct bifsmn_kernels bifsmn_kernels_neon;
#endif
extern const struct bifsmn_kernels bifsmn_kernels_scalar;

/* The i-th table that this machine can run, best first; NULL after the last. */
const struct bifsmn_kernels *bifsmn_kernels_at(size_t i);

#endif
