/* network.c: the stages of docs/format.md in order, each one kernel call.
 *
 * The first convolution runs on the features as they lie, with zeros put
 * beside them. The second is gathered: the inputs under the kernel are copied
 * into one row for each output position, and the rest is a matrix product. */

#include "network.h"

#include <string.h>

#include "bytes.h"

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Places of a map that the kernels of n outputs cover. */
static size_t covered(const struct model *m, size_t n)
{
    return (n - 1) * m->stride + m->kernel;
}

/* Places of a map before the first input. */
static size_t border(const struct model *m)
{
    return (m->kernel - 1) / 2;
}

/* Channels that fill whole bytes of a row of bits in memory: then positions
 * are copied as bytes, else bit by bit. */
static int fills_bytes(size_t channels)
{
    const uint16_t one = 1;

    return channels % 8 == 0 && *(const uint8_t *)&one == 1;
}

enum { COPY = 16 }; /* bytes that are copied at once, and may be too many */

static uint64_t map2_bytes(const struct model *m)
{
    return (uint64_t)covered(m, m->frames2) * covered(m, m->mels2) *
               (m->conv1_channels / 8) + COPY;
}

void bifsmn_network_place(struct bifsmn *net, struct arena *arena)
{
    const struct model *m = &net->model;
    const size_t area = m->kernel * m->kernel;
    const size_t conv1_padded = round_up(m->conv1_channels, CONV1_CHANNELS);
    const uint64_t affine = 2 * (uint64_t)m->channels;
    const uint64_t stream =
        (uint64_t)round_up(m->frames2, LONGEST_TILE) * m->channels;
    /* The most of what is gathered: conv2, fc, or the stream for a trace. */
    const uint64_t conv2 = (uint64_t)m->frames2 * m->mels2 *
                           words(area * m->conv1_channels) * 8;
    const uint64_t fc =
        (uint64_t)m->frames2 * words(m->mels2 * m->conv2_channels) * 8;
    const uint64_t most = conv2 > fc ? conv2 : fc;

    net->depth = arena_take(arena, m->depths, sizeof *net->depth);
    net->conv1_weight = arena_take(arena, conv1_padded * area, 2);
    net->conv1_weight4 =
        arena_take(arena, conv1_padded * m->kernel, round_up(m->kernel, 4));
    net->conv1_threshold = arena_take(arena, conv1_padded, 4);
    net->conv2_threshold = arena_take(arena, m->conv2_channels, 2);
    net->fc_affine = arena_take(arena, affine, 4);
    net->memory_affine = arena_take(arena, m->sets[MEMORY] * affine, 4);
    net->p1_threshold = arena_take(
        arena, (uint64_t)m->sets[POINTWISE1] * m->expansion, 2);
    net->p2_affine = arena_take(arena, m->sets[POINTWISE2] * affine, 4);
    net->head_weight = arena_take(arena, m->classes * stream, 4);

    net->features = arena_take(arena, m->frames * m->mels, 1);
    net->map1 = arena_take(arena,
                           (uint64_t)m->frames * covered(m, m->mels1) +
                               3 * (m->stride + 1),
                           2);
    net->conv1 = arena_take(
        arena, (uint64_t)m->frames1 * m->mels1, 8 * words(m->conv1_channels));
    net->map2 = arena_take(
        arena, fills_bytes(m->conv1_channels) ? map2_bytes(m) : 0, 1);
    net->conv2 = arena_take(
        arena, (uint64_t)m->frames2 * m->mels2, 8 * words(m->conv2_channels));
    net->gathered =
        arena_take(arena, (most > 4 * stream ? most : 4 * stream) + COPY, 1);
    net->stream = arena_take(arena, stream, 4);
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

/* Where the stream holds channel c at position t. */
static size_t stream_index(const struct bifsmn *net, size_t t, size_t c)
{
    const size_t tile = net->kernels->tile;

    return (t / tile * net->model.channels + c) * tile + t % tile;
}

/* Values of the stream, with those that fill the last tile. */
static size_t stream_size(const struct bifsmn *net)
{
    return round_up(net->model.frames2, net->kernels->tile) *
           net->model.channels;
}

/* Sums of conv1 are within kernel * kernel * 128 * 128 < 2^30: thresholds
 * beyond it are all alike, and a kernel may subtract one from a sum. */
static int32_t clamp_threshold(int32_t threshold)
{
    const int32_t most = 1 << 30;

    return threshold < -most ? -most : threshold > most ? most : threshold;
}

/* [C1][kernel][kernel] in the file. */
static void fill_conv1(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    const size_t area = m->kernel * m->kernel;
    const size_t padded = round_up(m->conv1_channels, CONV1_CHANNELS);
    const size_t fours = round_up(m->kernel, 4) / 4;
    size_t n, k;

    memset(net->conv1_weight, 0, 2 * area * padded);
    memset(net->conv1_weight4, 0, m->kernel * fours * 4 * padded);
    for (n = 0; n < padded; n++)
        net->conv1_threshold[n] = 1;
    for (n = 0; n < m->conv1_channels; n++) {
        net->conv1_threshold[n] =
            clamp_threshold(load_i32(s[C1_T].data + 4 * n));
        for (k = 0; k < area; k++) {
            const int8_t w = (int8_t)s[C1_W].data[n * area + k];
            const size_t row = k / m->kernel, column = k % m->kernel;
            const size_t four = row * fours + column / 4;

            net->conv1_weight[k * padded + n] = w;
            net->conv1_weight4[(four * padded + n) * 4 + column % 4] = w;
        }
    }
}

/* [classes][T2][C] in the file. */
static void fill_head(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const struct section *s = &m->section[HD_W];
    const size_t K = m->frames2 * m->channels;
    float *out = net->head_weight;
    size_t i, t, c;

    memset(out, 0, 4 * m->classes * stream_size(net));
    for (i = 0; i < m->classes; i++, out += stream_size(net))
        for (t = 0; t < m->frames2; t++)
            for (c = 0; c < m->channels; c++) {
                const size_t k = t * m->channels + c;
                const uint8_t pair = s->data[i * ((K + 1) / 2) + k / 2];
                const int nibble = (k % 2 ? pair >> 4 : pair) & 15;

                out[stream_index(net, t, c)] =
                    s->dtype == I8 ? (int8_t)s->data[i * K + k]
                                   : (float)((nibble ^ 8) - 8);
            }
}

void bifsmn_network_fill(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    size_t i;

    for (i = 0; i < m->depths; i++)
        net->depth[i] = (int)bifsmn_model_depth(m, i);
    fill_conv1(net);
    unpack_thresholds(&s[C2_T], net->conv2_threshold);
    unpack_floats(&s[FC_A], net->fc_affine);
    unpack_floats(&s[ME_A], net->memory_affine);
    unpack_thresholds(&s[P1_T], net->p1_threshold);
    unpack_floats(&s[P2_A], net->p2_affine);
    fill_head(net);

    /* What lies around the maps; runs write only inside. */
    memset(net->map1, 0, 2 * m->frames * covered(m, m->mels1));
    if (fills_bytes(m->conv1_channels))
        memset(net->map2, 0xff, (size_t)map2_bytes(m));
}

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
    float *out = net->gathered;
    size_t t, c;

    if (!net->trace)
        return;
    for (t = 0; t < T; t++)
        for (c = 0; c < C; c++)
            *out++ = net->stream[stream_index(net, t, c)];
    bifsmn_network_trace(net, stage, k, net->gathered, 4 * T * C);
}

/* features [T0][M0] to net->conv1 [T1][M1][C1], by way of net->map1. */
static void run_conv1(struct bifsmn *net, const int8_t *features)
{
    const struct model *m = &net->model;
    const size_t padded = round_up(m->conv1_channels, CONV1_CHANNELS);
    const size_t pitch = covered(m, m->mels1), before = border(m);
    const size_t inside = min(m->mels, pitch - before);
    const size_t row = m->mels1 * words(m->conv1_channels);
    size_t t, f;

    for (t = 0; t < m->frames; t++)
        for (f = 0; f < inside; f++)
            net->map1[t * pitch + before + f] = features[t * m->mels + f];
    for (t = 0; t < m->frames1; t++) {
        /* Rows of the kernel before the first frame and after the last one
         * would add zeros. */
        const size_t at = t * m->stride;
        const size_t first = at < before ? before - at : 0;
        const size_t end = min(m->kernel, m->frames + before - at);

        net->kernels->i16_conv_bits(
            m->mels1, m->conv1_channels, end - first, m->kernel, m->stride,
            pitch, net->map1 + (at + first - before) * pitch,
            net->conv1_weight + first * m->kernel * padded,
            net->conv1_weight4 + first * round_up(m->kernel, 4) * padded,
            net->conv1_threshold, m->section[C1_D].data, net->conv1 + t * row);
    }
}

/* Positions of `channels` bits each, in rows of whole words, to ones without
 * padding, where channels fill bytes. */
static void pack(uint8_t *out, const uint64_t *bits, size_t positions,
                 size_t channels)
{
    const size_t bytes = channels / 8, row = words(channels);

    for (; positions > 0; positions--, out += bytes, bits += row) {
        if (bytes == 2) /* as usual: no call of memcpy */
            memcpy(out, bits, 2);
        else if (bytes == 4)
            memcpy(out, bits, 4);
        else
            memcpy(out, bits, bytes);
    }
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

/* net->conv1 to net->gathered [T2][M2][kernel][kernel][C1], +1 outside the
 * map, by way of net->map2: each row of the kernel is one run of bytes. */
static void gather_bytes(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t channels = m->conv1_channels, bytes = channels / 8;
    const size_t pitch = covered(m, m->mels2) * bytes;
    const size_t before = border(m), rows = m->kernel, run = rows * bytes;
    const size_t inside = min(m->mels1, covered(m, m->mels2) - before);
    const size_t frames = min(m->frames1, covered(m, m->frames2) - before);
    const size_t padding = 8 * words(8 * rows * run) - rows * run;
    uint8_t *out = net->gathered;
    size_t t, f, i, b;

    for (t = 0; t < frames; t++)
        pack(net->map2 + (t + before) * pitch + before * bytes,
             net->conv1 + t * m->mels1 * words(channels), inside, channels);
    for (t = 0; t < m->frames2; t++)
        for (f = 0; f < m->mels2; f++) {
            const uint8_t *in =
                net->map2 + (t * pitch + f * bytes) * m->stride;

            for (i = rows; i > 0; i--, in += pitch, out += run) {
                memcpy(out, in, COPY);
                for (b = COPY; b < run; b += COPY)
                    memcpy(out + b, in + b, COPY);
            }
            memset(out, 0, 8); /* padding is less */
            out += padding;
        }
}

/* The same for any number of channels. */
static void gather_bits(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const size_t K = m->kernel * m->kernel * m->conv1_channels;
    struct bit_row patch = {net->gathered, 0};
    size_t t, f, i, j;

    memset(net->gathered, 0, 8 * m->frames2 * m->mels2 * words(K));
    for (t = 0; t < m->frames2; t++)
        for (f = 0; f < m->mels2; f++, patch.words += words(K), patch.size = 0)
            for (i = 0; i < m->kernel; i++)
                for (j = 0; j < m->kernel; j++) {
                    /* Before the map these wrap, to beyond any map. */
                    const size_t frame = t * m->stride + i - border(m);
                    const size_t mel = f * m->stride + j - border(m);
                    const int inside = frame < m->frames1 && mel < m->mels1;
                    const size_t from = (frame * m->mels1 + mel) *
                                        words(m->conv1_channels);

                    append(&patch, inside ? net->conv1 + from : NULL,
                           m->conv1_channels);
                }
}

/* net->conv1 to net->conv2 [T2][M2][C2]. */
static void run_conv2(struct bifsmn *net)
{
    const struct model *m = &net->model;

    if (fills_bytes(m->conv1_channels))
        gather_bytes(net);
    else
        gather_bits(net);
    net->kernels->b1_gemm_bits(
        m->frames2 * m->mels2, m->conv2_channels,
        m->kernel * m->kernel * m->conv1_channels, net->gathered,
        m->section[C2_W].data, net->conv2_threshold, m->section[C2_D].data,
        net->conv2);
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
        if (fills_bytes(m->conv2_channels)) {
            pack((uint8_t *)row.words, bits, m->mels2, m->conv2_channels);
            bits += m->mels2 * words(m->conv2_channels);
        } else {
            for (f = 0; f < m->mels2; f++, bits += words(m->conv2_channels))
                append(&row, bits, m->conv2_channels);
        }
    memset(net->stream, 0, 4 * stream_size(net));
    net->kernels->b1_gemm_real(m->frames2, m->channels, K, net->gathered,
                               m->section[FC_W].data, net->fc_affine,
                               load_f32(m->section[FC_S].data), net->stream,
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
    trace_stream(net, "memory", k);

    kernels->b1_gemm_bits(T, E, C, net->sign2, s[P1_W].data + layer * E * row_c,
                          net->p1_threshold + set[POINTWISE1] * E,
                          s[P1_D].data + set[POINTWISE1] * row_e, net->hidden);
    bifsmn_network_trace(net, "pointwise1", k, net->hidden, T * row_e);

    kernels->b1_gemm_real(T, C, E, net->hidden,
                          s[P2_W].data + layer * C * row_e,
                          net->p2_affine + set[POINTWISE2] * 2 * C,
                          load_f32(s[P2_S].data + 4 * set[POINTWISE2]),
                          net->stream, net->sign);
    trace_stream(net, "pointwise2", k);
}

/* stream to scores [classes]. */
static void run_head(struct bifsmn *net, float *scores)
{
    const struct model *m = &net->model;
    const uint8_t *affine = m->section[HD_A].data;
    size_t i;

    net->kernels->f32_gemv(m->classes, stream_size(net), net->stream,
                           net->head_weight, scores);
    for (i = 0; i < m->classes; i++) {
        float scaled = scores[i] * load_f32(affine + 4 * i);

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
    trace_stream(net, "fc", 0);
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
