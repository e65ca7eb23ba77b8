/* prepare.c: what the network needs before it runs: a place for everything in
 * the workspace, constants and weights of the file as kernels take them. */

#include "network.h"

#include <string.h>

#include "bytes.h"
#include "gather.h"

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The most that a table of this machine asks of the workspace. */
struct demands {
    int i8_packs, b1_packs, vectors;
    size_t tile;
};

static struct demands demands(void)
{
    struct demands most = {0, 0, 0, 1};
    const struct bifsmn_kernels *kernels;
    size_t i;

    for (i = 0; (kernels = bifsmn_kernels_at(i)) != NULL; i++) {
        most.i8_packs |= kernels->i8_pack != NULL;
        most.b1_packs |= kernels->b1_pack != NULL;
        most.vectors |= kernels != &bifsmn_kernels_scalar; /* any but it */
        most.tile = max_size(most.tile, kernels->tile);
    }
    return most;
}

/* What constants there are, and room for all of them or for one set. */
static void place_constants(struct bifsmn *net, struct arena *arena)
{
    const struct model *m = &net->model;
    const size_t C = m->channels, C2 = m->conv2_channels, E = m->expansion;
    const size_t stream = m->stream_columns;
    const size_t sum = m->planes > 1 ? 4 : 2; /* bytes: two planes weigh more */
    const size_t some = counted(m) ? 1 : 0;   /* slopes: else there is one */
    const size_t slope = m->rprelu ? C : 1;
    const struct constants all[CONSTANTS] = {
        /* kind, section, width, sets, rows, columns, N; not yet size, data */
        {CUTS, C2_T, sum, 1, m->cuts, C2, C2, 0, NULL},
        {CUTS, P1_T, sum, m->sets[POINTWISE1], m->cuts, E, E, 0, NULL},
        {CUTS, ME_X, 4, m->stream_sets, m->cuts, stream, C, 0, NULL},
        {CUTS, P1_X, 4, m->stream_sets, m->cuts, stream, C, 0, NULL},
        {AFFINES, FC_A, 4, 1, 2, C, C, 0, NULL},
        {AFFINES, ME_A, 4, m->sets[MEMORY], 2, C, C, 0, NULL},
        {AFFINES, P2_A, 4, m->sets[POINTWISE2], 2, C, C, 0, NULL},
        {SLOPES, FC_S, 4, some, 1, slope, C, 0, NULL},
        {SLOPES, ME_S, 4, some * m->sets[MEMORY], 1, slope, C, 0, NULL},
        {SLOPES, P2_S, 4, some * m->sets[POINTWISE2], 1, slope, C, 0, NULL},
    };
    size_t most[KINDS] = {0};
    void *room[KINDS];
    int i;

    memcpy(net->constants, all, sizeof all);
    for (i = 0; i < CONSTANTS; i++) {
        struct constants *k = &net->constants[i];

        k->size = k->rows * k->N * k->width;
        if (net->unpacked)
            k->data = arena_take(arena, k->sets, k->size);
        else if (k->sets > 0)
            most[k->kind] = max_size(most[k->kind], k->size);
    }
    for (i = 0; i < KINDS; i++)
        room[i] = arena_take(arena, 1, most[i]);
    for (i = 0; i < CONSTANTS && !net->unpacked; i++)
        net->constants[i].data = room[net->constants[i].kind];
}

void bifsmn_network_place(struct bifsmn *net, struct arena *arena)
{
    const struct model *m = &net->model;
    const size_t area = m->kernel * m->kernel, border = m->kernel - 1;
    const uint64_t row_c = words(m->channels);
    const struct demands most = demands();
    const uint64_t stream =
        (uint64_t)round_up(m->frames2, most.tile) * m->channels;
    /* Positions that conv2 makes at once. */
    const uint64_t positions =
        (uint64_t)m->mels2 * (most.vectors ? m->frames2 : 1);
    const uint64_t layer = (uint64_t)round_up(m->frames2, most.tile) *
                           max_size(m->channels, m->expansion);
    const uint64_t conv2_counts =
        (positions + most.tile - 1) / most.tile * most.tile * m->conv2_channels;
    /* What is gathered: by conv2 or fc, for a trace or a transform, or one
     * class of the head. Words. */
    const uint64_t conv2 = positions * words(area * m->conv1_channels);
    const uint64_t fc =
        (uint64_t)m->frames2 * words(m->mels2 * m->conv2_channels);
    const uint64_t inputs = m->planes * (conv2 > fc ? conv2 : fc);
    const uint64_t outputs = stream / 2 + 1 > m->n_fft ? stream / 2 + 1
                                                       : m->n_fft;
    const uint64_t gathered = inputs > outputs ? inputs : outputs;

    net->unpacked = most.vectors;
    net->depth = arena_take(arena, m->depths, sizeof *net->depth);
    net->conv1_threshold = arena_take(arena, m->cuts * m->conv1_channels, 4);
    place_constants(net, arena);
    if (net->unpacked)
        net->head_weight = arena_take(arena, m->classes * stream, 4);
    if (counted(m))
        net->counts = arena_take(
            arena, conv2_counts > layer ? conv2_counts : layer, 4);

    if (most.i8_packs)
        net->conv1_weight.packed = arena_take(
            arena, 1, i8_packed_size(m->conv1_channels, m->kernel, m->kernel));
    if (most.b1_packs) {
        const size_t C = m->channels, E = m->expansion;

        net->conv2_weight.packed = arena_take(
            arena, 1,
            b1_packed_size(m->conv2_channels, area * m->conv1_channels));
        net->fc_weight.packed = arena_take(
            arena, 1, b1_packed_size(C, m->mels2 * m->conv2_channels));
        net->p1_weight.packed =
            arena_take(arena, m->layers, b1_packed_size(E, C));
        net->p2_weight.packed =
            arena_take(arena, m->layers, b1_packed_size(C, E));
    }

    net->features = arena_take(arena, m->frames * m->mels, 1);
    net->padded1 = arena_take(
        arena, (m->frames + border) * (m->mels + border) + x_slack(m->stride),
        1);
    net->conv1 =
        arena_take(arena, m->planes * conv1_plane(m) + GATHER_SLACK / 8, 8);
    net->padded2 =
        arena_take(arena, m->planes * padded2_plane(m) + GATHER_SLACK / 8, 8);
    net->conv2 =
        arena_take(arena, m->planes * conv2_plane(m) + GATHER_SLACK / 8, 8);
    if (m->planes > 1)
        net->conv2_some = arena_take(
            arena, m->planes * positions,
            8 * (uint64_t)words(m->conv2_channels));
    net->gathered = arena_take(arena, gathered + GATHER_SLACK / 8, 8);
    net->stream = arena_take(arena, stream, 4);
    net->sign = arena_take(arena, m->planes * m->frames2, 8 * row_c);
    net->sign2 = arena_take(arena, m->planes * m->frames2, 8 * row_c);
    net->hidden = arena_take(arena, m->planes * m->frames2,
                             8 * (uint64_t)words(m->expansion));
}

/* `count` numbers of a section from number `first` on, to floats or to whole
 * numbers of 16 or 32 bits. A cut beyond any sum stays there, and fits a signed
 * number. */
static void unpack(const struct section *s, size_t first, size_t count,
                   size_t width, void *out)
{
    uint16_t *thresholds = out;
    uint32_t *cuts = out;
    float *reals = out;
    size_t i;

    if (s->dtype == F32)
        for (i = 0; i < count; i++)
            reals[i] = load_f32(s->data + 4 * (first + i));
    else if (s->dtype == F16)
        for (i = 0; i < count; i++)
            reals[i] = load_f16(s->data + 2 * (first + i));
    else if (s->dtype == U32)
        for (i = 0; i < count; i++)
            cuts[i] = (uint32_t)min_size(load_u32(s->data + 4 * (first + i)),
                                         INT32_MAX);
    else if (s->dtype == U8)
        for (i = 0; i < count; i++)
            thresholds[i] = s->data[first + i];
    else if (width == 2)
        for (i = 0; i < count; i++)
            thresholds[i] = load_u16(s->data + 2 * (first + i));
    else
        for (i = 0; i < count; i++)
            cuts[i] = load_u16(s->data + 2 * (first + i));
}

/* One set to out [rows][N]: where there is one column, it is that of all N. */
static void unpack_set(const struct bifsmn *net, const struct constants *k,
                       size_t set, void *out)
{
    float *spread = out; /* cuts and slopes of the stream are floats */
    size_t row, n;

    unpack(&net->model.section[k->section], set * k->rows * k->columns,
           k->rows * k->columns, k->width, out);
    if (k->columns == k->N)
        return;
    for (row = k->rows; row-- > 0;) /* backwards: in place */
        for (n = k->N; n-- > 0;)
            spread[row * k->N + n] = spread[row];
}

const void *bifsmn_network_constants(const struct bifsmn *net,
                                     enum constants_name name, size_t set)
{
    const struct constants *k = &net->constants[name];

    if (net->unpacked)
        return (uint8_t *)k->data + set * k->size;
    unpack_set(net, k, set, k->data);
    return k->data;
}

/* Inputs come to conv1 as x + 128, unsigned: what that adds to the sum of a
 * channel is added to its threshold too. One beyond any sum stays there. */
static int32_t unsigned_threshold(int32_t threshold, size_t K, const uint8_t *w)
{
    const int32_t most = 128 * 128 * (int32_t)K + 1;
    int32_t sum = 0;
    size_t k;

    for (k = 0; k < K; k++)
        sum += (int8_t)w[k];
    return 128 * sum + (threshold < -most  ? -most
                        : threshold > most ? most
                                           : threshold);
}

void bifsmn_network_fill(struct bifsmn *net)
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    const size_t area = m->kernel * m->kernel;
    const struct constants *k = net->constants;
    size_t i, set;

    memset(net->padded1, 128,
           (m->frames + m->kernel - 1) * (m->mels + m->kernel - 1));
    memset(net->padded2, 255, (size_t)(8 * m->planes * padded2_plane(m)));
    for (i = 0; i < m->depths; i++)
        net->depth[i] = (int)bifsmn_model_depth(m, i);
    for (i = 0; i < m->cuts * m->conv1_channels; i++)
        net->conv1_threshold[i] = unsigned_threshold(
            load_i32(s[C1_T].data + 4 * i), area,
            s[C1_W].data + i % m->conv1_channels * area);
    for (i = 0; i < CONSTANTS && net->unpacked; i++, k++)
        for (set = 0; set < k->sets; set++)
            unpack_set(net, k, set, (uint8_t *)k->data + set * k->size);
}

void bifsmn_network_head_row(const struct bifsmn *net, size_t class,
                             float *out)
{
    const struct model *m = &net->model;
    const struct section *s = &m->section[HD_W];
    const size_t K = m->frames2 * m->channels;
    const size_t tile = net->kernels->tile;
    size_t k = 0, t, c;

    memset(out, 0, 4 * stream_size(net));
    for (t = 0; t < m->frames2; t++) {
        float *to = &out[stream_index(net, t, 0)];

        for (c = 0; c < m->channels; c++, k++, to += tile) {
            if (s->dtype == I4) {
                const uint8_t pair = s->data[class * ((K + 1) / 2) + k / 2];
                const int nibble = (k % 2 ? pair >> 4 : pair) & 15;

                *to = (float)((nibble ^ 8) - 8);
            } else {
                *to = (int8_t)s->data[class * K + k];
            }
        }
    }
}

/* The weights of `layers` layers, N outputs of K bits each. */
static void use_b1(struct weights *w, const struct bifsmn_kernels *kernels,
                   const struct section *s, size_t layers, size_t N, size_t K)
{
    size_t i;

    w->data = s->data;
    w->size = 8 * N * words(K);
    if (!kernels->b1_pack)
        return;
    w->data = w->packed;
    w->size = (size_t)b1_packed_size(N, K);
    for (i = 0; i < layers; i++)
        kernels->b1_pack(N, K, s->data + i * 8 * N * words(K),
                         w->packed + i * w->size);
}

void bifsmn_network_use(struct bifsmn *net,
                        const struct bifsmn_kernels *kernels)
{
    const struct model *m = &net->model;
    const struct section *s = m->section;
    const size_t area = m->kernel * m->kernel;
    size_t i;

    net->kernels = kernels;
    net->conv1_weight.data = s[C1_W].data;
    if (kernels->i8_pack) {
        net->conv1_weight.data = net->conv1_weight.packed;
        kernels->i8_pack(m->conv1_channels, m->kernel, m->kernel, s[C1_W].data,
                         net->conv1_weight.packed);
    }
    use_b1(&net->conv2_weight, kernels, &s[C2_W], 1, m->conv2_channels,
           area * m->conv1_channels);
    use_b1(&net->fc_weight, kernels, &s[FC_W], 1, m->channels,
           m->mels2 * m->conv2_channels);
    use_b1(&net->p1_weight, kernels, &s[P1_W], m->layers, m->expansion,
           m->channels);
    use_b1(&net->p2_weight, kernels, &s[P2_W], m->layers, m->channels,
           m->expansion);
    for (i = 0; i < m->classes && net->unpacked; i++)
        bifsmn_network_head_row(net, i,
                                net->head_weight + i * stream_size(net));
    if (kernels->head_pack)
        kernels->head_pack(m->classes, stream_size(net), net->head_weight);
}
