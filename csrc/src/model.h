/* model.h: a model file, checked, as sizes and pointers into it. */

#ifndef BIFSMN_MODEL_H
#define BIFSMN_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum section_name {
    CONF, DPTH, LABL, META, FRNT, MELS,
    C1_W, C1_T, C1_D, C2_W, C2_T, C2_D, FC_W, FC_A, FC_S,
    ME_W, ME_A, ME_S, P1_W, P1_T, P1_D, P2_W, P2_A, P2_S, HD_W, HD_A,
    /* Only where the flags ask for them. */
    GAIN, ME_X, P1_X, HD_B,
    SECTIONS
};

enum dtype { TEXT, U8, I8, U16, U32, I32, F16, F32, I4, BITS };

struct section {
    const uint8_t *data; /* NULL until found */
    size_t size;         /* bytes */
    unsigned dtype;
};

/* Stages that may have constants of their own for each depth. */
enum stage { MEMORY, POINTWISE1, POINTWISE2, STAGES };

struct model {
    /* CONF, in file order; the letters are those of docs/format.md. */
    size_t sample_rate, samples, win_length, n_fft, hop_length;
    size_t mels, frames;                   /* M0, T0 */
    size_t conv1_channels, conv2_channels; /* C1, C2 */
    size_t kernel, stride;
    size_t channels, expansion, layers;    /* C, E, L */
    size_t left, right, dilation;
    size_t classes, depths, flags;

    /* What follows from them. */
    size_t frames1, mels1, frames2, mels2; /* T1, M1, T2, M2 */
    size_t taps;
    size_t sets[STAGES];
    size_t planes, cuts;    /* of an activation: bit planes, thresholds */
    size_t stream_sets, stream_columns; /* of ME.X and P1.X; none: 0 */
    int rprelu;             /* a slope for each channel */

    struct section section[SECTIONS];
};

/* Checks everything that docs/format.md promises, so that no later code has
 * to: afterwards every section has its type and its exact size, every float is
 * finite, products of two sizes fit 31 bits. Returns a bifsmn_error. */
int bifsmn_read_model(const void *file, size_t size, struct model *model);

/* The i-th depth of the file. */
size_t bifsmn_model_depth(const struct model *model, size_t i);

#endif
