/* counts.c: see counts.h. */

#include "counts.h"

#include "bytes.h"

enum { BLOCK_COUNTS = 64, MOST_CUTS = 3 };

/* 64 bytes of 0 or 1 to a word, the first to its lowest bit. */
static uint64_t join_bytes(const uint8_t bytes[BLOCK_COUNTS])
{
    uint64_t word = 0;
    size_t i;

    /* The factor moves byte k to bit 56 + k; no two of its terms meet. */
    for (i = 0; i < BLOCK_COUNTS; i += 8)
        word |= (load_u64(bytes + i) * 0x0102040810204080u >> 56) << i;
    return word;
}

/* What the bits of the thresholds make together. */
static void store_planes(size_t cuts, const uint64_t bits[MOST_CUTS], uint64_t turn,
                         uint64_t *out, size_t plane)
{
    if (cuts == 1) {
        out[0] = bits[0] ^ turn;
    } else {
        out[0] = bits[1] ^ turn;
        out[plane] = bits[0] ^ bits[1] ^ bits[2] ^ turn;
    }
}

void bifsmn_cuts_to_planes(size_t cuts, size_t row, uint64_t *bits)
{
    size_t i;

    if (cuts == 1)
        return;
    for (i = 0; i < row; i++) {
        const uint64_t low = bits[i], middle = bits[row + i];

        bits[i] = middle;
        bits[row + i] = low ^ middle ^ bits[2 * row + i];
    }
}

void bifsmn_counts_to_bits(size_t M, size_t N, size_t cuts, const uint32_t *d,
                           const uint32_t *threshold, const uint8_t *direction,
                           uint64_t *out, size_t plane)
{
    size_t m, n, cut, i;

    for (m = 0; m < M; m++, d += N)
        for (n = 0; n < N; n += BLOCK_COUNTS) {
            const size_t outputs = min_size(N - n, BLOCK_COUNTS);
            uint64_t bits[MOST_CUTS] = {0};

            for (cut = 0; cut < cuts; cut++) {
                const uint32_t *t = threshold + cut * N + n;
                uint8_t below[BLOCK_COUNTS] = {0};

                for (i = 0; i < outputs; i++)
                    below[i] = d[n + i] < t[i];
                bits[cut] = join_bytes(below);
            }
            store_planes(cuts, bits, load_u64(direction + n / 8), out++, plane);
        }
}

void bifsmn_counts_to_stream(size_t M, size_t N, size_t tile, uint32_t most,
                             const uint32_t *d, const float *affine,
                             const float *slope, float *stream)
{
    size_t m, n;

    for (m = 0; m < M; m++, d += N) {
        float *to = stream + m / tile * tile * N + m % tile;

        for (n = 0; n < N; n++) {
            float z = (float)((int32_t)most - 2 * (int32_t)d[n]) * affine[n];
            float below;

            z = z + affine[N + n];
            below = z * slope[n];
            to[n * tile] = to[n * tile] + (z >= 0 ? z : below);
        }
    }
}

void bifsmn_stream_to_bits(size_t M, size_t N, size_t tile, size_t cuts,
                           const float *stream, const float *cut,
                           uint64_t *out, size_t plane)
{
    size_t m, n, k, i;

    for (m = 0; m < M; m++) {
        const float *from = stream + m / tile * tile * N + m % tile;

        for (n = 0; n < N; n += BLOCK_COUNTS) {
            const size_t outputs = min_size(N - n, BLOCK_COUNTS);
            uint64_t bits[MOST_CUTS] = {0};

            for (k = 0; k < cuts; k++) {
                const float *at = cut + k * N + n;
                uint8_t reached[BLOCK_COUNTS] = {0};

                for (i = 0; i < outputs; i++)
                    reached[i] = from[(n + i) * tile] >= at[i];
                bits[k] = join_bytes(reached);
            }
            store_planes(cuts, bits, 0, out++, plane);
        }
    }
}
