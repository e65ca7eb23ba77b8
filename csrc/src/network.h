/* network.h: the handle, and the network from features to scores. */

#ifndef BIFSMN_NETWORK_H
#define BIFSMN_NETWORK_H

#include "arena.h"
#include "bifsmn.h"
#include "frontend.h"
#include "kernels.h"
#include "model.h"

/* Everything lies in the workspace, this struct first. */
struct bifsmn {
    struct model model;
    struct frontend frontend;
    const struct bifsmn_kernels *kernels;
    bifsmn_trace *trace;
    void *trace_user;

    /* Constants, unpacked once from the file so that kernels see one type. */
    int *depth;                /* [D] */
    int16_t *conv1_weight;     /* [kernel][kernel][C1], C1 padded */
    int8_t *conv1_weight4;     /* [kernel][kernel / 4][C1][4], both padded */
    int32_t *conv1_threshold;  /* [C1], padded */
    uint16_t *conv2_threshold; /* [C2] */
    float *fc_affine;          /* [2][C] */
    float *memory_affine;      /* [sets][2][C] */
    uint16_t *p1_threshold;    /* [sets][E] */
    float *p2_affine;          /* [sets][2][C] */
    float *head_weight;        /* [classes][T2][C], tiled as the stream */

    /* What a run writes. Bits are in rows of whole words. */
    int8_t *features;  /* [T0][M0] */
    int16_t *map1;     /* [T0][pitch of conv1's map] with zeros at both ends */
    uint64_t *conv1;   /* [T1][M1][C1] */
    uint8_t *map2;     /* conv1 with +1 all around, without padding bits */
    uint64_t *conv2;   /* [T2][M2][C2] */
    void *gathered;    /* inputs of one GEMM: see network.c */
    float *stream;     /* [T2][C] the residual stream, in tiles */
    uint64_t *sign;    /* [T2][C] its signs */
    uint64_t *sign2;   /* [T2][C] and again: the memory reads other frames */
    uint64_t *hidden;  /* [T2][E] between the pointwise layers */
};

void bifsmn_network_place(struct bifsmn *net, struct arena *arena);
void bifsmn_network_fill(struct bifsmn *net);

/* net->features or others [T0][M0] to scores [classes]; index: of the depth
 * in the file's list. */
void bifsmn_network_run(struct bifsmn *net, const int8_t *features,
                        size_t index, float *scores);

/* Calls the trace, if there is one. */
void bifsmn_network_trace(const struct bifsmn *net, const char *stage, size_t k,
                          const void *data, size_t bytes);

#endif
