/* kernels.h: the operations that a machine may do its own way.
 *
 * A kernel is named op__isa_tile. All tables give the same bits: sums are
 * integers, and each line of float arithmetic is one IEEE single operation in
 * the stated order, with no fused multiply-add. Only the dot products of the
 * head may add in any order.
 *
 * Shapes: M positions, N outputs, K inputs. A row of bits is words(K) 64-bit
 * words, 1 is +1, zeros after the K-th. Arrays of u64, i16 and float are in
 * the workspace, rows aligned to their type and no more; arrays of u8 are in
 * the file, little-endian and at any address. */

#ifndef BIFSMN_KERNELS_H
#define BIFSMN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    CONV1_CHANNELS = 16, /* conv1's channels are rounded up to these */
    LONGEST_TILE = 8
};

struct bifsmn_kernels {
    const char *name;

    /* The residual stream [M][N] lies in tiles of this many positions,
     * [tiles][N][tile], so that one vector can hold one channel; 1: as it is
     * written. The last tile is filled up with positions of no meaning. */
    size_t tile;

    /* out bit = (sum over i, j of w * x >= threshold) xor direction, where
     * position m reads x[i * pitch + m * step + j] for i < rows, j < columns.
     * x within 8 bits, wide as multipliers like them,
     * w [rows][columns][padded N], w4 the same in 8 bits with four columns of
     * an output side by side, [rows][columns / 4, rounded up][padded N][4],
     * threshold [padded N] within 31 bits,
     * N padded to CONV1_CHANNELS with weights of 0 and thresholds of 1; of x,
     * what three more positions and three more columns cover may be read,
     * direction bits [N], out [M][words(N)] */
    void (*i16_conv_bits)(size_t M, size_t N, size_t rows, size_t columns,
                          size_t step, size_t pitch, const int16_t *x,
                          const int16_t *w, const int8_t *w4,
                          const int32_t *threshold, const uint8_t *direction,
                          uint64_t *out);

    /* d = differing bits of w and x; out bit = (d < threshold) xor direction
     * x [M][words(K)], w [N][words(K)], threshold [N], direction bits [N],
     * out [M][words(N)] */
    void (*b1_gemm_bits)(size_t M, size_t N, size_t K, const uint64_t *x,
                         const uint8_t *w, const uint16_t *threshold,
                         const uint8_t *direction, uint64_t *out);

    /* z = (K - 2 d) * scale + bias; y = z >= 0 ? z : z * slope
     * stream = stream + y; sign = stream >= 0
     * x [M][words(K)], w [N][words(K)], affine [2][N] scale then bias,
     * stream [M][N] in tiles and never -0, sign [M][words(N)] */
    void (*b1_gemm_real)(size_t M, size_t N, size_t K, const uint64_t *x,
                         const uint8_t *w, const float *affine, float slope,
                         float *stream, uint64_t *sign);

    /* The depthwise memory: as b1_gemm_real, where the inputs of channel n at
     * position t are channel n at t + (j - left) * dilation for each tap j, +1
     * outside 0..M - 1.
     * x [M][words(N)], w [taps][words(N)], sign [M][words(N)] is not x */
    void (*b1_memory_real)(size_t M, size_t N, size_t taps, size_t left,
                           size_t dilation, const uint64_t *x,
                           const uint8_t *w, const float *affine, float slope,
                           float *stream, uint64_t *sign);

    /* out [N] = w [N][K] times x [K], in any order of additions. */
    void (*f32_gemv)(size_t N, size_t K, const float *x, const float *w,
                     float *out);
};

extern const struct bifsmn_kernels bifsmn_kernels_scalar;
#if defined(__aarch64__) && !defined(__AARCH64EB__)
extern const struct bifsmn_kernels bifsmn_kernels_neon;
extern const struct bifsmn_kernels bifsmn_kernels_neon_dot; /* has SDOT */
const struct bifsmn_kernels *bifsmn_best_neon(void);
#endif

#endif
