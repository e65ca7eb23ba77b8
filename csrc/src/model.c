/* model.c: reads and checks a model file. The contract is docs/format.md.
 *
 * The file is not trusted: nothing is read before its place is known to lie
 * inside, and sizes are bounded first, so that no product overflows. */

#include "model.h"

#include <string.h>

#include "bifsmn.h"
#include "bytes.h"

enum {
    HEADER = 24, /* bytes */
    ENTRY = 16,
    ALIGNMENT = 16,
    CONF_WORDS = 20
};

static const char tags[SECTIONS][5] = {
    "CONF", "DPTH", "LABL", "META", "FRNT", "MELS",
    "C1.W", "C1.T", "C1.D", "C2.W", "C2.T", "C2.D", "FC.W", "FC.A", "FC.S",
    "ME.W", "ME.A", "ME.S", "P1.W", "P1.T", "P1.D", "P2.W", "P2.A", "P2.S",
    "HD.W", "HD.A", "GAIN", "ME.X", "P1.X", "HD.B"
};

/* Flags after those of the stages. */
enum { PLANES = 8, THRESHOLDS = 16, RPRELU = 32, ALL_FLAGS = 63 };

/* CRC-32 (IEEE) four bits at a time: 64 bytes of table instead of 1 KB. */
static uint32_t crc32(const uint8_t *data, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
        0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c
    };
    uint32_t crc = 0xffffffffu;
    size_t i;

    for (i = 0; i < size; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* Header and section table: fills model->section with what lies where. */
static int find_sections(const uint8_t *file, size_t size, struct model *model)
{
    size_t count, i, end;
    int name;

    if (size < HEADER || memcmp(file, "BiFSMN\r\n", 8) != 0)
        return BIFSMN_ERROR_MAGIC;
    if (load_u16(file + 8) != 1)
        return BIFSMN_ERROR_VERSION;
    if (load_u32(file + 12) != size)
        return BIFSMN_ERROR_SIZE;
    if (load_u32(file + 16) != crc32(file + 20, size - 20))
        return BIFSMN_ERROR_CHECKSUM;

    count = load_u32(file + 20);
    if (count > (size - HEADER) / ENTRY)
        return BIFSMN_ERROR_TABLE;
    end = HEADER + count * ENTRY; /* of what was read so far */
    for (i = 0; i < count; i++) {
        const uint8_t *entry = file + HEADER + i * ENTRY;
        size_t offset = load_u32(entry + 8), length = load_u32(entry + 12);
        struct section *section;

        /* In file order, so sections that do not overlap are easy to tell. */
        if (offset % ALIGNMENT || offset < end || offset > size ||
            length > size - offset)
            return BIFSMN_ERROR_TABLE;
        end = offset + length;

        for (name = 0; name < SECTIONS; name++)
            if (memcmp(entry, tags[name], 4) == 0)
                break;
        if (name == SECTIONS)
            continue; /* from a later minor version */
        section = &model->section[name];
        if (section->data)
            return BIFSMN_ERROR_MISSING;
        section->data = file + offset;
        section->size = length;
        section->dtype = entry[4];
    }
    for (name = 0; name < GAIN; name++)
        if (!model->section[name].data)
            return BIFSMN_ERROR_MISSING;
    return BIFSMN_OK;
}

static int is_one_of(unsigned dtype, const enum dtype allowed[2])
{
    return dtype == (unsigned)allowed[0] || dtype == (unsigned)allowed[1];
}

/* Type, exact size and sound values of [rows][columns]. The sizes are below
 * 2^31 and 2^32 by then, so 64 bits hold the product. */
static int check_section(const struct section *s, enum dtype either,
                         enum dtype other, uint64_t rows, uint64_t columns)
{
    const enum dtype allowed[2] = {either, other};
    static const uint8_t bytes[] = {1, 1, 1, 2, 4, 4, 2, 4};
    uint64_t width;
    size_t i;

    if (!s->data)
        return BIFSMN_ERROR_MISSING;
    if (!is_one_of(s->dtype, allowed))
        return BIFSMN_ERROR_SHAPE;
    if (s->dtype == BITS)
        width = (columns + 63) / 64 * 8;
    else if (s->dtype == I4)
        width = (columns + 1) / 2;
    else
        width = columns * bytes[s->dtype];
    if (s->size != rows * width)
        return BIFSMN_ERROR_SHAPE;

    if (s->dtype == F32)
        for (i = 0; i < s->size; i += 4)
            if ((load_u32(s->data + i) & 0x7f800000u) == 0x7f800000u)
                return BIFSMN_ERROR_VALUE;
    if (s->dtype == F16)
        for (i = 0; i < s->size; i += 2)
            if ((load_u16(s->data + i) & 0x7c00u) == 0x7c00u)
                return BIFSMN_ERROR_VALUE;
    /* A one beyond the end of a row would be counted as a difference. */
    if (s->dtype == BITS && columns % 64)
        for (i = (size_t)width; i <= s->size; i += (size_t)width)
            if (load_u64(s->data + i - 8) >> columns % 64)
                return BIFSMN_ERROR_VALUE;
    return BIFSMN_OK;
}

static size_t after_stride(size_t n, size_t stride)
{
    return (n - 1) / stride + 1;
}

/* CONF and what follows from it. Bounds keep the products of two sizes within
 * 31 bits and the sums of binary layers exact in a float; thresholds of 16
 * bits bound the inputs of conv2. */
static int read_config(struct model *m)
{
    size_t *fields[CONF_WORDS] = {
        &m->sample_rate, &m->samples, &m->win_length, &m->n_fft,
        &m->hop_length, &m->mels, &m->frames, &m->conv1_channels,
        &m->conv2_channels, &m->kernel, &m->stride, &m->channels,
        &m->expansion, &m->layers, &m->left, &m->right, &m->dilation,
        &m->classes, &m->depths, &m->flags
    };
    const size_t most = 32768, most_samples = 1 << 24;
    size_t i;
    int error = check_section(&m->section[CONF], U32, U32, 1, CONF_WORDS);

    if (error)
        return error;
    for (i = 0; i < CONF_WORDS; i++) {
        size_t *field = fields[i];
        int may_be_zero = field == &m->left || field == &m->right ||
                          field == &m->flags;
        int may_be_long = field == &m->sample_rate || field == &m->samples;

        *field = load_u32(m->section[CONF].data + 4 * i);
        if (*field == 0 && !may_be_zero)
            return BIFSMN_ERROR_CONFIG;
        if (*field > (may_be_long ? most_samples : most))
            return BIFSMN_ERROR_CONFIG;
    }
    m->frames1 = after_stride(m->frames, m->stride);
    m->frames2 = after_stride(m->frames1, m->stride);
    m->mels1 = after_stride(m->mels, m->stride);
    m->mels2 = after_stride(m->mels1, m->stride);
    m->taps = m->left + 1 + m->right;
    if (m->n_fft < 4 || (m->n_fft & (m->n_fft - 1)) ||
        m->win_length > m->n_fft || m->kernel % 2 == 0 || m->kernel > 255 ||
        m->kernel * m->kernel * m->conv1_channels > 65534 ||
        m->mels2 * m->conv2_channels > 1 << 24 || m->depths > m->layers ||
        m->flags > ALL_FLAGS ||
        (m->flags & (PLANES | RPRELU) && !(m->flags & THRESHOLDS)))
        return BIFSMN_ERROR_CONFIG;
    m->planes = m->flags & PLANES ? 2 : 1;
    m->cuts = m->flags & PLANES ? 3 : 1;
    m->rprelu = (m->flags & RPRELU) != 0;
    return BIFSMN_OK;
}

size_t bifsmn_model_depth(const struct model *model, size_t i)
{
    return load_u32(model->section[DPTH].data + 4 * i);
}

static int read_depths(struct model *m)
{
    size_t i, above = m->layers + 1, total = 0;
    int stage, error = check_section(&m->section[DPTH], U32, U32, 1, m->depths);

    if (error)
        return error;
    for (i = 0; i < m->depths; i++) {
        size_t depth = bifsmn_model_depth(m, i);

        if (depth < 1 || depth >= above)
            return BIFSMN_ERROR_DEPTHS;
        above = depth;
        total += depth;
    }
    for (stage = 0; stage < STAGES; stage++)
        m->sets[stage] = m->flags >> stage & 1 ? total : m->layers;
    if (m->flags & THRESHOLDS) {
        m->stream_sets = m->rprelu ? total : m->layers;
        m->stream_columns = m->rprelu ? m->channels : 1;
    }
    return BIFSMN_OK;
}

static int check_labels(const struct model *m)
{
    const struct section *s = &m->section[LABL];
    size_t i, ends = 0;

    for (i = 0; i < s->size; i++)
        ends += s->data[i] == 0;
    if (ends != m->classes || s->data[s->size - 1] != 0)
        return BIFSMN_ERROR_LABELS;
    return BIFSMN_OK;
}

/* No plane counts for nothing, and sums of K inputs are exact in a float. */
static int check_gains(const struct model *m, size_t conv2_in, size_t fc_in)
{
    const uint8_t *gain = m->section[GAIN].data;
    size_t i;

    if (m->planes == 1)
        return BIFSMN_OK;
    for (i = 0; i < 2 + 3 * m->layers; i++, gain += 2) {
        const size_t K = i == 0       ? conv2_in
                         : i == 1     ? fc_in
                         : i % 3 == 2 ? m->taps
                         : i % 3 == 0 ? m->channels
                                      : m->expansion;

        if (gain[0] == 0 || gain[1] == 0 ||
            K > (1 << 24) / ((size_t)gain[0] + gain[1]))
            return BIFSMN_ERROR_VALUE;
    }
    return BIFSMN_OK;
}

static int check_frontend(const struct model *m)
{
    size_t i;

    if (!(load_f32(m->section[FRNT].data) > 0)) /* a logarithm is taken of it */
        return BIFSMN_ERROR_VALUE;
    for (i = 0; i <= m->mels; i++) {
        const uint8_t *edge = m->section[MELS].data + 4 * i;
        if (!(load_f32(edge) < load_f32(edge + 4)))
            return BIFSMN_ERROR_VALUE;
    }
    return BIFSMN_OK;
}

int bifsmn_read_model(const void *file, size_t size, struct model *m)
{
    size_t conv1_in, conv2_in, fc_in, head_in, i;
    int error;

    memset(m, 0, sizeof *m);
    if ((error = find_sections(file, size, m)) != BIFSMN_OK ||
        (error = read_config(m)) != BIFSMN_OK ||
        (error = read_depths(m)) != BIFSMN_OK)
        return error;

    conv1_in = m->kernel * m->kernel;
    conv2_in = conv1_in * m->conv1_channels;
    fc_in = m->mels2 * m->conv2_channels;
    head_in = m->frames2 * m->channels;
    {
        /* Sums of two planes are weighted, and need more. */
        const int weighted = m->planes > 1;
        const enum dtype conv2_t = weighted || conv2_in >= 255 ? U16 : U8;
        const enum dtype p1_t = weighted || m->channels >= 255 ? U16 : U8;
        const enum dtype slope = m->rprelu ? F16 : F32;
        const size_t slopes = m->rprelu ? m->channels : 1;
        const struct {
            enum section_name name;
            enum dtype either, other;
            uint64_t rows, columns;
        } layout[] = {
            {LABL, TEXT, TEXT, 1, m->section[LABL].size},
            {META, TEXT, TEXT, 1, m->section[META].size},
            {FRNT, F32, F32, 1, 3},
            {MELS, F32, F32, 1, m->mels + 2},
            {C1_W, I8, I8, m->conv1_channels, conv1_in},
            {C1_T, I32, I32, m->cuts, m->conv1_channels},
            {C1_D, BITS, BITS, 1, m->conv1_channels},
            {C2_W, BITS, BITS, m->conv2_channels, conv2_in},
            {C2_T, conv2_t, weighted ? U32 : conv2_t, m->cuts,
             m->conv2_channels},
            {C2_D, BITS, BITS, 1, m->conv2_channels},
            {FC_W, BITS, BITS, m->channels, fc_in},
            {FC_A, F16, F32, 2, m->channels},
            {FC_S, slope, F32, 1, slopes},
            {ME_W, BITS, BITS, m->layers * m->taps, m->channels},
            {ME_A, F16, F32, m->sets[MEMORY] * 2, m->channels},
            {ME_S, slope, F32, m->sets[MEMORY], slopes},
            {P1_W, BITS, BITS, m->layers * m->expansion, m->channels},
            {P1_T, p1_t, weighted ? U32 : p1_t, m->sets[POINTWISE1] * m->cuts,
             m->expansion},
            {P1_D, BITS, BITS, m->sets[POINTWISE1], m->expansion},
            {P2_W, BITS, BITS, m->layers * m->channels, m->expansion},
            {P2_A, F16, F32, m->sets[POINTWISE2] * 2, m->channels},
            {P2_S, slope, F32, m->sets[POINTWISE2], slopes},
            {HD_W, I4, I8, m->classes, head_in},
            {HD_A, F32, F32, 2, m->classes},
            {GAIN, U8, U8, weighted ? 2 + 3 * m->layers : 0, 2},
            {ME_X, F16, F32, m->stream_sets * m->cuts, m->stream_columns},
            {P1_X, F16, F32, m->stream_sets * m->cuts, m->stream_columns},
            {HD_B, F32, F32, m->rprelu ? m->depths : 0, m->classes},
        };

        for (i = 0; i < sizeof layout / sizeof layout[0]; i++) {
            if (layout[i].name >= GAIN && layout[i].rows == 0)
                continue; /* not asked for */
            error = check_section(&m->section[layout[i].name],
                                  layout[i].either, layout[i].other,
                                  layout[i].rows, layout[i].columns);
            if (error)
                return error;
        }
    }
    if ((error = check_labels(m)) != BIFSMN_OK ||
        (error = check_gains(m, conv2_in, fc_in)) != BIFSMN_OK)
        return error;
    return check_frontend(m);
}
