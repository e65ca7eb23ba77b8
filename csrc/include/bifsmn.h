/* SPDX-License-Identifier: Apache-2.0
 * bifsmn.h: 1-bit keyword spotting from PCM to scores.
 *
 * A model file (docs/format.md) holds the front end, the network at all its
 * depths and the labels. The runtime reads it where it lies: in flash, mapped,
 * or in memory, at any address. It allocates nothing and has no globals; all
 * it writes is one block of memory that you give, and stack: 3 KB of it on
 * 32-bit ARM, 7 KB at most elsewhere, if optimized:
 *
 *     static unsigned char workspace[BYTES]; // as bifsmn_workspace_size says
 *     bifsmn *net;
 *     int error = bifsmn_open(file, file_size, workspace, BYTES, &net);
 *     if (!error) error = bifsmn_run(net, pcm, samples, 8, scores);
 *     if (error) puts(bifsmn_message(error));
 *
 * There is nothing to close. The file and the workspace must outlive the
 * handle, which lies inside the workspace. One handle serves one thread at a
 * time; handles that share a file are independent.
 *
 * Build: any C99 compiler, bifsmn.c (in the repository csrc/src/ *.c with this
 * folder in the include path), and -lm. Give no -ffast-math, on 32-bit x86
 * -msse2 -mfpmath=sse, and to compilers other than gcc and clang what
 * -ffp-contract=off is to them: then the network computes the same bits on
 * every machine, the scores but for their last. -DBIFSMN_PORTABLE leaves NEON
 * and AVX out, which is slower and takes the least memory, as a microcontroller
 * does anyway. */

#ifndef BIFSMN_H
#define BIFSMN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Define as __declspec(dllexport) to build a Windows DLL. */
#ifndef BIFSMN_API
#define BIFSMN_API
#endif

/* Every function that can fail returns one of these; 0 is success. NULL where
 * a pointer must lead somewhere is an error like any other, never a crash. */
enum bifsmn_error {
    BIFSMN_OK,
    BIFSMN_ERROR_ARGUMENT,  /* a pointer is NULL */
    BIFSMN_ERROR_MAGIC,     /* not a model file */
    BIFSMN_ERROR_VERSION,   /* another major version of the format */
    BIFSMN_ERROR_SIZE,      /* truncated, or longer than it says */
    BIFSMN_ERROR_CHECKSUM,  /* bytes were altered */
    BIFSMN_ERROR_TABLE,     /* a section outside the file or inside another */
    BIFSMN_ERROR_MISSING,   /* a section is not there, or there twice */
    BIFSMN_ERROR_CONFIG,    /* a size of the network is zero or absurd */
    BIFSMN_ERROR_DEPTHS,    /* depths not from layers to 1, decreasing */
    BIFSMN_ERROR_SHAPE,     /* a section of another type or size */
    BIFSMN_ERROR_VALUE,     /* a number that is not finite, or out of order */
    BIFSMN_ERROR_LABELS,    /* not one label for each class */
    BIFSMN_ERROR_WORKSPACE, /* workspace smaller than bifsmn_workspace_size */
    BIFSMN_ERROR_SAMPLES,   /* not the samples of one decision */
    BIFSMN_ERROR_DEPTH,     /* a depth that the file does not list */
    BIFSMN_ERROR_KERNELS    /* no kernels of this name run here */
};

/* One plain sentence for an error; never NULL. */
BIFSMN_API const char *bifsmn_message(int error);

typedef struct bifsmn bifsmn;

/* Check the whole file; bytes of workspace that it needs here: another machine
 * needs others. */
BIFSMN_API int bifsmn_workspace_size(const void *file, size_t file_size,
                                     size_t *bytes);

/* Check the whole file and make a handle. Any address will do for either. It
 * fills tables with cosines in double precision: once, not for each decision. */
BIFSMN_API int bifsmn_open(const void *file, size_t file_size,
                           void *workspace, size_t workspace_size,
                           bifsmn **net);

/* Names of the kernels that this machine can run, "scalar" and others, best
 * first; NULL for an index after the last. */
BIFSMN_API const char *bifsmn_kernel_name(int index);

/* Open takes the best; this takes others. All compute the same bits. */
BIFSMN_API int bifsmn_use_kernels(bifsmn *net, const char *name);

struct bifsmn_info {
    int sample_rate;             /* Hz */
    int samples;                 /* PCM samples of one decision */
    int hop_length;              /* samples between two frames */
    int stride;                  /* of both convolutions, in frames and mels */
    int frames, mels;            /* T0, M0: features of one decision */
    int frames1, mels1;          /* T1, M1: after the first convolution */
    int frames2, mels2;          /* T2, M2: after the second */
    int conv1_channels;          /* C1 */
    int conv2_channels;          /* C2 */
    int channels;                /* C, of the residual stream */
    int expansion;               /* E, between the two pointwise layers */
    int layers;                  /* L, of the deepest possible network */
    int classes;
    int depths;                  /* depths that can run */
    const int *depth;            /* [depths], deepest first, in the workspace */
    const char *kernels;         /* name of the kernels in use */
};

#if defined(__cplusplus) && defined(__GNUC__) /* a struct has this name too */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
BIFSMN_API int bifsmn_info(const bifsmn *net, struct bifsmn_info *info);
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/* Name of a class, UTF-8, inside the file; NULL if there is no such class or
 * net is NULL. */
BIFSMN_API const char *bifsmn_label(const bifsmn *net, int index);

/* PCM to features. pcm: exactly `samples` 16-bit samples, mono, at
 * `sample_rate` (pad a short clip yourself). features: [frames][mels]. */
BIFSMN_API int bifsmn_features(bifsmn *net, const int16_t *pcm, size_t samples,
                               int8_t *features);

/* The same for a later window of a stream, `hops` times `hop_length` samples
 * after the one that `features` are of: frames that both have stay, and take
 * no time. The features are those that bifsmn_features gives, which a first
 * window takes, one after lost samples, and one whose step is no multiple of
 * hop_length. Neither keeps pcm, but each wants the window in one piece: copy
 * what came behind it, into a buffer of some steps more, and move the rest to
 * its start when that is full. */
BIFSMN_API int bifsmn_features_next(bifsmn *net, const int16_t *pcm,
                                    size_t samples, size_t hops,
                                    int8_t *features);

/* Features [frames][mels] to scores [classes]: logits, the highest wins.
 * depth: layers to run, one of those listed; deeper is slower and better. */
BIFSMN_API int bifsmn_run_features(bifsmn *net, const int8_t *features,
                                   int depth, float *scores);

/* The same, sooner, for a later window of a stream, `hops` hops after the one
 * that this handle ran last, at whatever depth: what both convolutions made of
 * frames that are in both stays, if hops is a multiple of stride * stride. What
 * is in both is seen from the features; the scores are those that
 * bifsmn_run_features gives, whatever hops is. */
BIFSMN_API int bifsmn_run_features_next(bifsmn *net, const int8_t *features,
                                        size_t hops, int depth, float *scores);

/* Both steps: PCM to scores. */
BIFSMN_API int bifsmn_run(bifsmn *net, const int16_t *pcm, size_t samples,
                          int depth, float *scores);

/* For tests: call `trace` after every stage with what it made, position by
 * position; NULL stops it. Bits are rows of 64-bit words, 1 is +1, bit i of a
 * row in its word i / 64; of a model with two planes the second plane comes
 * after the whole first one, as `bytes` tells. k counts the layers that run at
 * this depth.
 *
 *     "features"   int8  [T0][M0]     "memory" k      float [T2][C]
 *     "conv1"      bits  [T1][M1][C1] "pointwise1" k  bits  [T2][E]
 *     "conv2"      bits  [T2][M2][C2] "pointwise2" k  float [T2][C]
 *     "fc"         float [T2][C]      "scores"        float [classes]   */
typedef void bifsmn_trace(void *user, const char *stage, int k,
                          const void *data, size_t bytes);

BIFSMN_API int bifsmn_set_trace(bifsmn *net, bifsmn_trace *trace, void *user);

#ifdef __cplusplus
}
#endif

#endif
