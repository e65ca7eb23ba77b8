/* network.c: the stages of docs/format.md in order, each one kernel call.
 *
 * A convolution is gathered: the inputs under the kernel are copied into one
 * row for each output position, and the rest is a matrix product. */

#include "network.h"

#include <string.h>

#include "bytes.h"

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

void bifsmn_network_place(struct bifsmn *net, struct arena *arena)
{
    const struct model *m = &net->model;
    const size_t area = m->kernel * m->kernel;
    const uint64_t affine = 2 * (uint64_t)m->channels;
    /* The most of what is gathered: conv1 and conv2 for one row of the map,
     * fc for all frames. */
    const size_t gathered =
        max(2 * m->mels1 * area,
            8 * max(m->mels2 * words(area * m->conv1_channels),
                    m->frames2 * words(m->mels2 * m->conv2_channels)));

    net->depth = arena_take(arena, m->depths, sizeof *net->depth);
    net->conv1_weight = arena_take(arena, m->conv1_channels * area, 2);
    net->conv1_threshold = arena_take(arena, m->conv1_channels, 4);
    net->conv2_threshold = arena_take(arena, m->conv2_channels, 2);
    net->fc_affine = arena_take(arena, affine, 4);
    net->memory_affine = arena_take(arena, m->sets[MEMORY] * affine, 4);
    net->p1_threshold = arena_take(
        arena, (uint64_t)m->sets[POINTWISE1] * m->expansion, 2);
    net->p2_affine = arena_take(arena, m->sets[POINTWISE2] * affine, 4);

    net->features = arena_take(arena, m->frames * m->mels, 1);
    net->conv1 = arena_take(
        arena, (uint64_t)m->frames1 * m->mels1, 8 * words(m->conv1_channels));
    net->conv2 = arena_take(
        arena, (uint64_t)m->frames2 * m->mels2, 8 * words(m->conv2_channels));
    net->gathered = arena_take(arena, gathered, 1);
    net->stream = arena_take(arena, m->frames2 * m->channels, 4);
    net->sign = arena_take(arena, m->frames2, 8 * words(m->channels));
    net->sign2 = arena_take(arena, m->frames2, 8 * words(m->channels));
    net->hidden = arena_take(arena, m->frames2, 8 * words(m->expansion));
}

static void unpack_floats(const struct section *s, float *out)
{
    const size_t width = s->dtype == F16 ? 2 : 4;
    size_t i;

    for (i = 0; i < s->size / width; i++)
        out[i] = width == 2 ? load_f16(s->data + 2 * i)
                            : load_f32(s->data + 4 * i);
}

static void unpack_thresholds(const struct section *s, uint16_t *out)
{
    const size_t width = s->dtype == U8 ? 1 : 2;
    size_t i;

    for (i = 0; i < s->size / width; i++)
        out[i] = width == 1 ? s->data[i] : load_u16(s->data + 2 * i);
}

void bifsmn_network_fill(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    size_t i;

    for (i = 0; i < m->depths; i++)
        net->depth[i] = (int)bifsmn_model_depth(m, i);
    for (i = 0; i < s[C1_W].size; i++)
        net->conv1_weight[i] = (int8_t)s[C1_W].data[i];
    for (i = 0; i < m->conv1_channels; i++)
        net->conv1_threshold[i] = load_i32(s[C1_T].data + 4 * i);
    unpack_thresholds(&s[C2_T], net->conv2_threshold);
    unpack_floats(&s[FC_A], net->fc_affine);
    unpack_floats(&s[ME_A], net->memory_affine);
    unpack_thresholds(&s[P1_T], net->p1_threshold);
    unpack_floats(&s[P2_A], net->p2_affine);
}

void bifsmn_network_trace(const struct bifsmn *net, const char *stage, size_t k,
                          const void *data, size_t bytes)
{
    if (net->trace)
        net->trace(net->trace_user, stage, (int)k, data, bytes);
}

/* A row of bits being filled from its start. */
struct bit_row {
    uint64_t *words; /* zeros from bit `size` on */
    size_t size;
};

/* Appends n bits: those of `bits`, a row of whole words, or +1 if NULL. */
static void append(struct bit_row *row, const uint64_t *bits, size_t n)
{
    while (n > 0) {
        const size_t take = n < 64 ? n : 64, at = row->size % 64;
        const uint64_t word = bits ? *bits++ : ~(uint64_t)0 >> (64 - take);
        uint64_t *out = row->words + row->size / 64;

        out[0] |= word << at;
        if (at + take > 64)
            out[1] |= word >> (64 - at);
        row->size += take;
        n -= take;
    }
}

/* Where the kernel of an output looks: before the map this wraps, to an index
 * beyond any map. */
static size_t input_index(const struct model *m, size_t output, size_t tap)
{
    return output * m->stride + tap - (m->kernel - 1) / 2;
}

/* features [T0][M0] to net->conv1 [T1][M1][C1]; gathered [M1][kernel][kernel],
 * zeros outside the map. */
static void run_conv1(struct bifsmn *net, const int8_t *features)
{
    const struct model *m = &net->model;
    const size_t row = m->mels1 * words(m->conv1_channels);
    size_t t, f, i, j;

    for (t = 0; t < m->frames1; t++) {
        int16_t *patch = net->gathered;

        for (f = 0; f < m->mels1; f++)
            for (i = 0; i < m->kernel; i++)
                for (j = 0; j < m->kernel; j++) {
                    const size_t frame = input_index(m, t, i);
                    const size_t mel = input_index(m, f, j);

                    *patch++ = frame < m->frames && mel < m->mels
                                   ? features[frame * m->mels + mel]
                                   : 0;
                }
        net->kernels->i16_gemm_bits(
            m->mels1, m->conv1_channels, m->kernel * m->kernel, net->gathered,
            net->conv1_weight, net->conv1_threshold, m->section[C1_D].data,
            net->conv1 + t * row);
    }
}

/* net->conv1 to net->conv2 [T2][M2][C2]; gathered [M2][kernel][kernel][C1],
 * +1 outside the map. */
static void run_conv2(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t K = m->kernel * m->kernel * m->conv1_channels;
    const size_t in = words(m->conv1_channels);
    const size_t row = m->mels2 * words(m->conv2_channels);
    size_t t, f, i, j;

    for (t = 0; t < m->frames2; t++) {
        struct bit_row patch = {net->gathered, 0};

        memset(net->gathered, 0, 8 * m->mels2 * words(K));
        for (f = 0; f < m->mels2; f++, patch.words += words(K), patch.size = 0)
            for (i = 0; i < m->kernel; i++)
                for (j = 0; j < m->kernel; j++) {
                    const size_t frame = input_index(m, t, i);
                    const size_t mel = input_index(m, f, j);
                    const int inside = frame < m->frames1 && mel < m->mels1;

                    append(&patch,
                           inside ? net->conv1 + (frame * m->mels1 + mel) * in
                                  : NULL,
                           m->conv1_channels);
                }
        net->kernels->b1_gemm_bits(
            m->mels2, m->conv2_channels, K, net->gathered,
            m->section[C2_W].data, net->conv2_threshold, m->section[C2_D].data,
            net->conv2 + t * row);
    }
}

/* net->conv2 to stream and sign [T2][C]; gathered [T2][M2][C2] without the
 * padding of each row of channels. */
static void run_fc(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t K = m->mels2 * m->conv2_channels;
    const uint64_t *bits = net->conv2;
    struct bit_row row = {net->gathered, 0};
    size_t t, f;

    memset(net->gathered, 0, 8 * m->frames2 * words(K));
    for (t = 0; t < m->frames2; t++, row.words += words(K), row.size = 0)
        for (f = 0; f < m->mels2; f++, bits += words(m->conv2_channels))
            append(&row, bits, m->conv2_channels);
    net->kernels->b1_gemm_real(m->frames2, m->channels, K, net->gathered,
                               m->section[FC_W].data, net->fc_affine,
                               load_f32(m->section[FC_S].data), 0, net->stream,
                               net->sign);
}

/* One layer with the constants set[stage]: stream and sign to themselves. */
static void run_layer(struct bifsmn *net, size_t layer, size_t k,
                      const size_t set[STAGES])
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    const struct bifsmn_kernels *kernels = net->kernels;
    const size_t T = m->frames2, C = m->channels, E = m->expansion;
    const size_t row_c = 8 * words(C), row_e = 8 * words(E); /* bytes */

    kernels->b1_memory_real(T, C, m->taps, m->left, m->dilation, net->sign,
                            s[ME_W].data + layer * m->taps * row_c,
                            net->memory_affine + set[MEMORY] * 2 * C,
                            load_f32(s[ME_S].data + 4 * set[MEMORY]),
                            net->stream, net->sign2);
    bifsmn_network_trace(net, "memory", k, net->stream, 4 * T * C);

    kernels->b1_gemm_bits(T, E, C, net->sign2, s[P1_W].data + layer * E * row_c,
                          net->p1_threshold + set[POINTWISE1] * E,
                          s[P1_D].data + set[POINTWISE1] * row_e, net->hidden);
    bifsmn_network_trace(net, "pointwise1", k, net->hidden, T * row_e);

    kernels->b1_gemm_real(T, C, E, net->hidden,
                          s[P2_W].data + layer * C * row_e,
                          net->p2_affine + set[POINTWISE2] * 2 * C,
                          load_f32(s[P2_S].data + 4 * set[POINTWISE2]), 1,
                          net->stream, net->sign);
    bifsmn_network_trace(net, "pointwise2", k, net->stream, 4 * T * C);
}

/* stream [T2][C] to scores [classes]. */
static void run_head(struct bifsmn *net, float *scores)
{
    const struct model *m = &net->model;
    const size_t K = m->frames2 * m->channels;
    const int small = m->section[HD_W].dtype == I4;
    const size_t row = small ? (K + 1) / 2 : K;
    const uint8_t *affine = m->section[HD_A].data;
    size_t i;

    for (i = 0; i < m->classes; i++) {
        const uint8_t *w = m->section[HD_W].data + i * row;
        float sum = small ? net->kernels->i4_dot(K, net->stream, w)
                          : net->kernels->i8_dot(K, net->stream, w);
        float scaled = sum * load_f32(affine + 4 * i);

        scores[i] = scaled + load_f32(affine + 4 * (m->classes + i));
    }
}

void bifsmn_network_run(struct bifsmn *net, const int8_t *features,
                        size_t index, float *scores)
{
    const struct model *m = &net->model;
    const size_t depth = (size_t)net->depth[index];
    size_t before = 0, k; /* layers of the depths listed before */
    int stage;

    for (k = 0; k < index; k++)
        before += (size_t)net->depth[k];

    run_conv1(net, features);
    bifsmn_network_trace(net, "conv1", 0, net->conv1,
                         8 * m->frames1 * m->mels1 * words(m->conv1_channels));
    run_conv2(net);
    bifsmn_network_trace(net, "conv2", 0, net->conv2,
                         8 * m->frames2 * m->mels2 * words(m->conv2_channels));
    run_fc(net);
    bifsmn_network_trace(net, "fc", 0, net->stream,
                         4 * m->frames2 * m->channels);
    for (k = 0; k < depth; k++) {
        const size_t layer = (k + 1) * m->layers / depth - 1;
        size_t set[STAGES];

        for (stage = 0; stage < STAGES; stage++)
            set[stage] = m->private_sets >> stage & 1 ? before + k : layer;
        run_layer(net, layer, k, set);
    }
    run_head(net, scores);
    bifsmn_network_trace(net, "scores", 0, scores, 4 * m->classes);
}
