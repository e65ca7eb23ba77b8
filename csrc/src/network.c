/* network.c: the stages of docs/format.md in order, each one kernel call.
 *
 * Convolutions read a copy of their map that has a border. The second is
 * gathered: the inputs under the kernel are copied into one row for each output
 * position, and the rest is a matrix product. */

#include "network.h"

#include <string.h>

#include "bytes.h"
#include "gather.h"

void bifsmn_network_trace(const struct bifsmn *net, const char *stage, size_t k,
                          const void *data, size_t bytes)
{
    if (net->trace)
        net->trace(net->trace_user, stage, (int)k, data, bytes);
}

/* The stream is untiled for the trace, into net->gathered. */
static void trace_stream(const struct bifsmn *net, const char *stage, size_t k)
{
    const size_t T = net->model.frames2, C = net->model.channels;
    float *out = (float *)net->gathered;
    size_t t, c;

    if (!net->trace)
        return;
    for (t = 0; t < T; t++)
        for (c = 0; c < C; c++)
            *out++ = net->stream[stream_index(net, t, c)];
    bifsmn_network_trace(net, stage, k, net->gathered, 4 * T * C);
}

/* features [T0][M0] into padded1, as x + 128; zeros are around them. */
static void pad_features(const struct model *m, const int8_t *restrict features,
                         uint8_t *restrict padded)
{
    const size_t border = m->kernel - 1, frames = m->frames, mels = m->mels;
    const size_t pitch = mels + border;
    uint8_t *out = padded + border / 2 * (pitch + 1);
    size_t t, f;

    for (t = 0; t < frames; t++, features += mels, out += pitch)
        for (f = 0; f < mels; f++)
            out[f] = (uint8_t)(features[f] ^ -128);
}

/* Rows of a map that the run before made, too: row t, first <= t < end, is row
 * t + shift of then. */
struct kept {
    size_t first, end, shift;
};

/* The last frames that both windows have, by what they hold, so that wrong
 * `hops` do no harm. Those of the run before are in padded1. */
static struct kept kept_features(const struct bifsmn *net,
                                 const int8_t *features, size_t hops)
{
    const struct model *m = &net->model;
    const size_t mels = m->mels, pitch = mels + m->kernel - 1;
    const uint8_t *old = net->padded1 + (m->kernel - 1) / 2 * (pitch + 1);
    struct kept kept = {0, 0, hops};
    size_t t, f;

    if (!net->ran || hops >= m->frames || hops % (m->stride * m->stride))
        return kept;
    kept.first = kept.end = m->frames - hops;
    for (t = kept.end; t-- > 0; kept.first = t)
        for (f = 0; f < mels; f++)
            if (old[(t + hops) * pitch + f] !=
                (uint8_t)(features[t * mels + f] ^ -128))
                return kept;
    return kept;
}

/* The rows that a convolution makes of kept ones, none of the border. */
static struct kept kept_after(const struct model *m, struct kept in)
{
    const size_t border = (m->kernel - 1) / 2, S = m->stride;
    const struct kept none = {0, 0, 0};
    const struct kept out = {(in.first + border + S - 1) / S,
                             (in.end - border - 1) / S + 1, in.shift / S};

    return in.end > border && out.first < out.end ? out : none;
}

/* Moves kept rows of `row` words to where they belong. */
static void keep_rows(struct kept kept, size_t row, uint64_t *map)
{
    memmove(map + kept.first * row, map + (kept.first + kept.shift) * row,
            8 * (kept.end - kept.first) * row);
}

/* features [T0][M0] to net->conv1 [T1][M1][C1], some rows of which are kept. */
static void run_conv1(struct bifsmn *net, const int8_t *features,
                      struct kept kept)
{
    const struct model *m = &net->model;
    const size_t pitch = m->mels + m->kernel - 1;
    const size_t row = m->mels1 * words(m->conv1_channels);
    size_t t, p;

    pad_features(m, features, net->padded1);
    for (p = 0; p < m->planes; p++)
        keep_rows(kept, row, net->conv1 + p * conv1_plane(m));
    for (t = 0; t < m->frames1; t++) {
        if (t >= kept.first && t < kept.end)
            continue;
        net->kernels->i8_conv_bits(
            m->mels1, m->conv1_channels, m->kernel, m->kernel,
            net->padded1 + t * m->stride * pitch, m->stride, pitch,
            net->conv1_weight.data, m->cuts, net->conv1_threshold,
            m->section[C1_D].data, (size_t)conv1_plane(m),
            net->conv1 + t * row);
    }
}

/* net->conv1 into padded2; +1 is around it. */
static void pad_conv1(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t C1 = m->conv1_channels, border = (m->kernel - 1) / 2;
    const size_t in = 64 * words(C1), row = padded2_row(m);
    const struct gather inside = {
        m->frames1, m->mels1, C1, m->mels1 * in, in, 64 * row, border * C1, 0};
    size_t p;

    for (p = 0; p < m->planes; p++)
        bifsmn_gather_bits(inside, net->conv1 + p * conv1_plane(m),
                           net->padded2 + p * padded2_plane(m) + border * row);
}

/* A binary layer: M positions, N outputs, K inputs in planes that follow one
 * another, its weights, and its place in GAIN. */
struct b1_layer {
    size_t M, N, K;
    const uint64_t *x;
    const uint8_t *weight;
    size_t index;
};

/* What an input of each plane counts for. */
struct gains {
    uint32_t plane[2], sum;
};

static struct gains gains(const struct model *m, size_t layer)
{
    const uint8_t *gain = m->section[GAIN].data;
    const struct gains one = {{1, 0}, 1};
    struct gains two;

    if (m->planes == 1) /* there is no such section */
        return one;
    two.plane[0] = gain[2 * layer];
    two.plane[1] = gain[2 * layer + 1];
    two.sum = two.plane[0] + two.plane[1];
    return two;
}

/* Weighted counts of a matrix product to net->counts. */
static void count(struct bifsmn *net, const struct b1_layer *l,
                  struct gains gain)
{
    net->kernels->b1_gemm_counts(l->M, l->N, l->K, net->model.planes, l->x,
                                 l->weight, gain.plane, net->counts);
}

/* Bit outputs, to planes that follow one another. */
static void run_bits(struct bifsmn *net, struct b1_layer l,
                     enum constants_name cuts, size_t set,
                     const uint8_t *direction, uint64_t *out)
{
    const void *cut = bifsmn_network_constants(net, cuts, set);

    if (net->model.planes > 1) {
        count(net, &l, gains(&net->model, l.index));
        net->kernels->counts_to_bits(l.M, l.N, net->counts, cut, direction,
                                     out);
    } else {
        net->kernels->b1_gemm_bits(l.M, l.N, l.K, l.x, l.weight, cut, direction,
                                   out);
    }
}

/* The slope of a set where there is one, for all channels. */
static float slope(const struct bifsmn *net, enum constants_name slopes,
                   size_t set)
{
    const enum section_name section = net->constants[slopes].section;

    return load_f32(net->model.section[section].data + 4 * set);
}

/* Real outputs onto the stream, and its signs to net->sign. */
static void run_real(struct bifsmn *net, struct b1_layer l,
                     enum constants_name affines, enum constants_name slopes,
                     size_t set)
{
    const struct gains gain = gains(&net->model, l.index);
    const float *affine = bifsmn_network_constants(net, affines, set);

    if (counted(&net->model)) {
        count(net, &l, gain);
        net->kernels->counts_to_stream(
            l.M, l.N, gain.sum * (uint32_t)l.K, net->counts, affine,
            bifsmn_network_constants(net, slopes, set), net->stream);
    } else {
        net->kernels->b1_gemm_real(l.M, l.N, l.K, l.x, l.weight, affine,
                                   slope(net, slopes, set), net->stream,
                                   net->sign);
    }
}

/* Bit planes of the stream, where they are more than its signs. */
static void binarize_stream(struct bifsmn *net, enum constants_name cuts,
                            size_t set, uint64_t *out)
{
    const struct model *m = &net->model;

    if (m->stream_sets > 0)
        net->kernels->stream_to_bits(
            m->frames2, m->channels, m->cuts, net->stream,
            bifsmn_network_constants(net, cuts, set), out);
}

/* Frames of net->conv2 from net->padded2; gathered bits [frames][M2][kernel]
 * [kernel][C1]. */
static void conv2_frames(struct bifsmn *net, size_t first, size_t frames)
{
    const struct model *m = &net->model;
    const size_t C1 = m->conv1_channels, in_row = padded2_row(m);
    const size_t K = m->kernel * m->kernel * C1;
    const size_t out_row = m->mels2 * words(m->conv2_channels);
    const struct gather patches = {m->mels2, m->kernel, m->kernel * C1,
                                   m->stride * C1, 64 * in_row, 64 * words(K),
                                   0, 1};
    const struct b1_layer layer = {frames * m->mels2, m->conv2_channels, K,
                                   net->gathered, net->conv2_weight.data, 0};
    /* Two planes of some frames do not follow one another in the map. */
    const int direct = m->planes == 1 || frames == m->frames2;
    uint64_t *out = direct ? net->conv2 + first * out_row : net->conv2_some;
    uint64_t *row = net->gathered;
    size_t t, p;

    for (p = 0; p < m->planes; p++)
        for (t = first; t < first + frames; t++, row += m->mels2 * words(K))
            bifsmn_gather_rows(patches,
                               net->padded2 + p * padded2_plane(m) +
                                   t * m->stride * in_row,
                               row);
    run_bits(net, layer, CONV2_CUTS, 0, m->section[C2_D].data, out);
    for (p = 0; p < m->planes && !direct; p++)
        memcpy(net->conv2 + p * conv2_plane(m) + first * out_row,
               out + p * frames * out_row, 8 * frames * out_row);
}

/* net->conv1 to net->conv2 [T2][M2][C2], some rows of which are kept; as many
 * at once as are not, or one where memory is dear. */
static void run_conv2(struct bifsmn *net, struct kept kept)
{
    const struct model *m = &net->model;
    const size_t row = m->mels2 * words(m->conv2_channels);
    size_t t = 0, p, end, frames;

    pad_conv1(net);
    for (p = 0; p < m->planes; p++)
        keep_rows(kept, row, net->conv2 + p * conv2_plane(m));
    for (; t < m->frames2; t += frames) {
        if (t == kept.first && t < kept.end) {
            frames = kept.end - t;
            continue;
        }
        end = t < kept.first ? kept.first : m->frames2;
        frames = net->unpacked ? end - t : 1;
        conv2_frames(net, t, frames);
    }
}

/* net->conv2 to stream and sign [T2][C]; gathered bits [T2][M2][C2]. */
static void run_fc(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t C2 = m->conv2_channels, K = m->mels2 * C2;
    const size_t in = 64 * words(C2);
    const struct gather rows = {m->frames2, m->mels2, C2, m->mels2 * in, in,
                                64 * words(K), 0, 1};
    const struct b1_layer layer = {m->frames2, m->channels, K, net->gathered,
                                   net->fc_weight.data, 1};
    size_t p;

    for (p = 0; p < m->planes; p++)
        bifsmn_gather_rows(rows, net->conv2 + p * conv2_plane(m),
                           net->gathered + p * m->frames2 * words(K));
    memset(net->stream, 0, 4 * stream_size(net));
    run_real(net, layer, FC_AFFINES, FC_SLOPES, 0);
}

/* net->sign onto the stream, and its signs to net->sign2. */
static void run_memory(struct bifsmn *net, size_t layer, size_t set)
{
    const struct model *m = &net->model;
    const size_t T = m->frames2, C = m->channels;
    const uint8_t *weight =
        m->section[ME_W].data + layer * m->taps * 8 * words(C);
    const float *affine = bifsmn_network_constants(net, MEMORY_AFFINES, set);
    const struct gains gain = gains(m, 2 + 3 * layer);

    if (!counted(m)) {
        net->kernels->b1_memory_real(
            T, C, m->taps, m->left, m->dilation, net->sign, weight, affine,
            slope(net, MEMORY_SLOPES, set), net->stream, net->sign2);
        return;
    }
    net->kernels->b1_memory_counts(T, C, m->taps, m->left, m->dilation,
                                   m->planes, net->sign, weight, gain.plane,
                                   net->counts);
    net->kernels->counts_to_stream(
        T, C, gain.sum * (uint32_t)m->taps, net->counts, affine,
        bifsmn_network_constants(net, MEMORY_SLOPES, set), net->stream);
}

/* The sets of constants of one layer. */
struct layer_sets {
    size_t stage[STAGES], stream;
};

/* One layer: stream and sign to themselves. */
static void run_layer(struct bifsmn *net, size_t layer, size_t k,
                      const struct layer_sets *set)
{
    const struct model *m = &net->model;
    const size_t T = m->frames2, C = m->channels, E = m->expansion;
    const size_t row_e = 8 * words(E); /* bytes */
    const struct b1_layer p1 = {
        T, E, C, net->sign2,
        net->p1_weight.data + layer * net->p1_weight.size, 3 + 3 * layer};
    const struct b1_layer p2 = {
        T, C, E, net->hidden,
        net->p2_weight.data + layer * net->p2_weight.size, 4 + 3 * layer};
    const size_t p1_set = set->stage[POINTWISE1];

    binarize_stream(net, MEMORY_CUTS, set->stream, net->sign);
    run_memory(net, layer, set->stage[MEMORY]);
    trace_stream(net, "memory", k);

    binarize_stream(net, POINTWISE1_CUTS, set->stream, net->sign2);
    run_bits(net, p1, HIDDEN_CUTS, p1_set,
             m->section[P1_D].data + p1_set * row_e, net->hidden);
    bifsmn_network_trace(net, "pointwise1", k, net->hidden,
                         m->planes * T * row_e);

    run_real(net, p2, POINTWISE2_AFFINES, POINTWISE2_SLOPES,
             set->stage[POINTWISE2]);
    trace_stream(net, "pointwise2", k);
}

/* stream to scores [classes]; index: of the depth. */
static void run_head(struct bifsmn *net, size_t index, float *scores)
{
    const struct model *m = &net->model;
    const uint8_t *scale = m->section[HD_A].data;
    const uint8_t *bias = m->rprelu ? m->section[HD_B].data + 4 * index *
                                                                  m->classes
                                    : scale + 4 * m->classes;
    size_t i;

    if (net->unpacked)
        net->kernels->head(m->classes, stream_size(net), net->stream,
                           net->head_weight, scores);
    else
        for (i = 0; i < m->classes; i++) {
            float *row = (float *)net->gathered;

            bifsmn_network_head_row(net, i, row);
            net->kernels->head(1, stream_size(net), net->stream, row,
                               &scores[i]);
        }
    for (i = 0; i < m->classes; i++) {
        float scaled = scores[i] * load_f32(scale + 4 * i);

        scores[i] = scaled + load_f32(bias + 4 * i);
    }
}

void bifsmn_network_run(struct bifsmn *net, const int8_t *features,
                        size_t hops, size_t index, float *scores)
{
    const struct model *m = &net->model;
    const struct kept kept1 =
        kept_after(m, kept_features(net, features, hops));
    const size_t depth = (size_t)net->depth[index];
    size_t before = 0, k; /* layers of the depths listed before */
    int stage;

    for (k = 0; k < index; k++)
        before += (size_t)net->depth[k];

    net->ran = 0; /* a trace may leave in the middle */
    run_conv1(net, features, kept1);
    bifsmn_network_trace(net, "conv1", 0, net->conv1,
                         (size_t)(8 * m->planes * conv1_plane(m)));
    run_conv2(net, kept_after(m, kept1));
    net->ran = 1;
    bifsmn_network_trace(net, "conv2", 0, net->conv2,
                         (size_t)(8 * m->planes * conv2_plane(m)));
    run_fc(net);
    trace_stream(net, "fc", 0);
    for (k = 0; k < depth; k++) {
        const size_t layer = (k + 1) * m->layers / depth - 1;
        struct layer_sets set;

        for (stage = 0; stage < STAGES; stage++)
            set.stage[stage] = m->flags >> stage & 1 ? before + k : layer;
        set.stream = m->rprelu ? before + k : layer;
        run_layer(net, layer, k, &set);
    }
    run_head(net, index, scores);
    bifsmn_network_trace(net, "scores", 0, scores, 4 * m->classes);
}
