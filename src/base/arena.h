/* Bump arenas: many small objects, one lifetime.
 *
 * An arena grows by chunks, so pointers stay valid until arena_release. A mark remembers the fill
 * level; rewinding to it frees everything taken since at once. A zeroed arena is a valid empty one. */
#ifndef TANDEM_BASE_ARENA_H
#define TANDEM_BASE_ARENA_H

#include <stddef.h>

#include "src/base/error.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *last;
    size_t total_bytes; /* of all chunks, for memory reports */
};

struct arena_mark {
    struct arena_chunk *chunk;
    size_t used;
};

/* `count` objects of `size` bytes, zeroed, 64-byte aligned. NULL and ERR_FIT on failure. */
void *arena_alloc(struct arena *arena, size_t count, size_t size, struct error *err);

/* Copy of `len` bytes plus a terminating 0, living in the arena. */
char *arena_strndup(struct arena *arena, const char *text, size_t len, struct error *err);

struct arena_mark arena_mark(const struct arena *arena);
void arena_rewind(struct arena *arena, struct arena_mark mark);
void arena_release(struct arena *arena);

#endif
