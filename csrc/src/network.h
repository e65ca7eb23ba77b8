/* network.h: the handle, and the network from features to scores: prepare.c
 * and network.c. */

#ifndef BIFSMN_NETWORK_H
#define BIFSMN_NETWORK_H

#include "arena.h"
#include "bifsmn.h"
#include "bytes.h"
#include "frontend.h"
#include "kernels.h"
#include "model.h"

/* Constants that kernels take wider than the file holds them: where a stage's
 * sums become bits, scales and biases, slopes. Those of one kind are never
 * needed at the same time. */
enum kind { CUTS, AFFINES, SLOPES, KINDS };
enum constants_name {
    CONV2_CUTS, HIDDEN_CUTS,      /* thresholds of sums */
    MEMORY_CUTS, POINTWISE1_CUTS, /* of the stream, before these */
    FC_AFFINES, MEMORY_AFFINES, POINTWISE2_AFFINES,
    FC_SLOPES, MEMORY_SLOPES, POINTWISE2_SLOPES,
    CONSTANTS
};

/* Everything lies in the workspace, this struct first. */
struct bifsmn {
    struct model model;
    struct frontend frontend;
    const struct bifsmn_kernels *kernels;
    bifsmn_trace *trace;
    void *trace_user;

    /* Constants, unpacked from the file so that kernels see one type. Where
     * there are vector kernels all are, once: vectors outrun unpacking.
     * Elsewhere memory is dear, and there is room for one set of each kind,
     * unpacked when it is needed. */
    int unpacked;
    struct constants {
        enum kind kind;
        enum section_name section;
        size_t width;                  /* bytes of a number: 4 for floats and
                                        * for cuts of two planes, else 2 */
        size_t sets, rows, columns, N; /* the file has [sets][rows][columns],
                                        * kernels take [rows][N] of a set */
        size_t size;                   /* bytes of [rows][N] */
        void *data;                    /* [sets or 1][rows][N] */
    } constants[CONSTANTS];
    int *depth;                 /* [D] */
    int32_t *conv1_threshold;   /* [cuts][C1] */
    float *head_weight;         /* [classes][T2][C], tiled as the stream, and
                                 * packed by tables that do; unpacked only */
    uint32_t *counts;           /* of one layer, in tiles; where layers count
                                 * first */

    /* Weights: where they lie in the file, or packed for the kernels in use. */
    struct weights {
        const uint8_t *data;    /* [layers] of what a kernel takes */
        size_t size;            /* bytes of one layer */
        uint8_t *packed;        /* room, where a table may pack them */
    } conv1_weight, conv2_weight, fc_weight, p1_weight, p2_weight;

    int ran; /* whether padded1, conv1 and conv2 are of a run before */

    /* What a run writes. Bits are in rows of whole words; where there are two
     * planes of them, the second follows the first. */
    int8_t *features;  /* [T0][M0] */
    uint8_t *padded1;  /* [T0 + kernel - 1][M0 + kernel - 1] see network.c */
    uint64_t *conv1;   /* [T1][M1][C1] */
    uint64_t *padded2; /* [T1 + kernel - 1][(M1 + kernel - 1) * C1] */
    uint64_t *conv2;   /* [T2][M2][C2] */
    uint64_t *conv2_some; /* the same of some frames; with two planes only */
    uint64_t *gathered; /* inputs of one GEMM, the stream for a trace, or what
                         * the front end transforms */
    float *stream;      /* [T2][C] the residual stream, in tiles */
    uint64_t *sign;    /* [T2][C] its signs */
    uint64_t *sign2;   /* [T2][C] and again: the memory reads other frames */
    uint64_t *hidden;  /* [T2][E] between the pointwise layers */
};

/* Words of one plane of bits; too many, it may be, for a size_t, until the
 * workspace is known to hold them. */
static inline uint64_t conv1_plane(const struct model *m)
{
    return (uint64_t)m->frames1 * m->mels1 * words(m->conv1_channels);
}

/* Words in a row of the map with a border that conv2 reads. */
static inline size_t padded2_row(const struct model *m)
{
    return words((m->mels1 + m->kernel - 1) * m->conv1_channels);
}

static inline uint64_t padded2_plane(const struct model *m)
{
    return (uint64_t)(m->frames1 + m->kernel - 1) * padded2_row(m);
}

static inline uint64_t conv2_plane(const struct model *m)
{
    return (uint64_t)m->frames2 * m->mels2 * words(m->conv2_channels);
}

/* Whether layers count bits first. */
static inline int counted(const struct model *m)
{
    return m->planes > 1 || m->rprelu;
}

static inline size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Where the stream holds channel c at position t. */
static inline size_t stream_index(const struct bifsmn *net, size_t t, size_t c)
{
    const size_t tile = net->kernels->tile;

    return (t / tile * net->model.channels + c) * tile + t % tile;
}

/* Values of the stream, with those that fill the last tile. */
static inline size_t stream_size(const struct bifsmn *net)
{
    return round_up(net->model.frames2, net->kernels->tile) *
           net->model.channels;
}

/* prepare.c: first what lies where, then what never changes. */
void bifsmn_network_place(struct bifsmn *net, struct arena *arena);
void bifsmn_network_fill(struct bifsmn *net);

/* From here on the network runs with these, the weights laid out for them. */
void bifsmn_network_use(struct bifsmn *net,
                        const struct bifsmn_kernels *kernels);

/* One set, [rows][N]; of its kind, where memory is dear, the only one. */
const void *bifsmn_network_constants(const struct bifsmn *net,
                                     enum constants_name name, size_t set);

/* One class of [classes][T2][C] in the file, as the stream lies; zeros where
 * that has no meaning. */
void bifsmn_network_head_row(const struct bifsmn *net, size_t class,
                             float *out);

/* net->features or others [T0][M0] to scores [classes]; hops: after the window
 * of the run before; index: of the depth in the file's list. */
void bifsmn_network_run(struct bifsmn *net, const int8_t *features,
                        size_t hops, size_t index, float *scores);

/* Calls the trace, if there is one. */
void bifsmn_network_trace(const struct bifsmn *net, const char *stage, size_t k,
                          const void *data, size_t bytes);

#endif
