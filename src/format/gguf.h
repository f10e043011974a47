/* Map and parse GGUF files, versions 2 and 3, one file or a split set.
 *
 * Nothing in a file is trusted: every count, length and offset is bounded by the bytes that remain
 * before anything is allocated from it or read through it (rules G-01 .. G-54, named in messages).
 * What gguf_open accepts is safe to walk: names are unique, every tensor lies inside its file, rows
 * are whole numbers of blocks, no two tensors overlap.
 *
 * Layout of a file: see the top of gguf_parse.c. Not thread-safe while opening or closing; reading
 * an open gguf from many threads is fine. A zeroed struct is a closed one, and may be closed. */
#ifndef TANDEM_FORMAT_GGUF_H
#define TANDEM_FORMAT_GGUF_H

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/base/util.h"
#include "src/format/tensor.h"

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64,
    N_GGUF_TYPES
};

/* One metadata entry. For arrays `elem` and `count` describe the elements and `data` is the first
 * of them; for scalars count is 1 and elem == type. Bytes are unaligned, and strings begin with
 * their length: read them with the getters. */
struct gguf_kv {
    struct str key;
    enum gguf_type type, elem;
    uint64_t count;
    const uint8_t *data;
    uint64_t bytes; /* of the value, from data */
};

struct gguf_shard {
    int fd;
    const char *path; /* owned */
    const uint8_t *map;
    uint64_t size;
    uint64_t data_start;
    bool in_memory;         /* a copy, because this file cannot be mapped */
    uint64_t device, inode; /* who the file was when it was opened, see gguf_unchanged */
    int64_t changed_ns;
};

struct gguf {
    struct arena arena;
    uint32_t version;
    uint64_t alignment;
    struct gguf_shard *shards;
    int n_shards;
    struct gguf_kv *kv; /* of shard 1, in file order */
    uint64_t n_kv;
    struct tensor *tensors; /* of all shards, in file order */
    uint64_t n_tensors;
    uint32_t *kv_index;     /* sorted by key, for gguf_find */
    uint32_t *tensor_index; /* sorted by name, for gguf_tensor */
    uint64_t data_bytes;    /* sum over all tensors */
};

/* Open `path`: a GGUF file, any shard of a split set, or a directory that holds exactly one model.
 * ERR_FILE when the file is missing, damaged or unsupported, ERR_FIT without memory.
 * gguf_close releases everything. */
bool gguf_open(struct gguf *g, const char *path, struct error *err);
/* The same of files that a writer of ours has not given their names yet: `path` is the name to be, of
 * the first when there will be several. For looking at them before they are let out. */
bool gguf_open_unfinished(struct gguf *g, const char *path, struct error *err);
void gguf_close(struct gguf *g);
/* Let go of the pages of the mapped files that this process has touched; they come back from the
 * system's cache, or the disk, when they are touched again. */
void gguf_forget(const struct gguf *g);

/* Parse one file's worth of bytes that are already in memory (tests, fuzzing). Borrows `bytes`
 * until gguf_close. Split sets are refused here. */
bool gguf_open_memory(struct gguf *g, const void *bytes, uint64_t size, struct error *err);

/* NULL when there is no such key / tensor. */
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);
const struct tensor *gguf_tensor(const struct gguf *g, const char *name);

/* Getters: a missing key leaves *value as it is (put the default there first) and returns true; a
 * key of a type that does not fit is ERR_FILE naming both types. Integer getters take any integer
 * type whose value fits, float getters F32 and F64. gguf_has tells missing from present. */
bool gguf_has(const struct gguf *g, const char *key);
bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *value, struct error *err);
bool gguf_get_f64(const struct gguf *g, const char *key, double *value, struct error *err);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *value, struct error *err);
bool gguf_get_str(const struct gguf *g, const char *key, struct str *value, struct error *err);

/* Arrays. The _at getters want index < kv->count; element type is checked by the caller's choice:
 * gguf_array returns NULL without error when the key is missing, and NULL with an error when it is
 * not an array of one of the element kinds asked for. */
enum gguf_kind { GGUF_KIND_INT, GGUF_KIND_FLOAT, GGUF_KIND_STRING, GGUF_KIND_BOOL };
const struct gguf_kv *gguf_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                                 struct error *err);
int64_t gguf_int_at(const struct gguf_kv *kv, uint64_t index);
double gguf_float_at(const struct gguf_kv *kv, uint64_t index);

/* Strings of an array vary in length, so they are visited in order:
 *     struct gguf_cursor c = gguf_strings(kv);
 *     for (struct str s; gguf_next_string(&c, &s); ) ...                                         */
struct gguf_cursor {
    const uint8_t *at;
    uint64_t left;
};
struct gguf_cursor gguf_strings(const struct gguf_kv *kv);
bool gguf_next_string(struct gguf_cursor *c, struct str *s);

/* "u32", "array of string", ... for messages. */
const char *gguf_type_name(enum gguf_type type);

/* Has one of the mapped files been cut short or become unreadable since it was opened? Returns true
 * and the shard and offset of the first bad access (see G-51), or false when all is well. */
bool gguf_lost(const struct gguf *g, int *shard, uint64_t *offset);

/* Are the files still those that were opened: same size, same time of change (G-05)? Costs one
 * system call per shard: for the end of loading and before saving, not for each token. ERR_RUN
 * naming the file otherwise. */
bool gguf_unchanged(const struct gguf *g, struct error *err);

#endif
