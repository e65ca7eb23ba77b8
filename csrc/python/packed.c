/* packed.c: binary layers from float to float, for packed.py.
 *
 * A block of positions at a time: inputs to bits, differing bits of all planes
 * to one count, counts to floats. Nothing is allocated; a block's bits and
 * counts lie in `scratch`, which stays in the cache. */

#include "bifsmn.h"
#include "bytes.h"
#include "kernels.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* One layer; packed.py has the same struct. */
struct bifsmn_packed {
    const struct bifsmn_kernels *kernels; /* set by bifsmn_packed_open */
    size_t inputs, outputs, planes;
    size_t terms;           /* of each sum */
    size_t kernel, stride;  /* of a convolution */
    size_t left, dilation;  /* of a memory, whose taps are terms */
    uint32_t gain[2];       /* of the planes */
    const float *threshold; /* [planes == 2 ? 3 : 1][inputs] */
    const uint8_t *weight;  /* bits [outputs][terms]; memory [terms][outputs] */
    const float *scale, *bias; /* of the sum of ±gain, [outputs] */
};

BIFSMN_API int bifsmn_packed_open(struct bifsmn_packed *p, const char *name,
                                  uint8_t *room);
BIFSMN_API size_t bifsmn_packed_weights(size_t outputs, size_t terms);
BIFSMN_API size_t bifsmn_packed_scratch(const struct bifsmn_packed *p,
                                        size_t mels);
BIFSMN_API void bifsmn_packed_linear(const struct bifsmn_packed *p, size_t M,
                                     const float *x, float *y, void *scratch);
BIFSMN_API void bifsmn_packed_memory(const struct bifsmn_packed *p,
                                     size_t clips, size_t frames,
                                     const float *x, float *y, void *scratch);
BIFSMN_API void bifsmn_packed_conv(const struct bifsmn_packed *p, size_t clips,
                                   size_t frames, size_t mels, const float *x,
                                   float *y, void *scratch);
BIFSMN_API void bifsmn_packed_norm(size_t M, size_t N, size_t inner,
                                   const float *x, const float *constants,
                                   float *y);

/* Bytes of the room that bifsmn_packed_open takes. */
size_t bifsmn_packed_weights(size_t outputs, size_t terms)
{
    return (size_t)b1_packed_size(outputs, terms);
}

/* Takes the kernels of that name, or the best if NULL, and lets them pack the
 * weights of all but a memory into `room`, at a multiple of 64. */
int bifsmn_packed_open(struct bifsmn_packed *p, const char *name,
                       uint8_t *room)
{
    size_t i = 0;

    do
        p->kernels = bifsmn_kernels_at(i++);
    while (p->kernels && name && strcmp(p->kernels->name, name));
    if (!p->kernels)
        return BIFSMN_ERROR_KERNELS;
    if (room && p->kernels->b1_pack) {
        p->kernels->b1_pack(p->outputs, p->terms, p->weight, room);
        p->weight = room;
    }
    return BIFSMN_OK;
}

/* Positions of a block: counts of some 32 kB, whole tiles of any kernel. */
static size_t block_of(const struct bifsmn_packed *p)
{
    const size_t rows = 8192 / p->outputs / 8 * 8;

    return rows < 8 ? 8 : min_size(rows, 64);
}

/* ---- floats to bits ---- */

/* The planes by their thresholds: a bit is the xor of whether the input
 * reaches those from `first` to before `last`. */
struct range {
    size_t first, last;
};

static struct range thresholds_of(const struct bifsmn_packed *p, size_t plane)
{
    const struct range only = {0, 1}, middle = {1, 2}, all = {0, 3};

    return p->planes == 1 ? only : plane == 0 ? middle : all;
}

/* Bit i: whether x[i] >= t[i]. */
static uint32_t reached_16(const float *x, const float *t)
{
#ifdef __SSE2__
    __m128i four[4];
    int i;

    for (i = 0; i < 4; i++)
        four[i] = _mm_castps_si128(
            _mm_cmpge_ps(_mm_loadu_ps(x + 4 * i), _mm_loadu_ps(t + 4 * i)));
    return (uint32_t)_mm_movemask_epi8(
        _mm_packs_epi16(_mm_packs_epi32(four[0], four[1]),
                        _mm_packs_epi32(four[2], four[3])));
#else
    static const uint32_t place[16] = {
        1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
        1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    uint32_t bits = 0;
    int i;

    for (i = 0; i < 16; i++)
        bits |= -(uint32_t)(x[i] >= t[i]) & place[i];
    return bits;
#endif
}

/* Up to 64 of them. */
static uint64_t reached(size_t count, const float *x, const float *t)
{
    uint64_t bits = 0;
    size_t i;

    for (i = 0; i + 16 <= count; i += 16)
        bits |= (uint64_t)reached_16(x + i, t + i) << i;
    for (; i < count; i++)
        bits |= (uint64_t)(x[i] >= t[i]) << i;
    return bits;
}

/* One plane of x [M][inputs]. */
static void pack_rows(const struct bifsmn_packed *p, size_t plane, size_t M,
                      const float *x, uint64_t *bits)
{
    const struct range of = thresholds_of(p, plane);
    const size_t K = p->inputs;
    size_t m, k, t;

    for (m = 0; m < M; m++, x += K)
        for (k = 0; k < K; k += 64) {
            const size_t count = min_size(K - k, 64);
            uint64_t word = 0;

            for (t = of.first; t < of.last; t++)
                word ^= reached(count, x + k, p->threshold + t * K + k);
            *bits++ = word;
        }
}

/* ---- counts to floats ---- */

static int32_t largest_sum(const struct bifsmn_packed *p)
{
    return (int32_t)(p->terms * (p->gain[0] + p->gain[1]));
}

/* Counts lie in the tiles of the kernels. Positions `from` to `from` + M. */
static void real_rows(const struct bifsmn_packed *p, size_t from, size_t M,
                      const uint32_t *restrict d, float *restrict y)
{
    const float *restrict scale = p->scale, *restrict bias = p->bias;
    const size_t N = p->outputs, tile = p->kernels->tile;
    const int32_t all = largest_sum(p);
    size_t m, n;

    for (m = from; m < from + M; m++, y += N) {
        const uint32_t *restrict row = d + m / tile * tile * N + m % tile;

        for (n = 0; n < N; n++)
            y[n] = (float)(all - 2 * (int32_t)row[n * tile]) * scale[n] +
                   bias[n];
    }
}

/* To one plane [positions] of `y` for each output. */
static void real_columns(const struct bifsmn_packed *p, size_t M,
                         const uint32_t *d, size_t positions, float *y)
{
    const size_t N = p->outputs, tile = p->kernels->tile;
    const int32_t all = largest_sum(p);
    size_t m, n, i;

    for (n = 0; n < N; n++, d += tile, y += positions) {
        const float scale = p->scale[n], bias = p->bias[n];

        for (m = 0; m < M; m += tile)
            for (i = 0; i < min_size(tile, M - m); i++)
                y[m + i] = (float)(all - 2 * (int32_t)d[m * N + i]) * scale +
                           bias;
    }
}

/* ---- layers ---- */

/* x [M][inputs], y [M][outputs] */
void bifsmn_packed_linear(const struct bifsmn_packed *p, size_t M,
                          const float *x, float *y, void *scratch)
{
    const size_t K = p->inputs, N = p->outputs, block = block_of(p);
    uint64_t *bits = scratch;
    uint32_t *d = (uint32_t *)(bits + p->planes * block * words(K));
    size_t m, plane;

    for (m = 0; m < M; m += block) {
        const size_t rows = min_size(block, M - m);

        for (plane = 0; plane < p->planes; plane++)
            pack_rows(p, plane, rows, x + m * K,
                      bits + plane * rows * words(K));
        p->kernels->b1_gemm_counts(rows, N, K, p->planes, bits, p->weight,
                                   p->gain, d);
        real_rows(p, 0, rows, d, y + m * N);
    }
}

/* Frames around a block of a memory, and a block that is worth them. */
static size_t memory_right(const struct bifsmn_packed *p)
{
    return (p->terms - 1 - p->left) * p->dilation;
}

static size_t memory_block(const struct bifsmn_packed *p)
{
    return 64 + p->left * p->dilation + memory_right(p);
}

/* Whole tiles. */
static size_t memory_window(const struct bifsmn_packed *p)
{
    const size_t most = memory_block(p) + p->left * p->dilation;

    return (most + memory_right(p) + 7) / 8 * 8;
}

/* x, y [clips][frames][channels] */
void bifsmn_packed_memory(const struct bifsmn_packed *p, size_t clips,
                          size_t frames, const float *x, float *y,
                          void *scratch)
{
    const size_t N = p->outputs, left = p->left * p->dilation;
    const size_t right = memory_right(p), block = memory_block(p);
    uint64_t *bits = scratch;
    uint32_t *d =
        (uint32_t *)(bits + p->planes * memory_window(p) * words(N));
    size_t clip, m, plane;

    for (clip = 0; clip < clips; clip++, x += frames * N, y += frames * N)
        for (m = 0; m < frames; m += block) {
            const size_t rows = min_size(block, frames - m);
            const size_t before = min_size(left, m);
            const size_t window =
                before + rows + min_size(right, frames - m - rows);

            for (plane = 0; plane < p->planes; plane++)
                pack_rows(p, plane, window, x + (m - before) * N,
                          bits + plane * window * words(N));
            p->kernels->b1_memory_counts(window, N, p->terms, p->left,
                                         p->dilation, p->planes, bits,
                                         p->weight, p->gain, d);
            real_rows(p, before, rows, d, y + m * N);
        }
}

/* A convolution works on inverted bits, of its weights too: then the border of
 * +1 is zeros, and a bit is put where there are zeros. */
static void put_bits(uint64_t *out, size_t at, uint64_t bits, size_t count)
{
    out[at / 64] |= bits << at % 64;
    if (at % 64 + count > 64)
        out[at / 64 + 1] |= bits >> (64 - at % 64);
}

/* `count` bits of `in` from bit `from` on; reads a word beyond them. */
static uint64_t take_bits(const uint64_t *in, size_t from, size_t count)
{
    uint64_t bits = in[from / 64] >> from % 64;

    if (from % 64)
        bits |= in[from / 64 + 1] << (64 - from % 64);
    return bits & ~(uint64_t)0 >> (64 - count);
}

struct map {
    size_t in_frames, in_mels;  /* of the input */
    size_t frames, mels;        /* of the output */
    size_t lines;               /* of the output that share a strip */
    size_t strip;               /* frames of the input for them */
    size_t row;                 /* words of a frame of bits and one beyond */
};

static struct map map_of(const struct bifsmn_packed *p, size_t frames,
                         size_t mels)
{
    struct map s;

    s.in_frames = frames;
    s.in_mels = mels;
    s.frames = (frames - 1) / p->stride + 1;
    s.mels = (mels - 1) / p->stride + 1;
    s.lines = 4 + 128 / s.mels;
    s.strip = (s.lines - 1) * p->stride + p->kernel;
    s.row = words((mels + p->kernel - 1) * p->inputs) + 1;
    return s;
}

/* One frame of one plane, mel by mel, onto zeros; x [inputs][plane of map] */
static void pack_frame(const struct bifsmn_packed *p, const struct map *s,
                       size_t plane, const float *x, uint64_t *bits)
{
    enum { MELS = 64, CHANNELS_AT_ONCE = 32 };
    const struct range of = thresholds_of(p, plane);
    const size_t C = p->inputs, border = p->kernel / 2;
    size_t from, c, i, t, f;

    for (from = 0; from < s->in_mels; from += MELS) {
        const size_t mels = min_size(MELS, s->in_mels - from);

        for (c = 0; c < C; c += CHANNELS_AT_ONCE) {
            const size_t channels = min_size(CHANNELS_AT_ONCE, C - c);
            uint32_t below[MELS] = {0};

            for (i = 0; i < channels; i++) {
                const float *in =
                    x + (c + i) * s->in_frames * s->in_mels + from;
                const uint32_t place = (uint32_t)1 << i;

                for (t = of.first; t < of.last; t++) {
                    const float limit = p->threshold[t * C + c + i];

                    for (f = 0; f < mels; f++)
                        below[f] ^= in[f] >= limit ? 0 : place;
                }
            }
            for (f = 0; f < mels; f++)
                put_bits(bits, (border + from + f) * C + c, below[f],
                         channels);
        }
    }
}

/* The inputs of positions from..from + rows - 1 of a strip. */
static void gather_patches(const struct bifsmn_packed *p, const struct map *s,
                           size_t from, size_t rows, const uint64_t *strip,
                           uint64_t *patches)
{
    const size_t row = words(p->terms), length = p->kernel * p->inputs;
    size_t m, r, i;

    memset(patches, 0, 8 * rows * row);
    for (m = from; m < from + rows; m++, patches += row) {
        const uint64_t *in = strip + m / s->mels * p->stride * s->row;
        const size_t first = m % s->mels * p->stride * p->inputs;

        for (r = 0; r < p->kernel; r++, in += s->row)
            for (i = 0; i < length; i += 64) {
                const size_t count = min_size(64, length - i);

                put_bits(patches, r * length + i,
                         take_bits(in, first + i, count), count);
            }
    }
}

/* x [clips][inputs][frames][mels], y [clips][outputs][frames'][mels'] */
void bifsmn_packed_conv(const struct bifsmn_packed *p, size_t clips,
                        size_t frames, size_t mels, const float *x, float *y,
                        void *scratch)
{
    const struct map s = map_of(p, frames, mels);
    const size_t N = p->outputs, block = block_of(p), border = p->kernel / 2;
    const size_t size = s.strip * s.row;
    uint64_t *strips = scratch, *patches = strips + p->planes * size;
    uint32_t *d = (uint32_t *)(patches + p->planes * block * words(p->terms));
    size_t clip, line, plane, i, m;

    for (clip = 0; clip < clips; clip++) {
        for (line = 0; line < s.frames; line += s.lines) {
            const size_t count = min_size(s.lines, s.frames - line) * s.mels;

            memset(strips, 0, 8 * p->planes * size);
            for (plane = 0; plane < p->planes; plane++)
                for (i = 0; i < s.strip; i++) {
                    /* Before the first frame this wraps, far beyond. */
                    const size_t t = line * p->stride + i - border;

                    if (t < frames)
                        pack_frame(p, &s, plane, x + t * mels,
                                   strips + plane * size + i * s.row);
                }
            for (m = 0; m < count; m += block) {
                const size_t rows = min_size(block, count - m);

                for (plane = 0; plane < p->planes; plane++)
                    gather_patches(p, &s, m, rows, strips + plane * size,
                                   patches + plane * rows * words(p->terms));
                p->kernels->b1_gemm_counts(rows, N, p->terms, p->planes,
                                           patches, p->weight, p->gain, d);
                real_columns(p, rows, d, s.frames * s.mels,
                             y + line * s.mels + m);
            }
        }
        x += p->inputs * frames * mels;
        y += N * s.frames * s.mels;
    }
}

/* Bytes, aligned to 8; of a convolution for inputs of so many mels. */
size_t bifsmn_packed_scratch(const struct bifsmn_packed *p, size_t mels)
{
    const size_t block = block_of(p);

    if (p->kernel) {
        const struct map s = map_of(p, 1, mels);

        return 8 * p->planes * (s.strip * s.row + block * words(p->terms)) +
               4 * block * p->outputs;
    }
    if (p->dilation)
        return memory_window(p) *
               (8 * p->planes * words(p->inputs) + 4 * p->outputs);
    return block * (8 * p->planes * words(p->inputs) + 4 * p->outputs);
}

/* Without a branch, which compilers may leave in; NaN stays NaN. */
static float prelu(float z, float slope)
{
    return (z < 0 ? 0 : z) + slope * (z < 0 ? z : 0);
}

static void norm_row(size_t N, const float *restrict x,
                     const float *restrict scale, const float *restrict bias,
                     const float *restrict slope, const float *restrict shift,
                     float *restrict y)
{
    size_t n;

    for (n = 0; n < N; n++)
        y[n] = prelu(x[n] * scale[n] + bias[n], slope[n]) + shift[n];
}

/* z = x * scale + bias; y = (z >= 0 ? z : z * slope) + shift
 * x, y [M][N][inner], constants [4][N]: scale, bias, slope, shift */
void bifsmn_packed_norm(size_t M, size_t N, size_t inner, const float *x,
                        const float *constants, float *y)
{
    const float *scale = constants, *bias = scale + N, *slope = bias + N;
    const float *shift = slope + N;
    size_t m, n, i;

    if (inner == 1) {
        for (m = 0; m < M; m++, x += N, y += N)
            norm_row(N, x, scale, bias, slope, shift, y);
        return;
    }
    for (m = 0; m < M; m++)
        for (n = 0; n < N; n++, x += inner, y += inner) {
            const float a = scale[n], b = bias[n], c = slope[n], d = shift[n];

            for (i = 0; i < inner; i++)
                y[i] = prelu(x[i] * a + b, c) + d;
        }
}
