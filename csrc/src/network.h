/* network.h: the handle, and the network from features to scores. */

#ifndef BIFSMN_NETWORK_H
#define BIFSMN_NETWORK_H

#include "arena.h"
#include "bifsmn.h"
#include "frontend.h"
#include "kernels.h"
#include "model.h"

enum { FC_SLOPE, MEMORY_SLOPE, POINTWISE2_SLOPE, SLOPES };
enum { MEMORY_CUT, POINTWISE1_CUT, CUTS };

/* Everything lies in the workspace, this struct first. */
struct bifsmn {
    struct model model;
    struct frontend frontend;
    const struct bifsmn_kernels *kernels;
    bifsmn_trace *trace;
    void *trace_user;

    /* Constants, unpacked once from the file so that kernels see one type. */
    int *depth;                 /* [D] */
    int32_t *conv1_threshold;   /* [cuts][C1] */
    uint16_t *conv2_threshold;  /* [C2] */
    float *fc_affine;           /* [2][C] */
    float *memory_affine;       /* [sets][2][C] */
    uint16_t *p1_threshold;     /* [sets][E] */
    float *p2_affine;           /* [sets][2][C] */
    float *head_weight;         /* [classes][T2][C], tiled as the stream, and
                                 * packed by tables that do */

    /* Of layers that count first; NULL where there are none. */
    uint32_t *conv2_cut;        /* [cuts][C2], where there are two planes */
    uint32_t *p1_cut;           /* [sets][cuts][E] */
    float *slope[SLOPES];       /* of fc [C], memory and pointwise 2 [sets][C] */
    float *stream_cut[CUTS];    /* before memory, pointwise 1: [sets][cuts][C] */
    uint32_t *counts;           /* of one layer, in tiles */

    /* Weights: where they lie in the file, or packed for the kernels in use. */
    struct weights {
        const uint8_t *data;    /* [layers] of what a kernel takes */
        size_t size;            /* bytes of one layer */
        uint8_t *packed;        /* room, where a table may pack them */
    } conv1_weight, conv2_weight, fc_weight, p1_weight, p2_weight;

    /* What a run writes. Bits are in rows of whole words; where there are two
     * planes of them, the second follows the first. */
    int8_t *features;  /* [T0][M0] */
    uint8_t *padded1;  /* [T0 + kernel - 1][M0 + kernel - 1] see network.c */
    uint64_t *conv1;   /* [T1][M1][C1] */
    uint64_t *padded2; /* [T1 + kernel - 1][(M1 + kernel - 1) * C1] */
    uint64_t *conv2;   /* [T2][M2][C2] */
    uint64_t *gathered; /* inputs of one GEMM, the stream for a trace, or what
                         * the front end transforms */
    float *stream;      /* [T2][C] the residual stream, in tiles */
    uint64_t *sign;    /* [T2][C] its signs */
    uint64_t *sign2;   /* [T2][C] and again: the memory reads other frames */
    uint64_t *hidden;  /* [T2][E] between the pointwise layers */
};

void bifsmn_network_place(struct bifsmn *net, struct arena *arena);
void bifsmn_network_fill(struct bifsmn *net);

/* From here on the network runs with these, the weights laid out for them. */
void bifsmn_network_use(struct bifsmn *net,
                        const struct bifsmn_kernels *kernels);

/* net->features or others [T0][M0] to scores [classes]; index: of the depth
 * in the file's list. */
void bifsmn_network_run(struct bifsmn *net, const int8_t *features,
                        size_t index, float *scores);

/* Calls the trace, if there is one. */
void bifsmn_network_trace(const struct bifsmn *net, const char *stage, size_t k,
                          const void *data, size_t bytes);

#endif
