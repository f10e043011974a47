#include "src/base/arena.h"

#include <stdint.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define CHUNK_BYTES (64 * 1024)
#define ALIGNMENT 64

/* [ header, padded to 64 | used bytes | free bytes ] */
struct arena_chunk {
    struct arena_chunk *previous;
    size_t used, size;
};

static char *chunk_bytes(struct arena_chunk *chunk)
{
    return (char *)chunk + ALIGNMENT;
}

static struct arena_chunk *chunk_new(struct arena *arena, size_t bytes, struct error *err)
{
    size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct arena_chunk *chunk = mem_alloc_aligned(1, size + ALIGNMENT, "arena", err);
    if (!chunk)
        return NULL;
    *chunk = (struct arena_chunk){ .previous = arena->last, .size = size };
    arena->last = chunk;
    arena->total_bytes += size;
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size, struct error *err)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2) {
        fail(err, ERR_FIT, "out of memory: %zu x %zu bytes", count, size);
        return NULL;
    }
    bytes = align_up(bytes ? bytes : 1, ALIGNMENT);
    struct arena_chunk *chunk = arena->last;
    if (!chunk || chunk->size - chunk->used < bytes)
        chunk = chunk_new(arena, bytes, err);
    if (!chunk)
        return NULL;
    char *block = chunk_bytes(chunk) + chunk->used;
    chunk->used += bytes;
    memset(block, 0, bytes);
    return block;
}

char *arena_strndup(struct arena *arena, const char *text, size_t len, struct error *err)
{
    char *copy = len < SIZE_MAX ? arena_alloc(arena, len + 1, 1, err) : NULL;
    if (copy && len)
        memcpy(copy, text, len);
    return copy;
}

struct arena_mark arena_mark(const struct arena *arena)
{
    return (struct arena_mark){ arena->last, arena->last ? arena->last->used : 0 };
}

void arena_rewind(struct arena *arena, struct arena_mark mark)
{
    while (arena->last != mark.chunk) {
        struct arena_chunk *chunk = arena->last;
        arena->last = chunk->previous;
        arena->total_bytes -= chunk->size;
        mem_free(chunk);
    }
    if (arena->last)
        arena->last->used = mark.used;
}

void arena_release(struct arena *arena)
{
    arena_rewind(arena, (struct arena_mark){ 0 });
}
