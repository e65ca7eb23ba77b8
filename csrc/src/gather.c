/* gather.c: the copies that make a convolution a matrix product. */

#include "gather.h"

#include <string.h>

#include "bytes.h"

/* In bytes, pieces of `size` by copies of `width`; inlined, so that a copy is a
 * load and a store. */
static inline void copy_pieces(struct gather g, size_t size, size_t width,
                               const uint8_t *restrict in,
                               uint8_t *restrict out)
{
    size_t c, p, i;

    out += g.out_first;
    for (c = 0; c < g.count; c++, in += g.in_step, out += g.out_step) {
        const uint8_t *from = in;
        uint8_t *to = out;

        for (p = g.pieces; p >= 2; p -= 2) { /* loops cost as much as copies */
            for (i = 0; i < size; i += width) {
                memcpy(to + i, from + i, width);
                memcpy(to + size + i, from + g.in_piece + i, width);
            }
            from += 2 * g.in_piece;
            to += 2 * size;
        }
        for (i = 0; p > 0 && i < size; i += width)
            memcpy(to + i, from + i, width);
    }
}

/* The width divides the size, or runs over into what the next piece, the next
 * row and whoever asked for it write after. */
static void gather_bytes(struct gather g, const uint8_t *in, uint8_t *out)
{
    if (g.size == 2)
        copy_pieces(g, 2, 2, in, out);
    else if (g.size == 4)
        copy_pieces(g, 4, 4, in, out);
    else if (g.run_over && g.size <= GATHER_SLACK)
        copy_pieces(g, g.size, GATHER_SLACK, in, out);
    else if (g.size % 8 == 0)
        copy_pieces(g, g.size, 8, in, out);
    else
        copy_pieces(g, g.size, 1, in, out);
}

/* n bits of `in` from bit `from` on to `out` from bit `at` on. */
static void copy_bits(size_t n, const uint64_t *in, size_t from, uint64_t *out,
                      size_t at)
{
    while (n > 0) { /* up to the end of a word of either */
        const size_t take =
            min_size(n, min_size(64 - from % 64, 64 - at % 64));
        const uint64_t mask = ~(uint64_t)0 >> (64 - take) << at % 64;
        const uint64_t word = in[from / 64] >> from % 64 << at % 64;

        out[at / 64] = (out[at / 64] & ~mask) | (word & mask);
        from += take;
        at += take;
        n -= take;
    }
}

/* Whether byte i of a word holds its bits 8 i to 8 i + 7. */
static int little_endian(void)
{
    const uint64_t one = 1;
    uint8_t first;

    memcpy(&first, &one, 1);
    return first;
}

void bifsmn_gather_bits(struct gather g, const uint64_t *in, uint64_t *out)
{
    size_t c, p;

    if (little_endian() && (g.size | g.in_step | g.in_piece | g.out_step |
                            g.out_first) % 8 == 0) {
        const struct gather bytes = {
            g.count,        g.pieces,       g.size / 8,      g.in_step / 8,
            g.in_piece / 8, g.out_step / 8, g.out_first / 8, g.run_over};

        gather_bytes(bytes, (const uint8_t *)in, (uint8_t *)out);
    } else {
        for (c = 0; c < g.count; c++)
            for (p = 0; p < g.pieces; p++)
                copy_bits(g.size, in, c * g.in_step + p * g.in_piece, out,
                          c * g.out_step + g.out_first + p * g.size);
    }
}

void bifsmn_gather_rows(struct gather g, const uint64_t *in, uint64_t *out)
{
    const size_t K = g.pieces * g.size;
    size_t c;

    bifsmn_gather_bits(g, in, out);
    if (K % 64)
        for (c = 1; c <= g.count; c++)
            out[c * words(K) - 1] &= ~(~(uint64_t)0 << K % 64);
}
