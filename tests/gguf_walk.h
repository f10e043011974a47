/* Touch everything that an open GGUF file offers: every key through every getter, every string and
 * number of every array, every tensor by name, its first and last byte. Under sanitizers this shows
 * that what the reader accepts is safe to use. */
#ifndef TANDEM_TESTS_GGUF_WALK_H
#define TANDEM_TESTS_GGUF_WALK_H

#include <stdlib.h>
#include <string.h>

#include "src/format/gguf.h"

static inline uint64_t walk_array(const struct gguf_kv *kv)
{
    uint64_t sum = 0;
    struct gguf_cursor c = gguf_strings(kv);
    for (struct str s; gguf_next_string(&c, &s);)
        sum += s.len ? (uint8_t)s.data[0] + (uint8_t)s.data[s.len - 1] : 1;
    if (kv->elem == GGUF_STRING)
        return sum;
    for (uint64_t i = 0; i < kv->count; i++)
        sum += (uint64_t)gguf_int_at(kv, i) + (gguf_float_at(kv, i) > 0);
    return sum;
}

static inline uint64_t walk_key(const struct gguf *g, const char *key)
{
    uint64_t sum = 0, u = 0;
    double d = 0;
    bool b = false;
    struct str s = { 0 };
    struct error err = { 0 };
    sum += gguf_get_u64(g, key, &u, &err) ? u : 0;
    sum += gguf_get_f64(g, key, &d, &err) && d > 0;
    sum += gguf_get_bool(g, key, &b, NULL) && b;
    if (gguf_get_str(g, key, &s, NULL) && s.len)
        sum += (uint8_t)s.data[s.len - 1];
    for (int kind = GGUF_KIND_INT; kind <= GGUF_KIND_BOOL; kind++)
        sum += gguf_array(g, key, (enum gguf_kind)kind, NULL) != NULL;
    return sum + gguf_has(g, key);
}

/* A number that depends on all of it, so that no reading is optimized away; *found counts the keys
 * and tensors that were found again by name. */
static inline uint64_t gguf_walk(const struct gguf *g, uint64_t *found)
{
    uint64_t sum = 0;
    *found = 0;
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kv[i];
        char *key = malloc(kv->key.len + 1);
        memcpy(key, kv->key.data, kv->key.len);
        key[kv->key.len] = 0;
        *found += gguf_find(g, key) == kv;
        sum += walk_key(g, key) + walk_array(kv);
        free(key);
    }
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        const uint8_t *bytes = t->data;
        *found += gguf_tensor(g, t->name) == t;
        sum += bytes[0] + bytes[t->bytes - 1] + tensor_rows(t);
    }
    int shard;
    uint64_t offset;
    return sum + gguf_lost(g, &shard, &offset);
}

#endif
