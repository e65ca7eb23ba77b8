/* network.c: the stages of docs/format.md in order, each one kernel call.
 *
 * Convolutions read a copy of their map that has a border. The second is
 * gathered: the inputs under the kernel are copied into one row for each output
 * position, and the rest is a matrix product. */

#include "network.h"

#include <string.h>

#include "bytes.h"

/* Copies go by so many bytes, and run over what they should read and write by
 * less. */
enum { SLACK = 16 };

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Words in a row of the map with a border that conv2 reads. */
static size_t padded2_row(const struct model *m)
{
    return words((m->mels1 + m->kernel - 1) * m->conv1_channels);
}

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
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

/* Words of one plane of bits; too many, it may be, for a size_t, until the
 * workspace is known to hold them. */
static uint64_t conv1_plane(const struct model *m)
{
    return (uint64_t)m->frames1 * m->mels1 * words(m->conv1_channels);
}

static uint64_t padded2_plane(const struct model *m)
{
    return (uint64_t)(m->frames1 + m->kernel - 1) * padded2_row(m);
}

static uint64_t conv2_plane(const struct model *m)
{
    return (uint64_t)m->frames2 * m->mels2 * words(m->conv2_channels);
}

/* Whether layers count bits first. */
static int counted(const struct model *m)
{
    return m->planes > 1 || m->rprelu;
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
        arena_take(arena, m->planes * conv1_plane(m) + SLACK / 8, 8);
    net->padded2 =
        arena_take(arena, m->planes * padded2_plane(m) + SLACK / 8, 8);
    net->conv2 = arena_take(arena, m->planes * conv2_plane(m) + SLACK / 8, 8);
    if (m->planes > 1)
        net->conv2_some = arena_take(
            arena, m->planes * positions,
            8 * (uint64_t)words(m->conv2_channels));
    net->gathered = arena_take(arena, gathered + SLACK / 8, 8);
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

/* One set, [rows][N]; of its kind, where memory is dear, the only one. */
static const void *constants(const struct bifsmn *net, enum constants_name name,
                             size_t set)
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

/* One class of [classes][T2][C] in the file, as the stream lies; zeros where
 * that has no meaning. */
static void unpack_head(const struct bifsmn *net, size_t class, float *out)
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
        unpack_head(net, i, net->head_weight + i * stream_size(net));
    if (kernels->head_pack)
        kernels->head_pack(m->classes, stream_size(net), net->head_weight);
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
    float *out = (float *)net->gathered;
    size_t t, c;

    if (!net->trace)
        return;
    for (t = 0; t < T; t++)
        for (c = 0; c < C; c++)
            *out++ = net->stream[stream_index(net, t, c)];
    bifsmn_network_trace(net, stage, k, net->gathered, 4 * T * C);
}

/* `count` rows, each of `pieces` that come from places `in_piece` apart and
 * then follow one another from `out_first` on. In bytes, or in bits. */
struct gather {
    size_t count, pieces, size;
    size_t in_step, in_piece;   /* to what the next row reads, the next piece */
    size_t out_step, out_first; /* to the next row; before its first piece */
    int run_over; /* the rest of a row, and 15 bytes after, may be overwritten */
};

/* In bytes, pieces of `size` by copies of `width`; inlined, so that a copy is a
 * load and a store. */
static inline void copy_pieces(struct gather g, size_t size, size_t width,
                               const uint8_t *restrict in,
                               uint8_t *restrict out)
{
    size_t c, p, i;

    out += g.out_first;
    for (c = 0; c < g.count; c++, in += g.in_step, out += g.out_step) {
        const uint8_t *from = in;
        uint8_t *to = out;

        for (p = g.pieces; p >= 2; p -= 2) { /* loops cost as much as copies */
            for (i = 0; i < size; i += width) {
                memcpy(to + i, from + i, width);
                memcpy(to + size + i, from + g.in_piece + i, width);
            }
            from += 2 * g.in_piece;
            to += 2 * size;
        }
        for (i = 0; p > 0 && i < size; i += width)
            memcpy(to + i, from + i, width);
    }
}

/* The width divides the size, or runs over into what the next piece, the next
 * row and whoever asked for it write after. */
static void gather_bytes(struct gather g, const uint8_t *in, uint8_t *out)
{
    if (g.size == 2)
        copy_pieces(g, 2, 2, in, out);
    else if (g.size == 4)
        copy_pieces(g, 4, 4, in, out);
    else if (g.run_over && g.size <= SLACK)
        copy_pieces(g, g.size, SLACK, in, out);
    else if (g.size % 8 == 0)
        copy_pieces(g, g.size, 8, in, out);
    else
        copy_pieces(g, g.size, 1, in, out);
}

/* n bits of `in` from bit `from` on to `out` from bit `at` on. */
static void copy_bits(size_t n, const uint64_t *in, size_t from, uint64_t *out,
                      size_t at)
{
    while (n > 0) { /* up to the end of a word of either */
        const size_t take =
            min_size(n, min_size(64 - from % 64, 64 - at % 64));
        const uint64_t mask = ~(uint64_t)0 >> (64 - take) << at % 64;
        const uint64_t word = in[from / 64] >> from % 64 << at % 64;

        out[at / 64] = (out[at / 64] & ~mask) | (word & mask);
        from += take;
        at += take;
        n -= take;
    }
}

/* Whether byte i of a word holds its bits 8 i to 8 i + 7. */
static int little_endian(void)
{
    const uint64_t one = 1;
    uint8_t first;

    memcpy(&first, &one, 1);
    return first;
}

/* In bits. */
static void gather_bits(struct gather g, const uint64_t *in, uint64_t *out)
{
    size_t c, p;

    if (little_endian() && (g.size | g.in_step | g.in_piece | g.out_step |
                            g.out_first) % 8 == 0) {
        const struct gather bytes = {
            g.count,        g.pieces,       g.size / 8,      g.in_step / 8,
            g.in_piece / 8, g.out_step / 8, g.out_first / 8, g.run_over};

        gather_bytes(bytes, (const uint8_t *)in, (uint8_t *)out);
    } else {
        for (c = 0; c < g.count; c++)
            for (p = 0; p < g.pieces; p++)
                copy_bits(g.size, in, c * g.in_step + p * g.in_piece, out,
                          c * g.out_step + g.out_first + p * g.size);
    }
}

/* Rows of whole words of K bits each, zeros to the end of the last word. */
static void gather_rows(struct gather g, const uint64_t *in, uint64_t *out)
{
    const size_t K = g.pieces * g.size;
    size_t c;

    gather_bits(g, in, out);
    if (K % 64)
        for (c = 1; c <= g.count; c++)
            out[c * words(K) - 1] &= ~(~(uint64_t)0 << K % 64);
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
        gather_bits(inside, net->conv1 + p * conv1_plane(m),
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
    const void *cut = constants(net, cuts, set);

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
    const float *affine = constants(net, affines, set);

    if (counted(&net->model)) {
        count(net, &l, gain);
        net->kernels->counts_to_stream(
            l.M, l.N, gain.sum * (uint32_t)l.K, net->counts, affine,
            constants(net, slopes, set), net->stream);
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
        net->kernels->stream_to_bits(m->frames2, m->channels, m->cuts,
                                     net->stream, constants(net, cuts, set),
                                     out);
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
            gather_rows(patches, net->padded2 + p * padded2_plane(m) +
                                     t * m->stride * in_row, row);
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
        gather_rows(rows, net->conv2 + p * conv2_plane(m),
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
    const float *affine = constants(net, MEMORY_AFFINES, set);
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
        constants(net, MEMORY_SLOPES, set), net->stream);
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

            unpack_head(net, i, row);
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
