/* bytes.h: little-endian numbers at any address, on any host.
 *
 * Written byte by byte, so no alignment, no aliasing and no byte order is
 * assumed; gcc and clang turn each into one plain load where the host is
 * little-endian. */

#ifndef BIFSMN_BYTES_H
#define BIFSMN_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t load_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline uint64_t load_u64(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 |
           (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 |
           (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

static inline int32_t load_i32(const uint8_t *p)
{
    uint32_t bits = load_u32(p);
    int32_t value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float load_f32(const uint8_t *p)
{
    uint32_t bits = load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Finite half floats only: model.c has refused the others. */
static inline float load_f16(const uint8_t *p)
{
    uint32_t half = load_u16(p);
    uint32_t sign = (half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    uint32_t bits;
    float value;

    if (magnitude < 0x400u) { /* zero and subnormal: units of 2^-24 */
        value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | ((magnitude << 13) + ((127u - 15u) << 23));
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* 64-bit words in a row of n bits. */
static inline size_t words(size_t n)
{
    return (n + 63) / 64;
}

#endif
