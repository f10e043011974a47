/* The file forge: GGUF bytes put together field by field, so that a test can get any one of them
 * wrong. Numbers are remembered by place and width, to be overwritten later. */
#ifndef TANDEM_TESTS_GGUF_FORGE_H
#define TANDEM_TESTS_GGUF_FORGE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct forge {
    uint8_t *bytes;
    size_t n, room;
    struct {
        size_t at;
        int width;
    } fields[64];
    int n_fields;
};

static inline uint8_t *forge_room(struct forge *f, size_t n)
{
    if (f->n + n > f->room) {
        f->room = 2 * (f->n + n) + 256;
        f->bytes = realloc(f->bytes, f->room);
        if (!f->bytes)
            abort();
    }
    f->n += n;
    return f->bytes + f->n - n;
}

static inline void forge_set(struct forge *f, size_t at, int width, uint64_t v)
{
    for (int i = 0; i < width && at + (size_t)i < f->n; i++)
        f->bytes[at + (size_t)i] = (uint8_t)(v >> 8 * i);
}

static inline void forge_number(struct forge *f, int width, uint64_t v)
{
    if (f->n_fields < 64) {
        f->fields[f->n_fields].at = f->n;
        f->fields[f->n_fields++].width = width;
    }
    forge_room(f, (size_t)width);
    forge_set(f, f->n - (size_t)width, width, v);
}

static inline void forge_u32(struct forge *f, uint32_t v)
{
    forge_number(f, 4, v);
}

static inline void forge_u64(struct forge *f, uint64_t v)
{
    forge_number(f, 8, v);
}

static inline void forge_bytes(struct forge *f, const void *bytes, size_t n)
{
    uint8_t *to = forge_room(f, n);
    if (n)
        memcpy(to, bytes, n);
}

static inline void forge_fill(struct forge *f, size_t n, uint8_t value)
{
    memset(forge_room(f, n), value, n);
}

static inline void forge_text(struct forge *f, const char *text)
{
    forge_u64(f, strlen(text));
    forge_bytes(f, text, strlen(text));
}

static inline void forge_header(struct forge *f, uint32_t version, uint64_t n_tensors,
                                uint64_t n_kv)
{
    f->n = 0;
    f->n_fields = 0;
    forge_bytes(f, "GGUF", 4);
    forge_u32(f, version);
    forge_u64(f, n_tensors);
    forge_u64(f, n_kv);
}

/* Key and value type; the value is the caller's. */
static inline void forge_key(struct forge *f, const char *key, uint32_t type)
{
    forge_text(f, key);
    forge_u32(f, type);
}

static inline void forge_tensor(struct forge *f, const char *name, uint32_t n_dims,
                                const uint64_t *ne, uint32_t type, uint64_t offset)
{
    forge_text(f, name);
    forge_u32(f, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        forge_u64(f, ne[d]);
    forge_u32(f, type);
    forge_u64(f, offset);
}

/* Zeros up to a multiple of the alignment. */
static inline void forge_pad(struct forge *f, size_t alignment)
{
    while (f->n % alignment)
        forge_fill(f, 1, 0);
}

static inline void forge_free(struct forge *f)
{
    free(f->bytes);
    *f = (struct forge){ 0 };
}

#endif
