/* Small GGUF files in memory, for tests that need metadata or a vocabulary but no model. */
#ifndef TANDEM_TESTS_TINY_GGUF_H
#define TANDEM_TESTS_TINY_GGUF_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/gguf.h"
#include "src/text/tokenizer.h"

struct tiny_gguf {
    uint8_t *bytes; /* malloc'ed */
    size_t n, capacity;
    uint64_t n_kv;
};

static inline void tiny_put(struct tiny_gguf *g, const void *data, size_t n)
{
    if (g->n + n > g->capacity) {
        g->capacity = 2 * (g->n + n);
        g->bytes = realloc(g->bytes, g->capacity);
    }
    if (n)
        memcpy(g->bytes + g->n, data, n);
    g->n += n;
}

static inline void tiny_put_u32(struct tiny_gguf *g, uint32_t value)
{
    tiny_put(g, &value, 4);
}

static inline void tiny_put_str(struct tiny_gguf *g, const char *text, size_t len)
{
    uint64_t n = len;
    tiny_put(g, &n, 8);
    tiny_put(g, text, len);
}

/* magic, version, no tensors, number of entries (filled in by tiny_finish) */
static inline void tiny_begin(struct tiny_gguf *g)
{
    static const uint8_t header[24] = { 'G', 'G', 'U', 'F', 3 };
    *g = (struct tiny_gguf){ 0 };
    tiny_put(g, header, sizeof header);
}

static inline void tiny_key(struct tiny_gguf *g, const char *key, enum gguf_type type)
{
    tiny_put_str(g, key, strlen(key));
    tiny_put_u32(g, type);
    g->n_kv++;
}

static inline void tiny_str(struct tiny_gguf *g, const char *key, const char *text, size_t len)
{
    tiny_key(g, key, GGUF_STRING);
    tiny_put_str(g, text, len);
}

static inline void tiny_text(struct tiny_gguf *g, const char *key, const char *text)
{
    tiny_str(g, key, text, strlen(text));
}

static inline void tiny_u32(struct tiny_gguf *g, const char *key, uint32_t value)
{
    tiny_key(g, key, GGUF_U32);
    tiny_put_u32(g, value);
}

static inline void tiny_f32(struct tiny_gguf *g, const char *key, float value)
{
    tiny_key(g, key, GGUF_F32);
    tiny_put(g, &value, 4);
}

static inline void tiny_bool(struct tiny_gguf *g, const char *key, bool value)
{
    tiny_key(g, key, GGUF_BOOL);
    tiny_put(g, &value, 1);
}

static inline void tiny_array(struct tiny_gguf *g, const char *key, enum gguf_type elem, uint64_t n)
{
    tiny_key(g, key, GGUF_ARRAY);
    tiny_put_u32(g, elem);
    tiny_put(g, &n, 8);
}

static inline void tiny_finish(struct tiny_gguf *g)
{
    memcpy(g->bytes + 16, &g->n_kv, 8);
}

/* A byte-level BPE vocabulary without merges: token b is byte b, then the specials follow with ids
 * from 256 on. Bytes that are no visible Latin-1 character are spelled as U+0100, U+0101, ... */
#define TINY_BYTES 256

static inline void tiny_vocabulary(struct tiny_gguf *g, const char *pre,
                                   const char *const *specials, int n_specials, int special_type)
{
    tiny_text(g, "tokenizer.ggml.model", "gpt2");
    tiny_text(g, "tokenizer.ggml.pre", pre);
    tiny_array(g, "tokenizer.ggml.tokens", GGUF_STRING, TINY_BYTES + (uint64_t)n_specials);
    uint32_t next = 256;
    for (uint32_t b = 0; b < TINY_BYTES; b++) {
        bool visible = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        uint32_t c = visible ? b : next++;
        char utf8[2] = { (char)c };
        if (c >= 128) {
            utf8[0] = (char)(0xc0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 63));
        }
        tiny_put_str(g, utf8, c < 128 ? 1 : 2);
    }
    for (int i = 0; i < n_specials; i++)
        tiny_put_str(g, specials[i], strlen(specials[i]));
    tiny_array(g, "tokenizer.ggml.token_type", GGUF_I32, TINY_BYTES + (uint64_t)n_specials);
    for (int i = 0; i < TINY_BYTES + n_specials; i++)
        tiny_put_u32(g, i < TINY_BYTES ? 1 : (uint32_t)special_type);
    tiny_array(g, "tokenizer.ggml.merges", GGUF_STRING, 0);
}

/* A build without PCRE2 cannot encode with such a vocabulary. */
static inline bool tiny_can_encode(const struct tokenizer *t)
{
    struct tokens ids = { 0 };
    bool ok = t && tokenizer_encode(t, str_of("a"), false, &ids, NULL);
    tokens_release(&ids);
    return ok;
}

#endif
