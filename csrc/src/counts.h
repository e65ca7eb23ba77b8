/* counts.h: what follows from counted bits where a binarizer needs more than
 * the kernels of kernels.h do in one go: two bit planes, thresholds on the
 * stream, a slope for each channel. Portable C; the counting is the kernels'.
 *
 * Two planes come from three thresholds: the first plane is the second's bit,
 * the second plane the exclusive or of all three. */

#ifndef BIFSMN_COUNTS_H
#define BIFSMN_COUNTS_H

#include <stddef.h>
#include <stdint.h>

/* Bits of `planes` planes from `cuts` rows of bits that each are a whole number
 * of words; `row` words in all. In place: planes lie where the first cuts did.
 */
void bifsmn_cuts_to_planes(size_t cuts, size_t row, uint64_t *bits);

/* d [M][N]; threshold [cuts][N], direction bits [N]; out [planes] of
 * [M][words(N)], `plane` words apart. */
void bifsmn_counts_to_bits(size_t M, size_t N, size_t cuts, const uint32_t *d,
                           const uint32_t *threshold, const uint8_t *direction,
                           uint64_t *out, size_t plane);

/* z = (most - 2 d) * scale + bias; y = z >= 0 ? z : z * slope
 * stream = stream + y
 * d [M][N], affine [2][N], slope [N], stream [M][N] in tiles. */
void bifsmn_counts_to_stream(size_t M, size_t N, size_t tile, uint32_t most,
                             const uint32_t *d, const float *affine,
                             const float *slope, float *stream);

/* Bit of each threshold: stream >= cut. stream [M][N] in tiles, cut
 * [cuts][N], out as above. */
void bifsmn_stream_to_bits(size_t M, size_t N, size_t tile, size_t cuts,
                           const float *stream, const float *cut,
                           uint64_t *out, size_t plane);

#endif
