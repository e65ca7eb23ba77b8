/* gather.h: pieces of one map copied into the rows of another. */

#ifndef BIFSMN_GATHER_H
#define BIFSMN_GATHER_H

#include <stddef.h>
#include <stdint.h>

/* Copies go by so many bytes, and run over what they should read and write by
 * less. */
enum { GATHER_SLACK = 16 };

/* `count` rows, each of `pieces` that come from places `in_piece` apart and
 * then follow one another from `out_first` on. In bytes, or in bits. */
struct gather {
    size_t count, pieces, size;
    size_t in_step, in_piece;   /* to what the next row reads, the next piece */
    size_t out_step, out_first; /* to the next row; before its first piece */
    int run_over; /* whether the rest of a row, and 15 bytes after, may be
                   * written, too */
};

/* In bits. */
void bifsmn_gather_bits(struct gather g, const uint64_t *in, uint64_t *out);

/* Rows of whole words of K bits each, zeros to the end of the last word. */
void bifsmn_gather_rows(struct gather g, const uint64_t *in, uint64_t *out);

#endif
