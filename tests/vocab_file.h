/* A GGUF file in memory that holds a vocabulary and nothing else, for tests and fuzzing.
 *
 *     struct vocab_file f;
 *     vf_start(&f);
 *     vf_str(&f, "tokenizer.ggml.model", "gpt2");
 *     ...
 *     gguf_open_memory(&g, f.bytes, vf_finish(&f), &err);
 *     vf_release(&f);          after gguf_close
 */
#ifndef TANDEM_TESTS_VOCAB_FILE_H
#define TANDEM_TESTS_VOCAB_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/tokenizer.h"
#include "tests/check.h"

struct vocab_file {
    unsigned char *bytes;
    size_t n, capacity;
    uint64_t n_kv;
};

static inline void vf_bytes(struct vocab_file *f, const void *data, size_t n)
{
    if (f->n + n > f->capacity) {
        f->capacity = 2 * (f->n + n) + 1024;
        f->bytes = realloc(f->bytes, f->capacity);
    }
    if (n > 0)
        memcpy(f->bytes + f->n, data, n);
    f->n += n;
}

static inline void vf_n32(struct vocab_file *f, uint32_t n)
{
    vf_bytes(f, &n, 4);
}

static inline void vf_n64(struct vocab_file *f, uint64_t n)
{
    vf_bytes(f, &n, 8);
}

static inline void vf_text(struct vocab_file *f, struct str s)
{
    vf_n64(f, s.len);
    vf_bytes(f, s.data, s.len);
}

static inline void vf_key(struct vocab_file *f, const char *key, enum gguf_type type)
{
    f->n_kv++;
    vf_text(f, str_of(key));
    vf_n32(f, type);
}

static inline void vf_start(struct vocab_file *f)
{
    *f = (struct vocab_file){ 0 };
    vf_bytes(f, "GGUF", 4);
    vf_n32(f, 3);
    vf_n64(f, 0); /* tensors */
    vf_n64(f, 0); /* pairs: known at the end */
}

static inline void vf_str(struct vocab_file *f, const char *key, const char *value)
{
    vf_key(f, key, GGUF_STRING);
    vf_text(f, str_of(value));
}

static inline void vf_u32(struct vocab_file *f, const char *key, uint32_t value)
{
    vf_key(f, key, GGUF_U32);
    vf_n32(f, value);
}

static inline void vf_bool(struct vocab_file *f, const char *key, bool value)
{
    vf_key(f, key, GGUF_BOOL);
    vf_bytes(f, &value, 1);
}

/* An array follows: `n` elements by vf_text, vf_n32 or vf_bytes. */
static inline void vf_array(struct vocab_file *f, const char *key, enum gguf_type elem, uint64_t n)
{
    vf_key(f, key, GGUF_ARRAY);
    vf_n32(f, elem);
    vf_n64(f, n);
}

static inline void vf_strs(struct vocab_file *f, const char *key, const char *const *values,
                           size_t n)
{
    vf_array(f, key, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        vf_text(f, str_of(values[i]));
}

static inline void vf_i32s(struct vocab_file *f, const char *key, const int32_t *values, size_t n)
{
    vf_array(f, key, GGUF_I32, n);
    vf_bytes(f, values, n * sizeof *values);
}

static inline void vf_f32s(struct vocab_file *f, const char *key, const float *values, size_t n)
{
    vf_array(f, key, GGUF_F32, n);
    vf_bytes(f, values, n * sizeof *values);
}

/* Close the file; its size. */
static inline size_t vf_finish(struct vocab_file *f)
{
    memcpy(f->bytes + 16, &f->n_kv, 8);
    return f->n;
}

static inline void vf_release(struct vocab_file *f)
{
    free(f->bytes);
    *f = (struct vocab_file){ 0 };
}

/* An open tokenizer and what it lives on. */
struct opened {
    struct vocab_file file;
    struct gguf g;
    struct tokenizer *t;
    struct error err;
};

static inline bool open_file(struct opened *o)
{
    o->g = (struct gguf){ 0 };
    o->t = NULL;
    error_clear(&o->err);
    return gguf_open_memory(&o->g, o->file.bytes, vf_finish(&o->file), &o->err) &&
           tokenizer_open(&o->t, &o->g, &o->err);
}

static inline void close_file(struct opened *o)
{
    tokenizer_close(o->t);
    gguf_close(&o->g);
    vf_release(&o->file);
}

/* Encode, compare with `wanted` ("1 2 3"). */
static inline void check_encode(struct opened *o, struct str text, bool special, const char *wanted)
{
    struct tokens ids = { 0 };
    char found[4096] = "", *at = found;
    CHECK_MSG(o->t && tokenizer_encode(o->t, text, special, &ids, &o->err), "%s", o->err.text);
    for (size_t i = 0; i < ids.n && at < found + 4000; i++)
        at += sprintf(at, i ? " %d" : "%d", ids.ids[i]);
    CHECK_STR(found, wanted);
    tokens_release(&ids);
}

#endif
