/* arena.h: arrays handed out one after another from one block of memory.
 *
 * With no block it only counts: the same code that lays out the workspace
 * says how large it must be. */

#ifndef BIFSMN_ARENA_H
#define BIFSMN_ARENA_H

#include <stddef.h>
#include <stdint.h>

enum { ARENA_ALIGNMENT = 64 }; /* a cache line, and any vector register */

struct arena {
    uint8_t *base; /* aligned, or NULL to count */
    uint64_t used; /* bytes; wide enough for any valid model on any host */
};

static inline void *arena_take(struct arena *arena, uint64_t count,
                               uint64_t size)
{
    void *p = arena->base ? arena->base + arena->used : NULL;
    uint64_t mask = ARENA_ALIGNMENT - 1;

    arena->used += (count * size + mask) & ~mask;
    return p;
}

#endif
