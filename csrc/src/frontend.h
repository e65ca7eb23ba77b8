/* frontend.h: PCM to int8 log-mel features. */

#ifndef BIFSMN_FRONTEND_H
#define BIFSMN_FRONTEND_H

#include <stdint.h>

#include "arena.h"
#include "model.h"

struct frontend {
    float floor, offset, gain;
    float *window;   /* [win_length] periodic Hann / 32768 */
    float *cosine;   /* [n_fft/2] cos(2 pi i / n_fft) */
    float *twiddle;  /* [3][2][n_fft/8] cos, sin(2 pi i (1 + j) / (n_fft/2)) */
    uint32_t *first; /* [M0 + 2] first bin at or above each mel edge */
    float *rise;     /* [n_fft/2 + 1] 0..1 from the edge below to that above */
    float *buffer;   /* [2][n_fft], memory that somebody else may use, too */
};

/* Take the tables from the arena, then fill them. */
void bifsmn_frontend_place(struct frontend *f, const struct model *m,
                           struct arena *arena);
void bifsmn_frontend_fill(struct frontend *f, const struct model *m);

/* pcm [samples] to features [T0][M0], which hold those of the window `hops`
 * hops earlier; after T0 hops or more nothing is taken from there. */
void bifsmn_frontend_run(const struct frontend *f, const struct model *m,
                         const int16_t *pcm, size_t hops, int8_t *features);

#endif
